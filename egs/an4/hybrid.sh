#!/usr/bin/env bash
# AN4 as ESPnet releases models: a hybrid base model and a language model, packed by ESPnet itself, imported and searched.
#   ./hybrid.sh --corpus /path/to/an4        (the folder that holds etc/; about an hour on one core)
#
#   1 data   2 base model   3 language model   4 archive   5 import, decoding, scoring and report
#
# A finished stage can run again and changes nothing; a stopped one goes on where it was.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# options
corpus=                          # folder of AN4, the one that contains etc/
archive=exp/an4_hybrid.zip       # archive to write and import
search="greedy beam conf/beam_lm.yaml" # searches to decode the test set with
set=                             # changes of conf/hybrid.yaml, as in "base.train.max_epochs=5"
stage=1                          # first stage to run
stop_stage=5                     # last stage to run
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty runs here
# end

. recipes/lib.sh
parse_options hybrid.sh "$@"
need_adaptkit

adapt() {  # first and last stage, further options of the recipe: a base model that reads speech, without adapters
  recipes/adapt.sh --config conf/hybrid.yaml --adapt false --features false --corpus "$corpus" --cmd "$cmd" \
    --stage "$1" --stop-stage "$2" --set "$set" "${@:3}"
}

if is_stage 1 "data"; then adapt 1 2; fi

if is_stage 2 "base model"; then adapt 4 5; fi

if is_stage 3 "language model"; then
  python local/train_lm.py exp/hybrid data/train data/valid exp/lm
fi

if is_stage 4 "archive"; then
  python -m espnet2.bin.pack asr --outpath "$archive" --option exp/hybrid/bpe.model \
    --asr_train_config exp/hybrid/config.yaml --asr_model_file exp/hybrid/model.pth \
    --lm_train_config exp/lm/config.yaml --lm_file exp/lm/valid.loss.ave.pth
fi

if is_stage 5 "import, decoding, scoring and report"; then
  set=
  adapt 5 9 --base "$archive" --search "$search" --expdir exp/archive
fi
