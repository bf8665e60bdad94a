#!/usr/bin/env bash
# Submodels of four speakers of the Free Spoken Digit Dataset, in one job and in one job per speaker, and enrolment of
# the other two.
#   ./submodels.sh --corpus /path/to/free-spoken-digit-dataset        (after egs/an4/run.sh, which trains the base model)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/submodels.sh --sets "train train_20 valid test" \
  --known lists/known_speakers.txt --new lists/new_speakers.txt \
  --train known_train_20 --valid known_valid --test known_test --few lists/known_speakers.txt \
  --enroll new_train --new-test new_test --base-test ../an4/dump/test --embeddings "2 4" \
  --two-stage-embeddings 4 --embedding-set train.lr=2e-3 --enroll-set "train.max_epochs=24 train.folds=null" "$@"
