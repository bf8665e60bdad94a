#!/usr/bin/env bash
# Free Spoken Digit Dataset in noise: adapters trained with each augmentation, 20 strings per speaker, tested on clean speech
# and at 20, 10, 5 and 0 dB SNR with unseen noises.
#   ./augment.sh --corpus /path/to/free-spoken-digit-dataset --prepare-options "--noise /path/to/noise"
# NOISE holds recordings <type>.wav and folders <type>/: here the backgrounds of Speech Commands v0.02 (arXiv:1804.03209) and
# clips of ESC-10 (doi 10.1145/2733373.2806390). Types helicopter, rain, exercise_bike and running_tap are kept for tests.
# Run egs/an4/augment.sh first; it trains the base model.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/compare.sh --config conf/augment.yaml --train-base false --jobs 2 --seeds "1 2 3" \
  --expdir exp/augment --minus "plain switchboard_mild mixed_mild" \
  --augment "plain switchboard_mild adapt_mild mtr stacked_mild mixed_mild" \
  --sets "train_20 valid test test_20db test_10db test_5db test_0db" \
  --test-sets "test test_20db test_10db test_5db test_0db" "$@"
