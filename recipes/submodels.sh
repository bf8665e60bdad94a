#!/usr/bin/env bash
# Train Submodels of many speakers and enroll new ones, from recordings to reports. Run it from egs/<corpus>.
#
#   1 data, features and base model   2 one job for all speakers   3 one job per speaker, for a few   4 speaker embeddings
#   5 a shared adapter, and per-speaker weights and speaker embeddings that start from it
#   6 enrolment of new speakers       7 decoding and scoring       8 every Submodel on every speaker  9 reports
#
# Running a finished stage again changes nothing; an interrupted stage resumes.

set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
config=conf/submodels.yaml       # yaml of the one job; those with speaker embeddings and for one speaker are derived from it
base_config=                     # yaml of the base model to train; empty uses the one in its folder
corpus=                          # folder of the corpus as distributed, unless the recipe makes the corpus
prepare_options=                 # further options of local/prepare.py
bins=80                          # Mel bins of the features
sets="train valid test"          # data sets that local/prepare.py makes
known=                           # list of the speakers to train, if sets hold others: makes dump/known_<set>
new=                             # list of the speakers to enroll, if sets hold others: makes dump/new_<set>
train=train                      # set that the yaml trains on
valid=valid                      # set that the yaml validates on
test=test                        # set of the same speakers, to decode and score
few=                             # list of the speakers that also get a separate job
enroll=new_train                 # set of new speakers, to enroll them from
new_test=new_test                # set of new speakers, to decode and score
base_test=                       # data directory of the base model's own speakers, with features
cross=2                          # utterances of each speaker that every Submodel transcribes
embeddings="4 16 64"             # dimensions of the speaker embeddings, one training each
two_stage_embeddings="16"        # dimensions of those that start from the shared adapter
counts="1 5 20 100"              # numbers of utterances to enroll a new speaker with
starts="mean nearest"            # starts of enrolment, except in two-stage training: mean, nearest or new
routes="embedding likelihood"    # routes by which unnamed speakers get two-stage weights
nearest=5                        # nearest voices among which likelihood chooses
expdir=exp/submodels             # folder of the experiments and of reports
set=                             # changes to the yaml, as in "train.lr=1e-4 train.max_epochs=5"
embedding_set=                   # further changes for speaker embeddings
shared_set=                      # further changes for the shared adapter
two_stage_set=                   # further changes for adapters that start from it; speaker embeddings get embedding_set too
enroll_set=                      # further changes for enrolment, of train.* only
stage=1                          # first stage to run
stop_stage=9                     # last stage to run
nj=2                             # parallel jobs for features
jobs=1                           # parallel trainings and decodings, which share the cores
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty: this machine
# end

. "$recipes/lib.sh"
parse_options "$recipes/submodels.sh" "$@"
need_adaptkit
[ -f "$config" ] || die 2 "no $config here; --config names the yaml"
[ -f "$few" ] || die 2 "--few: no list '$few'; name one with one speaker per line"
[ -z "$known" ] || [ -n "$new" ] || die 2 "--known needs --new too, for the other speakers"
[ -z "$new" ] || [ -n "$known" ] || die 2 "--new needs --known too, for the speakers to train"
run=("$recipes/run_local.sh")
[ -z "$cmd" ] || read -r -a run <<<"$cmd"
overrides=() base_overrides=() embedding_overrides=() shared_overrides=() two_stage_overrides=() enroll_overrides=()
add_changes
base_set=${base_overrides[*]/#--set/}
for word in $embedding_set; do embedding_overrides+=(--set "$word"); done
for word in $shared_set; do shared_overrides+=(--set "$word"); done
for word in $two_stage_set; do two_stage_overrides+=(--set "$word"); done
for word in $enroll_set; do enroll_overrides+=(--set "$word"); done
mapfile -t speakers < <(cut -d' ' -f1 "$few")
trained=("$expdir/one_job")
for size in $embeddings; do trained+=("$expdir/space_$size"); done
second=("$expdir/two_stage")  # experiments that start from the shared adapter
for size in $two_stage_embeddings; do second+=("$expdir/two_stage_space_$size"); done
enrolled=()  # as in exp/submodels/space_16_nearest_5 and exp/submodels/two_stage_shared_5
for count in $counts; do
  for start in $starts; do enrolled+=("${trained[@]/%/_${start}_$count}"); done
  enrolled+=("${second[@]/%/_shared_$count}")
done
known_decoded=("$expdir/none" "$expdir/shared" "${trained[@]}" "${second[@]}")
few_decoded=("$expdir/none" "$expdir/shared" "$expdir/one_job" "$expdir/each_job" "$expdir/two_stage")
new_decoded=("$expdir/none" "$expdir/shared" "${enrolled[@]}")
for method in $routes; do
  known_decoded+=("$expdir/routed_$method" "$expdir/routed_${method}_without_own")
  new_decoded+=("$expdir/routed_$method")
done
decoded=("${known_decoded[@]/%//decode_$test}" "${few_decoded[@]/%//decode_few_$test}" "${new_decoded[@]/%//decode_$new_test}")

prepare() {  # first and last stage of the recipe that makes data and the base model
  local trains=true
  [ -n "$base_config" ] || trains=false
  "$recipes/adapt.sh" --config "${base_config:-$config}" --train-base "$trains" --adapt false --corpus "$corpus" \
    --prepare-options "$prepare_options" --sets "$sets" --bins "$bins" --set "$base_set" --nj "$nj" --cmd "$cmd" \
    --stage "$1" --stop-stage "$2"
}

train_alone() {  # a speaker, whose name may be a number; Kaldi's run.pl keeps the quotes around it because of the space
  local data=dump/alone/$1 exp=$expdir/jobs/$1
  adaptkit data subset "dump/$train" "$data/train" --spk-list <(echo "$1")
  adaptkit data subset "dump/$valid" "$data/valid" --spk-list <(echo "$1")
  "${run[@]}" "$exp/log/train.log" adaptkit train "$config" --exp "$exp" --resume "${overrides[@]}" \
    --set "name= '$1'" --set "data.train=$data/train" --set "data.valid=$data/valid"
}

train_embedding() {  # dimensions; optionally, prefix of the name and words for adaptkit train
  local name=${2-}space_$1
  "${run[@]}" "$expdir/$name/log/train.log" adaptkit train "$config" --exp "$expdir/$name" --resume "${overrides[@]}" \
    --set "name=$name" --set adapters.0.bank=space --set "adapters.0.space_dim=$1" "${embedding_overrides[@]}" "${@:3}"
}

train_first() {  # the shared adapter
  "${run[@]}" "$expdir/shared/log/train.log" adaptkit train "$config" --shared --exp "$expdir/shared" --resume \
    "${overrides[@]}" --set name=shared "${shared_overrides[@]}"
}

train_second() {  # folder of an experiment that starts from it
  local name words=(--set "train.start=$expdir/shared" "${two_stage_overrides[@]}")
  name=$(basename "$1")
  case $name in
    *_space_*) train_embedding "${name##*_}" two_stage_ "${words[@]}" ;;
    *) "${run[@]}" "$1/log/train.log" adaptkit train "$config" --exp "$1" --resume "${overrides[@]}" \
      --set "name=$name" "${words[@]}" ;;
  esac
}

enroll() {  # folder of an enrolment
  local count=${1##*_} rest=${1%_*}
  "${run[@]}" "$1/log/enroll.log" adaptkit submodels enroll "${rest%_*}" \
    --data "dump/enroll_$count" --start "${rest##*_}" --out "$1" "${enroll_overrides[@]}"
}

route() {  # folder of a way to choose weights; sets the words for adaptkit decode
  local name=${1##*/routed_}
  how=("$expdir/two_stage" --route "${name%_without_own}")
  [[ $name != likelihood* ]] || how+=(--route-nearest "$nearest")
  [[ $name != *_without_own ]] || how+=(--route-without-own)
}

decode() {  # folder of hypotheses
  local folder set how
  folder=$(dirname "$1") set=${1##*/decode_}
  case $(basename "$folder") in
    none) how=("$config" --base-only "${base_overrides[@]}") ;;
    each_job) how=("$config" --submodels "$folder/submodels" "${base_overrides[@]}") ;;
    routed_*) route "$folder" ;;
    *) how=("$folder") ;;
  esac
  "${run[@]}" "$folder/log/$set.log" adaptkit decode "${how[@]}" "dump/$set" --out "$1"
}

report() {  # set, experiment to compare with, experiments
  local words=("${@:3}" --test-set "$1" --minus none --minus "$2")
  adaptkit report "${words[@]}"
  adaptkit report "${words[@]}" --format md --out "$expdir/report_$1.md"
  say "wrote $expdir/report_$1.md"
}

if is_stage 1 "data, features and base model"; then
  prepare 1 3
  prepare 5 5
  if [ -n "$known" ]; then
    for name in $sets; do
      adaptkit data subset "dump/$name" "dump/known_$name" --spk-list "$known"
      adaptkit data subset "dump/$name" "dump/new_$name" --spk-list "$new"
    done
  fi
fi

if is_stage 2 "one job for all speakers"; then
  "${run[@]}" "$expdir/one_job/log/train.log" \
    adaptkit train "$config" --exp "$expdir/one_job" --resume "${overrides[@]}" --set name=one_job
fi

if is_stage 3 "one job per speaker, for a few"; then
  for_each train_alone "${speakers[@]}"
  for name in "${speakers[@]}"; do adaptkit submodels export "$expdir/jobs/$name" "$expdir/each_job/submodels"; done
fi

if is_stage 4 "speaker embeddings"; then
  read -r -a sizes <<<"$embeddings"
  for_each train_embedding "${sizes[@]}"
fi

if is_stage 5 "one adapter for all speakers, and what starts from it"; then
  train_first
  for_each train_second "${second[@]}"
fi

if is_stage 6 "enrolment of new speakers"; then
  for count in $counts; do adaptkit data subset "dump/$enroll" "dump/enroll_$count" --per-spk "$count"; done
  for_each enroll "${enrolled[@]}"
fi

if is_stage 7 "decoding and scoring"; then
  adaptkit data subset "dump/$test" "dump/few_$test" --spk-list "$few"
  [ -z "$routes" ] || "${run[@]}" "$expdir/two_stage/log/embed.log" \
    adaptkit submodels embed "$expdir/two_stage" "dump/$train"
  for_each decode "${decoded[@]}"
  for folder in "${decoded[@]}"; do adaptkit score "dump/${folder##*/decode_}" "$folder"; done
fi

if is_stage 8 "every Submodel on every speaker"; then
  "${run[@]}" "$expdir/one_job/log/cross.log" \
    adaptkit submodels cross "$expdir/one_job" "dump/$test" --per-speaker "$cross"
  [ -z "$base_test" ] || "${run[@]}" "$expdir/one_job/log/cross_base.log" \
    adaptkit submodels cross "$expdir/one_job" "$base_test" --out "$expdir/one_job/cross_base"
fi

if is_stage 9 "reports"; then
  report "$test" one_job "${known_decoded[@]}"
  report "few_$test" one_job "${few_decoded[@]}"
  report "$new_test" none "${new_decoded[@]}"
  adaptkit submodels cost "$expdir/one_job" "${speakers[@]/#/$expdir/jobs/}" | tee "$expdir/cost.txt"
fi
