#!/usr/bin/env bash
# Compare ways to choose learning rate and epochs with 2, 5 and 10 utterances per speaker: on a held-out utterance or by
# folds, per speaker or for all together; 50 people, residual adapters that start from the base model or from a shared
# adapter. Print a report for each number of utterances, with the share of speakers who are worse than the base model.
#   ./few.sh "2 5 10"     (after ./compare.sh, which prepares the data and decodes with the base model)
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
set -euo pipefail
[[ " $* " != *" --help "* && " $* " != *" -h "* ]] || exec sed -n '2,/^cd/s/^# \{0,1\}//p' few.sh
counts=${*:-2 5 10}
rates='train.lr=[3.0e-4, 1.0e-3, 3.0e-3]'

train() {  # folder, then words of 'adaptkit train'
  [ -f "$1/run.json" ] || adaptkit train conf/compare.yaml --exp "$1" --resume --set "name=$(basename "$1")" "${@:2}"
  adaptkit decode "$1" dump/adapt_test --out "$1/decode_adapt_test"
  adaptkit score data/adapt_test "$1/decode_adapt_test" --compare exp/none/decode_adapt_test
}

adaptkit data combine dump/adapt_all dump/adapt_train dump/adapt_valid
for count in $counts; do
  all=dump/few/$count out=exp/few/$count
  adaptkit data subset dump/adapt_all "$all/all" --per-spk "$count"
  adaptkit data split "$all/all" "$all/train" "$all/valid" --per-spk "$((count - (count + 4) / 5))" --seed 1
  held=(--set "data.train=$all/train" --set "data.valid=$all/valid")
  folds=(--set "data.train=$all/all" --set data.valid=null --set "train.folds=$((count < 5 ? count : 5))")
  train "$out/one_rate" "${held[@]}"
  for select in speaker all; do
    train "$out/held_out_$select" "${held[@]}" --set "$rates" --set "train.select=$select"
    train "$out/folds_$select" "${folds[@]}" --set "$rates" --set "train.select=$select"
  done
  train "$out/shared" --shared "${held[@]}" --set "$rates"
  train "$out/two_stage" "${folds[@]}" --set "$rates" --set train.select=all --set "train.start=$out/shared" \
    --set train.weight_decay=0.1
  adaptkit report exp/none "$out"/* --test-set adapt_test --minus none
  adaptkit report exp/none "$out"/* --test-set adapt_test --minus none --format md --out "exp/few/report_$count.md"
done
