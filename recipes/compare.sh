#!/usr/bin/env bash
# Compare adapters or augmentations, each with several seeds, on the same base model and data. Run it from egs/<corpus>.
#
# It calls adapt.sh and has the same stages: 1 to 5 run once, 6 to 8 for every experiment, into exp/<name>/<seed>, and
# 7 and 8 for the base model alone too. Stage 9 reports all of them, with those of earlier calls. With --adapt false the
# experiments are base models, one for each augmentation and seed, and stages 5 to 8 run for each of them.
#
# Running a finished stage again changes nothing; an interrupted stage resumes.

set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
config=                          # yaml of the experiment
corpus=                          # folder of the corpus as distributed, unless the recipe makes the corpus
sets="train valid test"          # data sets that local/prepare.py makes
test_sets="test"                 # data sets to decode and score with every experiment
base_test_sets=                  # data sets to decode and score with the base model alone
train_base=true                  # train the base model of the yaml; false uses the one in its folder
base=                            # model tag or archive to import as the base model, in place of the yaml's
import_options=                  # further options of 'adaptkit base import', such as --download
features=true                    # extract features into dump/; false for a base model that reads speech, from data/
bins=80                          # Mel bins of the features
adapt=true                       # the experiments are adapters; false: base models, one for each of --augment
adapter=                         # adapters to compare, as in "hra tpa"; empty or all: every row of the yaml's 'compare:'
augment=                         # augmentations to compare in place of adapters: policies of conf/augment
seeds="1"                        # seeds of each training, as in "1 2 3"
minus="residual full plain mixed mixed_mild" # experiments to compare the others with, if present
expdir=exp                       # folder of the experiments, of the base model's results and of reports
prepare_options=                 # further options of local/prepare.py
set=                             # changes to the yaml, as in "train.lr=1e-4 train.max_epochs=5"
stage=1                          # first stage to run
stop_stage=9                     # last stage to run
nj=2                             # parallel jobs for features
jobs=1                           # parallel experiments, which share the cores
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty: this machine
# end

. "$recipes/lib.sh"
parse_options "$recipes/compare.sh" "$@"
need_adaptkit
need_config
need_policies
$adapt || [ -n "$augment" ] || die 2 "--adapt false compares base models over --augment, which is not given"
$adapt || $train_base || die 2 "--train-base has no effect with --adapt false, whose experiments are base models"
$adapt || [ -z "$base" ] || die 2 "--base has no effect with --adapt false, whose experiments are base models"
$adapt || [ -z "$base_test_sets" ] || die 2 "--base-test-sets has no effect with --adapt false; add them to --test-sets"
if [ -z "$augment" ] && [ "${adapter:-all}" = all ]; then
  adapter=$(list_rows "$config")
  [ -n "$adapter" ] || die 2 "--adapter all: $config has no section 'compare:'; name the adapters"
fi
for name in $adapter; do need_adapter "$name"; done
dump=dump
$features || dump=data
experiments=()  # name/seed; seed by seed, so that an interrupted comparison is complete for some seeds
for seed in $seeds; do
  for name in $adapter $augment; do experiments+=("$name/$seed"); done
done

adapt() {  # first and last stage, further options: those of these stages within --stage and --stop-stage
  "$recipes/adapt.sh" --config "$config" --corpus "$corpus" --sets "$sets" --test-sets "$test_sets" --expdir "$expdir" \
    --base "$base" --import-options "$import_options" --features "$features" --bins "$bins" \
    --prepare-options "$prepare_options" --set "$set" --nj "$nj" --cmd "$cmd" "${@:3}" \
    --stage "$((stage > $1 ? stage : $1))" --stop-stage "$((stop_stage < $2 ? stop_stage : $2))"
}

run_one() {  # experiment
  local name=${1%/*} seed=${1##*/} exp
  exp=$expdir/$(basename "$name" .yaml)/$seed
  if [ -n "$adapter" ]; then
    adapt 6 8 --decode-base false --adapter "$name" --seed "$seed" --exp "$exp"
  elif $adapt; then
    adapt 6 8 --decode-base false --augment "$name" --seed "$seed" --exp "$exp"
  else
    adapt 5 8 --adapt false --augment "$name" --seed "$seed" --exp "$exp"
  fi
}

is_scored() {  # folder of an experiment: on every test set that has references
  local name
  for name in $test_sets; do
    ! has_references "$name" || [ -f "$1/decode_$name/score.json" ] || return 1
  done
}

adapt 1 3
if [ -z "$augment" ]; then
  adapt 4 4
elif is_stage 4 "augmentation"; then
  read -r -a shown <<<"$augment"
  adaptkit augment show "${shown[@]}" --data "$dump/${sets%% *}" --out "$expdir/augment"
fi

! $adapt || adapt 5 8 --adapt false --train-base "$train_base" --base-test-sets "$base_test_sets"
[ "$stage" -gt 8 ] || for_each run_one "${experiments[@]}"

if is_stage 9 "report"; then
  for name in $base_test_sets; do
    ! has_references "$name" || adaptkit report "$expdir/none" --test-set "$name"
  done
  reported=() compared=()
  if $adapt; then reported=("$expdir/none") compared=(--minus none); fi
  for folder in "$expdir"/*/[0-9]*; do
    if is_scored "$folder"; then reported+=("$folder"); fi
  done
  for name in $minus; do
    [[ " ${reported[*]}" != *" $expdir/$name/"* ]] || compared+=(--minus "$name")
  done
  report_sets "${reported[@]}" "${compared[@]}"
fi
