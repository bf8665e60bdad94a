#!/usr/bin/env bash
# The larger embedded corpus: commands and digit strings synthesised by eSpeak NG. A base model learns 14 ordinary voices,
# then adapters learn 32 unusual ones, all in one job; 8 more are held out from both. Nothing is downloaded. To train
# other adapters, name a row of conf/compare.yaml:   ./run.sh --adapter hra
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/compare.yaml --prepare-options "--nj 2" \
  --sets "base_train base_valid base_test adapt_train adapt_valid adapt_test new_train new_valid new_test" \
  --base-test-sets "base_test new_test" --test-sets adapt_test "$@"
