#!/usr/bin/env bash
# The adapters of conf/compare.yaml side by side on 50 people whom the base model never heard, eight sentences each to adapt
# with, three seeds of each.
#   ./compare.sh --corpus /path/to/speechocean762 --prepare-options "--an4 /path/to/an4" --jobs 2     (after ./run.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/compare.sh --config conf/compare.yaml --train-base false --seeds "1 2 3" \
  --sets "$(cat lists/sets.txt)" \
  --test-sets adapt_test --base-test-sets "base_valid new_test" "$@"
