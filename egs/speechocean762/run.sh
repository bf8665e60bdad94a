#!/usr/bin/env bash
# speechocean762, English read by native speakers of Mandarin: a base model of 59 of them, AN4 and synthetic voices, then
# adapters for 50 others. The base model is trained in rounds, each from the weights of the one before; the first uses only
# the synthetic voices. About an hour on two cores. Every round writes a base model (exp/base_voices, base_1, base_2, base)
# and resumes if interrupted. The stages are those of recipes/adapt.sh.
#   ./run.sh --corpus /path/to/speechocean762 --prepare-options "--an4 /path/to/an4 --nj 2"

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# options
corpus=                          # folder of speechocean762, which contains WAVE/
prepare_options=                 # further options of local/prepare.py, such as "--an4 /path/to/an4"
stage=1                          # first stage to run
stop_stage=9                     # last stage to run
nj=2                             # parallel jobs for features; with --cmd, jobs of an array
processes=2                      # processes in each round of the base model
cmd=                             # Kaldi's run.pl, queue.pl or slurm.pl with its options; empty: this machine
# end

. recipes/lib.sh
parse_options run.sh "$@"
sets=$(cat lists/sets.txt)
bins=$(bins_of conf/conformer_8x96_40bins.yaml)

adapt() {  # yaml, first and last stage, further options: those of these stages within --stage and --stop-stage
  recipes/adapt.sh --config "$1" --sets "$sets" --corpus "$corpus" --prepare-options "$prepare_options" --bins "$bins" \
    --nj "$nj" --cmd "$cmd" --stage "$((stage > $2 ? stage : $2))" \
    --stop-stage "$((stop_stage < $3 ? stop_stage : $3))" "${@:4}"
}

round() {  # folder, epochs, further changes of the yaml
  adapt conf/base.yaml 5 5 --adapt false --processes "$processes" --set "base.dir=exp/$1 base.train.max_epochs=$2 ${*:3}"
}

adapt conf/base.yaml 1 3 --adapt false
round base_voices 3 base.data.train=dump/voices_train base.data.valid=dump/voices_valid
round base_1 2 base.model=null base.init=exp/base_voices
round base_2 2 base.model=null base.init=exp/base_1
round base 3 base.model=null base.init=exp/base_2 base.train.batch_frames=8000 base.train.lr=1.5e-3
adapt conf/compare.yaml 4 9 --train-base false --test-sets adapt_test --base-test-sets "base_valid new_test"
