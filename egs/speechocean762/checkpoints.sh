#!/usr/bin/env bash
# Train three of the adapters of compare.sh on the two rounds before the last of the base model too, to see how the gain
# depends on the quality of the base model.
#   ./checkpoints.sh --jobs 2     (after ./run.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
set -euo pipefail
[[ " $* " != *" --help "* && " $* " != *" -h "* ]] || exec recipes/compare.sh --help
for base in base_1 base_2; do
  recipes/compare.sh --config conf/compare.yaml --train-base false --adapter "residual lora tpa" --expdir "exp/on_$base" \
    --set "base.dir=exp/$base" --sets "$(cat lists/sets.txt)" --test-sets adapt_test --stage 6 "$@"
done
