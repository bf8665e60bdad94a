#!/usr/bin/env bash
# speechocean762, English read by native speakers of Mandarin: a base model of 59 of them, AN4 and synthetic voices, then
# adapters for 50 others. The base model is trained in rounds, each from the weights of the one before; the first uses only
# the synthetic voices. About an hour on two cores. Every round writes a base model (exp/base_voices, base_1, base_2, base)
# and resumes if interrupted.
#   ./run.sh --corpus /path/to/speechocean762 --prepare-options "--an4 /path/to/an4 --nj 2"
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
set -euo pipefail
[[ " $* " != *" --help "* && " $* " != *" -h "* ]] || exec recipes/adapt.sh --help
sets=$(cat lists/sets.txt)

round() {  # folder, epochs, further changes of the yaml
  recipes/adapt.sh --config conf/base.yaml --adapt false --sets "$sets" --stage 5 --stop-stage 5 --processes 2 \
    --set "base.dir=exp/$1 base.train.max_epochs=$2 ${*:3}"
}

recipes/adapt.sh --config conf/base.yaml --adapt false --sets "$sets" --bins 40 --stop-stage 3 "$@"
round base_voices 3 base.data.train=dump/voices_train base.data.valid=dump/voices_valid
round base_1 2 base.model=null base.init=exp/base_voices
round base_2 2 base.model=null base.init=exp/base_1
round base 3 base.model=null base.init=exp/base_2 base.train.batch_frames=8000 base.train.lr=1.5e-3
exec recipes/adapt.sh --config conf/compare.yaml --train-base false --sets "$sets" --test-sets adapt_test \
  --base-test-sets "base_valid new_test" --stage 4
