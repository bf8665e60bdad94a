#!/usr/bin/env bash
# Compare one job for all speakers with one job for each of a few, all with the same budget: each of these jobs takes as many
# steps as the one for all, with at least as many utterances in a step. Run it from egs/<corpus>, after submodels.sh.
#
#   1 a job for each speaker   2 decoding and scoring   3 report
#
# Running a finished stage again changes nothing; an interrupted stage resumes.

set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
config=conf/submodels.yaml       # yaml of the one job; those for one speaker are derived from it
train=train                      # set that the yaml trains on
valid=valid                      # set that the yaml validates on
test=test                        # set of the same speakers, to decode and score
few=                             # list of the speakers that get a separate job
validations=20                   # validations in each of their jobs; the best decides
expdir=exp/submodels             # folder with one_job; results go to its budget/
set=                             # changes to the yaml, as for submodels.sh
stage=1                          # first stage to run
stop_stage=3                     # last stage to run
jobs=1                           # parallel trainings, which share the cores
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty: this machine
# end

. "$recipes/lib.sh"
parse_options "$recipes/budget.sh" "$@"
need_adaptkit
need_config
[ -f "$few" ] || die 2 "--few: no list '$few'; name one with one speaker per line"
[ -f "$expdir/one_job/run.json" ] || die 1 "$expdir/one_job: not trained; submodels.sh does that"
run=("$recipes/run_local.sh")
[ -z "$cmd" ] || read -r -a run <<<"$cmd"
overrides=() base_overrides=()
add_changes
mapfile -t speakers < <(cut -d' ' -f1 "$few")
out=$expdir/budget

# Print the number of steps of the one job, and its mean number of utterances per step, rounded up.
read -r steps rows < <(
  python - "$expdir/one_job" "dump/$train" <<'END'
import sys
from pathlib import Path
from adaptkit.folders import RunFolder
from adaptkit.kaldi import datadir
from adaptkit.records import RunRecord
run = RunRecord.read(RunFolder(Path(sys.argv[1])).record)
print(run.steps, -(-len(datadir.read(Path(sys.argv[2])).utterances) * run.epochs // run.steps))
END
)

# Train a speaker alone. An epoch is one step, if all utterances are needed for as many as the one job's. The name may be a
# number; Kaldi's run.pl keeps the quotes around it because of the space.
train_alone() {  # a speaker
  local data=dump/alone/$1 exp=$out/jobs/$1 per_epoch count
  adaptkit data subset "dump/$train" "$data/train" --spk-list <(echo "$1")
  adaptkit data subset "dump/$valid" "$data/valid" --spk-list <(echo "$1")
  count=$(wc -l <"$data/train/utt2spk")
  per_epoch=$((count / rows > 1 ? count / rows : 1))
  "${run[@]}" "$exp/log/train.log" adaptkit train "$config" --exp "$exp" --resume "${overrides[@]}" \
    --set "name= '$1'" --set "data.train=$data/train" --set "data.valid=$data/valid" --set train.batch_frames=1000000 \
    --set "train.task_utterances=$(((count + per_epoch - 1) / per_epoch))" \
    --set "train.max_epochs=$((steps / per_epoch))" --set "train.valid_every=$((steps / per_epoch / validations + 1))"
}

decode() {  # folder of an experiment, further words of 'adaptkit decode'
  local out=$1/decode_budget_$test
  "${run[@]}" "$1/log/budget_$test.log" adaptkit decode "${@:2}" "dump/budget_$test" --out "$out"
  adaptkit score "dump/budget_$test" "$out"
}

if is_stage 1 "one job per speaker, of $steps steps of at least $rows utterances or all of the speaker's"; then
  for_each train_alone "${speakers[@]}"
  for name in "${speakers[@]}"; do adaptkit submodels export "$out/jobs/$name" "$out/submodels"; done
fi

if is_stage 2 "decoding and scoring"; then
  adaptkit data subset "dump/$test" "dump/budget_$test" --spk-list "$few"
  decode "$expdir/none" "$config" --base-only "${base_overrides[@]}"
  decode "$expdir/one_job" "$expdir/one_job"
  decode "$out/own_jobs" "$config" --submodels "$out/submodels" "${base_overrides[@]}"
fi

if is_stage 3 "report"; then
  words=("$expdir/none" "$expdir/one_job" "$out/own_jobs" --test-set "budget_$test" --minus none --minus one_job)
  adaptkit report "${words[@]}"
  adaptkit report "${words[@]}" --format md --out "$out/report_$test.md"
  adaptkit submodels cost "$expdir/one_job" "${speakers[@]/#/$out/jobs/}" | tee "$out/cost.txt"
fi
