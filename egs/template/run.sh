#!/usr/bin/env bash
# A recipe for recordings of your own: adapters for each of their speakers, on an ESPnet model of your own.
#   ./run.sh --corpus /path/to/recordings
# First write the model's folder into conf/template.yaml as base.dir, and change local/prepare.py if your corpus is laid out
# differently. Data directories that you already have in Kaldi's form go to data/train, data/valid and data/test, and skip
# stage 1:   ./run.sh --stage 2
# A base model that reads speech, as released ones do, needs no features, which take space in dump/:
#   ./run.sh --features false --set "data.train=data/train data.valid=data/valid"
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/template.yaml --train-base false "$@"
