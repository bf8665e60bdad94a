#!/usr/bin/env bash
# LibriSpeech with a released model: the recipe's own search on test-clean, then adapters for eight of its speakers, on the
# first minutes of what each reads.
#   ./run.sh --corpus /path/to/LibriSpeech --base /path/to/archive
#   ./run.sh --corpus /path/to/prepared/data --base OWNER/MODEL --import-options --download
# --search "greedy librispeech" decodes with both; librispeech is the released beam of 60 with a language model, which takes
# minutes per utterance on a CPU with a large model: --search beam is a beam of 10 without one.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/librispeech.yaml --train-base false --features false --sets "test_clean train valid test" \
  --base-test-sets test_clean --search librispeech "$@"
