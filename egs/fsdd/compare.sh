#!/usr/bin/env bash
# The adapters of conf/compare.yaml side by side on six speakers of the Free Spoken Digit Dataset, 20 strings of digits per
# speaker, three seeds of each.
#   ./compare.sh --corpus /path/to/free-spoken-digit-dataset    (after egs/an4/run.sh, which trains the base model)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/compare.sh --config conf/compare.yaml --train-base false --seeds "1 2 3" \
  --sets "train train_20 valid test" "$@"
