#!/usr/bin/env bash
# The one job of submodels.sh for 128 voices against a job for each of 4 voices with as many steps as it took for all.
#   ./budget.sh --jobs 2     (after ./submodels.sh)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/budget.sh --train many_train --valid many_valid --test many_test --few lists/random_4.txt "$@"
