#!/usr/bin/env bash
# AN4 in noise: a small base model for each augmentation, tested on clean speech and at 20, 10, 5 and 0 dB SNR with unseen
# noises, on single utterances and on utterances joined to up to 20 s.
#   ./augment.sh --corpus /path/to/an4 --prepare-options "--noise /path/to/noise"
# NOISE holds recordings <type>.wav and folders <type>/: here the backgrounds of Speech Commands v0.02 (arXiv:1804.03209) and
# clips of ESC-10 (doi 10.1145/2733373.2806390). Types helicopter, rain, exercise_bike and running_tap are kept for tests.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/compare.sh --config conf/augment.yaml --adapt false --jobs 2 \
  --expdir exp/augment --minus "plain switchboard_mild mixed_mild" \
  --augment "plain switchboard_mild adapt_mild mtr stacked_mild mixed_mild" \
  --sets "train_lengths valid_lengths test test_20db test_10db test_5db test_0db
    test_long test_long_20db test_long_10db test_long_5db test_long_0db" \
  --test-sets "test test_20db test_10db test_5db test_0db
    test_long test_long_20db test_long_10db test_long_5db test_long_0db" "$@"
