#!/usr/bin/env bash
# Adapt a base model to the speakers of a corpus, from its recordings to a report. Run it from egs/<corpus>.
#
#   1 prepare data   2 validate   3 features and CMVN   4 augmentation   5 base model   6 adapter training
#   7 decoding       8 scoring    9 report
#
# Running a finished stage again changes nothing; an interrupted stage resumes. With --adapt false the experiment
# is the base model itself. compare.sh runs this for several adapters, augmentations and seeds.

set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# options
config=                          # yaml of the experiment
corpus=                          # folder of the corpus as distributed, unless the recipe makes the corpus
sets="train valid test"          # data sets that local/prepare.py makes
test_sets="test"                 # data sets to decode and score with the base model and with adapters
base_test_sets=                  # data sets to decode and score with the base model alone
train_base=true                  # train the base model of the yaml; false uses the one in its folder
base=                            # model tag or archive to import as the base model, in place of the yaml's
import_options=                  # further options of 'adaptkit base import', such as --download
features=true                    # extract features into dump/; false for a base model that reads speech, from data/
bins=80                          # Mel bins of the features
decode_base=true                 # decode and score with the base model alone too; false if that is already done
adapt=true                       # train and decode adapters; false stops at the base model
adapter=                         # adapters, if not the yaml's: a row of its 'compare:', a name in conf/adapters, or a type; its 'name:' stands for its own
augment=                         # augmentation, if not the yaml's: a policy of conf/augment
seed=                            # seed, if not the yaml's
search=                          # search, if not the yaml's: a name in conf/decode, a yaml, or auto; several are compared
lm=                              # folder of an ESPnet language model for the search
exp=                             # folder of the experiment; if empty, named after the adapters, augmentation and seed
expdir=exp                       # folder of all experiments, of the base model's results and of reports
prepare_options=                 # further options of local/prepare.py
set=                             # changes to the yaml, as in "train.lr=1e-4 train.max_epochs=5"
stage=1                          # first stage to run
stop_stage=9                     # last stage to run
nj=2                             # parallel jobs for features; with --cmd, jobs of an array
processes=1                      # processes in each training, by torchrun: as many as GPUs, or cores of a CPU
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty: this machine
# end

. "$recipes/lib.sh"
parse_options "$recipes/adapt.sh" "$@"
need_adaptkit
need_config
need_policies
$adapt || [ -z "$adapter" ] || die 2 "--adapter has no effect with --adapt false, which stops at the base model"
$adapt || [ -z "$base" ] || [ -z "$exp$augment$seed" ] ||
  die 2 "--exp, --augment and --seed train a base model with --adapt false, and --base imports one; leave them or --base out"
[ -z "$adapter" ] || need_adapter "$adapter"
run=("$recipes/run_local.sh")
[ -z "$cmd" ] || read -r -a run <<<"$cmd"
read -r -a prepare <<<"$prepare_options"
read -r -a import <<<"$import_options"
[ -z "$search" ] || read -r -a searches <<<"$search"
train=(adaptkit)
if [ "$processes" -gt 1 ]; then
  threads=${OMP_NUM_THREADS:-$((($(nproc) + processes - 1) / processes))}
  train=(env "OMP_NUM_THREADS=$threads" torchrun --standalone --nproc_per_node "$processes" -m adaptkit)
fi
dump=dump
$features || dump=data
overrides=() base_overrides=() chosen=()
if [ -n "$base" ]; then
  imported=$expdir/base/$(basename "$base" .zip) train_base=false
  overrides=(--set "base.dir=$imported") base_overrides=("${overrides[@]}")
fi
add_changes
[ -z "$adapter" ] || chosen+=(--adapter "$adapter")
[ -z "$augment" ] || chosen+=(--augment "$augment")
[ -z "$seed" ] || chosen+=(--seed "$seed")
decoded=$config none=$expdir/none base_log=$expdir/log/base.log base_chosen=()
is_base=false  # trained as a separate experiment, rather than in the yaml's base.dir
$adapt || [ -z "$exp$augment$seed" ] || is_base=true
name=${adapter:-${augment:-$(name_of "$config")}}
exp=${exp:-$expdir/$(basename "$name" .yaml)${seed:+/$seed}}
if $is_base; then
  decoded=$exp none=$exp base_log=$exp/log/train.log base_chosen=("${chosen[@]}" --exp "$exp") base_overrides=()
fi
decoded_alone="$base_test_sets $test_sets" adapted="$test_sets" reported=("$none" "$exp" --minus none)
$decode_base || decoded_alone=""
if ! $adapt; then adapted="" reported=("$none"); fi

if is_stage 1 "prepare data"; then
  "${run[@]}" data/log/prepare.log python local/prepare.py ${corpus:+"$corpus"} data "${prepare[@]}"
fi

validate() {  # set
  adaptkit data validate "data/$1"
}

extract() {  # set
  "$recipes/run_local.sh" "dump/log/$1.log" adaptkit feats "data/$1" "dump/$1" --num-bins "$bins" \
    --nj "$nj" ${cmd:+--cmd "$cmd"} --cmvn "dump/$1/feats_stats.npz"
}

# Call a function with each of $sets, with two at a time if there may be parallel jobs: one computes while another starts.
for_sets() (
  jobs=$((nj > 1 ? 2 : 1))
  read -r -a names <<<"$sets"
  for_each "$1" "${names[@]}"
)

if is_stage 2 "validate"; then for_sets validate; fi

if $features && is_stage 3 "features and CMVN"; then for_sets extract; fi

if is_stage 4 "augmentation"; then
  shown=("$config" "${overrides[@]}")
  [ -z "$augment" ] || shown=("$augment")
  adaptkit augment show "${shown[@]}" --data "$dump/${sets%% *}" --out "$expdir/augment"
fi

if [ -n "$base" ] && is_stage 5 "import of $base"; then
  "${run[@]}" "$expdir/log/import.log" adaptkit base import "$base" --out "$imported" "${import[@]}"
fi

if $train_base && is_stage 5 "base model"; then
  "${run[@]}" "$base_log" "${train[@]}" base train "$config" "${base_chosen[@]}" --resume "${overrides[@]}"
fi

if $adapt && is_stage 6 "adapter training in $exp"; then
  "${run[@]}" "$exp/log/train.log" "${train[@]}" train "$config" "${chosen[@]}" --exp "$exp" --resume "${overrides[@]}"
fi

decode() {  # folder, set, model, --base-only or nothing, further words of 'adaptkit decode'
  local by as
  for by in "${searches[@]}"; do
    as=$(name_decoded "$2" "$by")
    "${run[@]}" "$1/log/$as.log" adaptkit decode "$3" "$dump/$2" ${4:+"$4"} --out "$1/decode_$as" \
      ${by:+--search "$by"} ${lm:+--lm "$lm"} "${@:5}"
  done
}

score() {  # folder, set, folder to compare with
  local by as
  has_references "$2" || return 0
  for by in "${searches[@]}"; do
    as=$(name_decoded "$2" "$by")
    adaptkit score "data/$2" "$1/decode_$as" ${3:+--compare "$3/decode_$as"}
  done
}

if is_stage 7 "decoding"; then
  for name in $decoded_alone; do
    decode "$none" "$name" "$decoded" --base-only "${base_overrides[@]}"
  done
  for name in $adapted; do decode "$exp" "$name" "$exp" ""; done
fi

if is_stage 8 "scoring"; then
  for name in $decoded_alone; do score "$none" "$name" ""; done
  for name in $adapted; do score "$exp" "$name" "$none"; done
fi

if is_stage 9 "report"; then
  for name in $base_test_sets; do
    for by in "${searches[@]}"; do
      ! has_references "$name" || adaptkit report "$none" --test-set "$(name_decoded "$name" "$by")"
    done
  done
  report_sets "${reported[@]}"
fi
