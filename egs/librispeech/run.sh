#!/usr/bin/env bash
# LibriSpeech with a released model: decoding of test-clean with the recipe's own search, then adapters for eight of its
# speakers, trained on the first minutes of each.
#   ./run.sh --corpus /path/to/LibriSpeech --base /path/to/archive
#   ./run.sh --corpus /path/to/prepared/data --base OWNER/MODEL --import-options --download
# --search "greedy librispeech" decodes with both. librispeech is the recipe's beam of 60 with a language model, which takes
# minutes per utterance on a CPU with a large model; --search beam is a beam of 10 without a language model.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/adapt.sh --config conf/librispeech.yaml --train-base false --features false --sets "test_clean train valid test" \
  --base-test-sets test_clean --search librispeech "$@"
