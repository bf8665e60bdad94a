#!/usr/bin/env bash
# AN4, real speech of 84 speakers: a base model from scratch, scored on the official test set.
#   ./run.sh --corpus /path/to/an4        (the folder that contains etc/; about an hour on two cores)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/an4.yaml --adapt false "$@"
