#!/usr/bin/env bash
# Compare the adapters of conf/compare.yaml on 50 people new to the base model, with eight sentences per person and three
# seeds each.
#   ./compare.sh --corpus /path/to/speechocean762 --prepare-options "--an4 /path/to/an4" --jobs 2     (after ./run.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
. recipes/lib.sh
exec recipes/compare.sh --config conf/compare.yaml --train-base false --seeds "1 2 3" \
  --sets "$(cat lists/sets.txt)" --bins "$(bins_of conf/conformer_8x96_40bins.yaml)" \
  --minus "residual full hra_no_recurrence" \
  --test-sets adapt_test --base-test-sets "base_valid new_test" "$@"
