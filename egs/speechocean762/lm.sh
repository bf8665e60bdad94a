#!/usr/bin/env bash
# What adapters gain where the search has a language model: CTC prefix search with one of the base model's own training
# texts, for the base model and for adapters of compare.sh.
#   ./lm.sh --jobs 2     (after ./compare.sh)
#
#   1 language model   2 decoding and scoring   3 report
#
# A language model that is finished is kept.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# options
adapter="residual lora tpa"      # adapters to decode with, rows of conf/compare.yaml that compare.sh has trained
seed=1                           # which training of each
search=conf/beam_lm.yaml         # search with the language model
stage=1                          # first stage to run
stop_stage=3                     # last stage to run
jobs=1                           # parallel decodings, which share the cores
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty: this machine
# end

. recipes/lib.sh
parse_options lm.sh "$@"
need_adaptkit
run=(recipes/run_local.sh)
[ -z "$cmd" ] || read -r -a run <<<"$cmd"
experiments=(exp/none)
for name in $adapter; do experiments+=("exp/$name/$seed"); done

decode() {  # folder of an experiment
  local words=("$1")
  [ "$1" != exp/none ] || words=(conf/compare.yaml --base-only)
  "${run[@]}" "$1/log/adapt_test_lm.log" adaptkit decode "${words[@]}" dump/adapt_test --out "$1/decode_adapt_test_lm" \
    --search "$search" --lm exp/lm
  adaptkit score data/adapt_test "$1/decode_adapt_test_lm" --compare "$1/decode_adapt_test"
}

if is_stage 1 "language model"; then
  "${run[@]}" exp/log/lm.log python recipes/train_lm.py exp/base dump/base_train dump/base_valid exp/lm
fi

if is_stage 2 "decoding and scoring"; then for_each decode "${experiments[@]}"; fi

if is_stage 3 "report"; then
  adaptkit report "${experiments[@]}" --test-set adapt_test_lm --minus none
  for form in md html; do
    adaptkit report "${experiments[@]}" --test-set adapt_test_lm --minus none --format "$form" --out "exp/report_adapt_test_lm.$form"
  done
fi
