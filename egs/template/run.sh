#!/usr/bin/env bash
# A recipe for recordings of your own: adapters for each of their speakers, on an ESPnet model of your own.
#   ./run.sh --corpus /path/to/recordings
# First write the model's folder into conf/template.yaml as base.dir, and change local/prepare.py where your corpus is laid
# out in another way. Data directories that Kaldi has made already go to data/train, data/valid and data/test; they need
# no stage 1:   ./run.sh --stage 2
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/template.yaml --train-base false "$@"
