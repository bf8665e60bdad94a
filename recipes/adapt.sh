#!/usr/bin/env bash
# Adapt a base model to the tasks of a corpus, from its recordings to a report. Run it from egs/<corpus>.
#
#   1 prepare data   2 validate   3 features and CMVN   4 SpecAugment   5 base model   6 adapter training
#   7 decoding       8 scoring    9 report
#
# A finished stage can run again and changes nothing; a stopped one goes on where it was.
# With --adapter "hra tpa" --seeds "1 2 3" stages 6 to 9 are over each of them: exp/hra/1, exp/hra/2 ...
# With --augment "plain mixed" they are over adapters trained with each augmentation, or over base models with --adapt false.

set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
config=                          # the experiment's yaml
corpus=                          # folder of the corpus as distributed, where the recipe does not make it
sets="train valid test"          # data sets that local/prepare.py makes
test_sets="test"                 # those to decode and score with the base model and with adapters
base_test_sets=                  # those to decode and score with the base model alone
train_base=true                  # train the base model of the yaml; false takes the one that lies there
adapt=true                       # train and decode adapters; false stops at the base model
adapter=                         # yaml files of conf/adapters in place of the config's adapters, or all
augment=                         # policies of conf/augment in place of the config's augmentation
seeds=1                          # with --adapter or --augment: seeds to train each of them with, as in "1 2 3"
exp=exp/residual                 # folder of the experiment, where neither is given
expdir=exp                       # folder of the experiments otherwise, of the base model alone and of reports
minus="residual full plain mixed mixed_mild" # of several experiments: those that the others are compared with, where they are there
prepare_options=                 # further words for local/prepare.py
set=                             # changes of the yaml, as in "train.lr=1e-4 train.max_epochs=5"
stage=1                          # first stage to run
stop_stage=9                     # last stage to run
nj=2                             # jobs for features
jobs=1                           # adapter trainings and decodings at a time, which share the cores
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty runs here
# end

. "$recipes/lib.sh"
parse_options "$recipes/adapt.sh" "$@"
need_adaptkit
[ -n "$config" ] || die 2 "--config is needed; see --help"
read -r -a run <<<"${cmd:-$recipes/run.sh}"
read -r -a prepare <<<"$prepare_options"
overrides=()
for word in $set; do overrides+=(--set "$word"); done
none=$expdir/none
experiments=()
[ "$adapter" != all ] || [ -d conf/adapters ] || die 2 "--adapter all: there is no conf/adapters here; name some"
[ "$adapter" != all ] || adapter=$(find conf/adapters -name '*.yaml' -exec basename {} .yaml \; | LC_ALL=C sort)
for name in $adapter; do find_adapter "$name" >/dev/null; done
[ -z "$adapter" ] || [ -z "$augment" ] || die 2 "give --adapter or --augment, not both"
[[ " $augment " != *" own "* ]] || die 2 "--augment names policies of conf/augment; 'own' is said in the yaml"
[ -z "$augment" ] || [[ $set != *augment* ]] || die 2 "--augment and --set both change the augmentation; write a policy"
varied=$adapter$augment
for seed in $seeds; do  # one seed of all, then the next, so that a stopped comparison is whole for some seeds
  for name in $varied; do experiments+=("$expdir/$name/$seed"); done
done
[ -n "$varied" ] || experiments=("$exp")
bases=()  # base models in the place of experiments
if ! $adapt; then
  [ -z "$augment" ] || bases=("${experiments[@]}")
  experiments=()
fi
alone="$base_test_sets $test_sets"  # decoded with the one base model alone
[ "${#bases[@]}" = 0 ] || alone=

choose() {  # folder of an experiment: what --adapter or --augment says of it
  local name seed
  name=$(basename "$(dirname "$1")") seed=$(basename "$1") chosen=()
  [ -z "$adapter" ] || chosen=(--adapter "$(find_adapter "$name")" --seed "$seed")
  [ -z "$augment" ] || chosen=(--augment "$name" --seed "$seed")
}

train() {  # folder of an experiment
  local chosen
  choose "$1"
  "${run[@]}" "$1/log/train.log" adaptkit train "$config" "${chosen[@]}" --exp "$1" --resume "${overrides[@]}"
}

train_one_base() {  # folder of a base model
  local chosen
  choose "$1"
  "${run[@]}" "$1/log/train.log" adaptkit base train "$config" "${chosen[@]}" --exp "$1" --resume "${overrides[@]}"
}

decode() {  # folder of an experiment or a base model
  for name in $test_sets; do
    "${run[@]}" "$1/log/$name.log" adaptkit decode "$1" "dump/$name" --out "$1/decode_$name"
  done
}

score() {  # folder of an experiment or a base model
  local compare=()
  for name in $test_sets; do
    [ -z "$alone" ] || compare=(--compare "$none/decode_$name")
    adaptkit score "data/$name" "$1/decode_$name" "${compare[@]}"
  done
}

is_scored() {  # folder of an experiment or a base model: on every test set
  for name in $test_sets; do [ -f "$1/decode_$name/score.json" ] || return 1; done
}

if is_stage 1 "prepare data"; then
  "${run[@]}" data/log/prepare.log python local/prepare.py ${corpus:+"$corpus"} data "${prepare[@]}"
fi

if is_stage 2 "validate"; then
  for name in $sets; do adaptkit data validate "data/$name"; done
fi

if is_stage 3 "features and CMVN"; then
  for name in $sets; do
    "${run[@]}" "dump/log/$name.log" \
      adaptkit feats "data/$name" "dump/$name" --nj "$nj" --cmvn "dump/$name/feats_stats.npz"
  done
fi

if is_stage 4 "SpecAugment"; then
  shown=("$config" "${overrides[@]}")
  [ -z "$augment" ] || read -r -a shown <<<"$augment"
  adaptkit augment show "${shown[@]}" --data "dump/${sets%% *}" --out "$expdir/augment"
fi

if is_stage 5 "base model" && $train_base; then
  if [ "${#bases[@]}" = 0 ]; then
    "${run[@]}" "$expdir/log/base.log" adaptkit base train "$config" --resume "${overrides[@]}"
  else
    for_each train_one_base "${bases[@]}"
  fi
fi

if is_stage 6 "adapter training"; then
  for_each train "${experiments[@]}"
fi

if is_stage 7 "decoding"; then
  for name in $alone; do
    "${run[@]}" "$none/log/$name.log" adaptkit decode "$config" "dump/$name" --base-only --out "$none/decode_$name"
  done
  for_each decode "${experiments[@]}" "${bases[@]}"
fi

if is_stage 8 "scoring"; then
  for name in $alone; do adaptkit score "data/$name" "$none/decode_$name"; done
  for_each score "${experiments[@]}" "${bases[@]}"
fi

if is_stage 9 "report"; then
  for name in $base_test_sets; do adaptkit report "$none" --set "$name"; done
  several=()
  for name in $test_sets; do several+=(--set "$name"); done
  reported=("${experiments[@]}" "${bases[@]}") compared=()
  if [ -n "$varied" ]; then  # with those of other calls, or one would be reported by itself
    reported=()
    for folder in "$expdir"/*/[0-9]*; do
      if is_scored "$folder"; then reported+=("$folder"); fi
    done
    for other in $minus; do
      [[ " ${reported[*]}" != *" $expdir/$other/"* ]] || compared+=(--minus "$other")
    done
  fi
  [ -z "$alone" ] || reported=("$none" "${reported[@]}") compared=(--minus none "${compared[@]}")
  for name in $test_sets; do
    adaptkit report "${reported[@]}" --set "$name" "${compared[@]}"
    for form in md html; do
      output=$expdir/report_$name.$form
      adaptkit report "${reported[@]}" --set "$name" "${compared[@]}" --format "$form" --output "$output"
      say "wrote $output"
    done
  done
  if [ "${#several[@]}" -gt 2 ]; then
    adaptkit report "${reported[@]}" "${several[@]}" "${compared[@]}" --format md --output "$expdir/report.md"
    say "wrote $expdir/report.md, all sets side by side"
  fi
fi
