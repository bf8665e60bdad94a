#!/usr/bin/env bash
# Submodels of 50 people: one job for all, and one job each for a random 8; a shared adapter and per-speaker weights that
# start from it; speaker embeddings; enrolment of 12 more people; and every Submodel on every speaker.
#   ./submodels.sh --corpus /path/to/speechocean762 --prepare-options "--an4 /path/to/an4" --jobs 2     (after ./run.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
. recipes/lib.sh
exec recipes/submodels.sh \
  --sets "$(cat lists/sets.txt)" --bins "$(bins_of conf/conformer_8x96_40bins.yaml)" \
  --train adapt_train --valid adapt_valid --test adapt_test --few lists/random_8.txt \
  --enroll new_train --new-test new_test --base-test dump/base_valid --embeddings "4 16" --counts "1 2 5 10" \
  --starts mean --embedding-set train.lr=[3.0e-5,1.0e-4] --shared-set train.lr=[3.0e-5,1.0e-4] --enroll-set train.lr=3.0e-4 "$@"
