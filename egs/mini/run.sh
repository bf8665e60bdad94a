#!/usr/bin/env bash
# The embedded corpus: commands and digit strings synthesised by eSpeak NG. A base model learns 14 ordinary voices, then
# adapters learn 6 unusual ones, all in one job. Nothing is downloaded; it takes about seven minutes on two cores.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/mini.yaml --prepare-options "--nj 2" \
  --sets "base_train base_valid base_test adapt_train adapt_valid adapt_test" \
  --base-test-sets base_test --test-sets adapt_test "$@"
