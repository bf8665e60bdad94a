#!/usr/bin/env bash
# Train three of the adapters of compare.sh on the two rounds before the last of the base model too, to see how the gain
# depends on the quality of the base model. The stages are those of recipes/compare.sh.
#   ./checkpoints.sh --jobs 2     (after ./run.sh)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# options
adapter="residual lora tpa"      # adapters to compare, rows of conf/compare.yaml
seeds="1"                        # seeds of each training, as in "1 2 3"
set=                             # changes to the yaml, as in "train.lr=1e-4 train.max_epochs=5"
stage=6                          # first stage to run
stop_stage=9                     # last stage to run
jobs=1                           # parallel experiments, which share the cores
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty: this machine
# end

. recipes/lib.sh
parse_options checkpoints.sh "$@"

for base in base_1 base_2; do
  recipes/compare.sh --config conf/compare.yaml --train-base false --adapter "$adapter" --seeds "$seeds" \
    --expdir "exp/on_$base" --set "base.dir=exp/$base $set" --sets "$(cat lists/sets.txt)" --test-sets adapt_test \
    --stage "$stage" --stop-stage "$stop_stage" --jobs "$jobs" --cmd "$cmd"
done
