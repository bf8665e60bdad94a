#!/usr/bin/env bash
# Free Spoken Digit Dataset: adapt the AN4 base model to six speakers with accents that it never heard, in one job.
#   ./run.sh --corpus /path/to/free-spoken-digit-dataset        (after egs/an4/run.sh, which trains the base model)
# One kind of adapter, or all of conf/adapters, with 20 strings a speaker and three seeds:
#   ./run.sh --config conf/compare.yaml --adapter hra           (after the command above, or with its --corpus)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec ../../recipes/adapt.sh --config conf/fsdd.yaml --train-base false --sets "train train_20 valid test" \
  --exp exp/residual_all --seeds "1 2 3" "$@"
