#!/usr/bin/env bash
# Submodels of 50 people: one job for all against a job each for a random 8, one adapter for all and per-speaker weights that
# start from it, speaker embeddings, the enrolment of 12 more, and every Submodel on every speaker.
#   ./submodels.sh --corpus /path/to/speechocean762 --prepare-options "--an4 /path/to/an4" --jobs 2     (after ./run.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/submodels.sh \
  --sets "$(cat lists/sets.txt)" \
  --train adapt_train --valid adapt_valid --test adapt_test --few lists/random_8.txt \
  --enroll new_train --new-test new_test --base-test dump/base_valid --embeddings "4 16" --counts "1 2 5 10" "$@"
