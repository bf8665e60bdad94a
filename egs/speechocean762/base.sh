#!/usr/bin/env bash
# The base model of speechocean762: three rounds on 59 speakers of the corpus, AN4 and synthetic voices, each from the weights
# of the round before, after a round on the synthetic voices alone. About six hours of one core; every round is a base model
# of its own, exp/base_voices, base_1, base_2 and base, and is resumed where it stopped.
#   ./base.sh --corpus /path/to/speechocean762 --prepare-options "--an4 /path/to/an4 --nj 2"
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
sets="base_train base_valid voices_train voices_valid adapt_train adapt_valid adapt_test new_train new_test"
set -e
round() {  # folder, epochs, settings: --set of the recipe takes them as words
  recipes/adapt.sh --config conf/base.yaml --adapt false --set "base.dir=exp/$1 base.train.max_epochs=$2 ${*:3}" \
    --test-sets "" --base-test-sets "" --sets "$sets" --stage 5 --stop-stage 5
}
recipes/adapt.sh --config conf/base.yaml --adapt false --sets "$sets" --stop-stage 3 "$@"
round base_voices 3 base.data.train=dump/voices_train base.data.valid=dump/voices_valid
round base_1 3 base.model=null base.init=exp/base_voices
round base_2 6 base.model=null base.init=exp/base_1
round base 12 base.model=null base.init=exp/base_2
