#!/usr/bin/env bash
# AN4 with a model like those released for ESPnet: a hybrid base model and a language model, packed by ESPnet itself,
# imported and used for decoding.
#   ./hybrid.sh --corpus /path/to/an4        (the folder that contains etc/; half an hour on one core)
#
#   1 data   2 base model   3 language model   4 archive   5 import, decoding, scoring and report
#   6 the same beam searches by ESPnet's own inference: its WER, and its WER against adaptkit's texts, 0 if they are equal
#
# Running a finished stage again changes nothing; an interrupted stage resumes.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# options
corpus=                          # folder of AN4, which contains etc/
archive=exp/an4_hybrid.zip       # archive to write and import
search="greedy beam conf/beam_lm.yaml" # searches to decode the test set with
set=                             # changes of conf/hybrid.yaml, as in "base.train.max_epochs=5"
stage=1                          # first stage to run
stop_stage=6                     # last stage to run
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty: this machine
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
  python recipes/train_lm.py exp/hybrid data/train data/valid exp/lm
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

infer() {  # search, further options of ESPnet's inference
  local out=exp/archive/espnet/$1 model
  model=exp/archive/base/$(basename "$archive" .zip)
  if [ ! "$out/finished" -nt "$model/model.pth" ]; then
    python -m espnet2.bin.asr_inference --output_dir "$out" --beam_size 10 --ctc_weight 0.3 \
      --data_path_and_name_and_type data/test/wav.scp,speech,sound --key_file data/test/wav.scp \
      --asr_train_config "$model/config.yaml" --asr_model_file "$model/model.pth" "${@:2}"
    touch "$out/finished" # a killed inference leaves a part of the texts
  fi
  adaptkit score data/test "$out/1best_recog/text"
  adaptkit score "exp/archive/none/decode_test_$1/text" "$out/1best_recog/text"
}

if is_stage 6 "ESPnet's own inference"; then
  infer beam
  lm=exp/archive/base/$(basename "$archive" .zip)/lm
  infer beam_lm --lm_train_config "$lm/config.yaml" --lm_file "$lm/model.pth" --lm_weight 0.3
fi
