#!/usr/bin/env bash
# Free Spoken Digit Dataset: adapt the AN4 base model to six speakers with accents new to it, in one job.
#   ./run.sh --corpus /path/to/free-spoken-digit-dataset        (after egs/an4/run.sh, which trains the base model)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/fsdd.yaml --train-base false --sets "train train_20 valid test" "$@"
