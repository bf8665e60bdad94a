#!/usr/bin/env bash
# Compare the adapters of conf/compare.yaml on six speakers of the Free Spoken Digit Dataset, with 20 strings of digits per
# speaker and three seeds each.
#   ./compare.sh --corpus /path/to/free-spoken-digit-dataset    (after egs/an4/run.sh, which trains the base model)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/compare.sh --config conf/compare.yaml --train-base false --seeds "1 2 3" \
  --sets "train train_20 valid test" "$@"
