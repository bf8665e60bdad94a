#!/usr/bin/env bash
# Submodels of 128 unusual voices: one job for all, compared with one job per voice for those of lists/random_16.txt;
# per-speaker weights, compared with speaker embeddings; and enrolment of 8 new voices. Nothing is downloaded; the base
# model is that of run.sh.
#   ./submodels.sh --jobs 2
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/submodels.sh --base-config conf/compare.yaml --prepare-options "--nj 2 --many" \
  --sets "base_train base_valid base_test many_train many_valid many_test enrol_train new_test" \
  --train many_train --valid many_valid --test many_test --few lists/random_16.txt \
  --enroll enrol_train --new-test new_test --base-test dump/base_test --embeddings "4 16 64" \
  --embedding-set train.lr=3e-3 --enroll-set "train.max_epochs=16 train.folds=null" "$@"
