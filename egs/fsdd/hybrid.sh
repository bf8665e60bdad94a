#!/usr/bin/env bash
# Free Spoken Digit Dataset on the imported archive of egs/an4/hybrid.sh: its search, with and without adapters, which are
# trained on 20 strings of digits per speaker.
#   ./hybrid.sh --corpus /path/to/free-spoken-digit-dataset        (after egs/an4/hybrid.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/hybrid.yaml --features false --base ../an4/exp/an4_hybrid.zip --expdir exp/hybrid \
  --sets "train train_20 valid test" --search "greedy beam ../an4/conf/beam_lm.yaml" "$@"
