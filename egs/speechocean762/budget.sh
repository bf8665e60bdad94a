#!/usr/bin/env bash
# Compare the one job of submodels.sh for 50 people with a separate job for each of 4 of them, each with as many steps as
# the one job.
#   ./budget.sh --jobs 2     (after ./submodels.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/budget.sh --train adapt_train --valid adapt_valid --test adapt_test --few lists/random_4.txt "$@"
