#!/usr/bin/env bash
# The one job of submodels.sh for 50 people against a job for each of 4 of them with as many steps as it took for all.
#   ./budget.sh --jobs 2     (after ./submodels.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/budget.sh --train adapt_train --valid adapt_valid --test adapt_test --few lists/random_4.txt "$@"
