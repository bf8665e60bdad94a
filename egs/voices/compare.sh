#!/usr/bin/env bash
# Compare the adapters of conf/compare.yaml on 32 unusual synthetic voices, with three seeds each; about an hour on two
# cores with --jobs 2. Only some of them:   ./compare.sh --adapter "residual hra" --jobs 2
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec recipes/compare.sh --config conf/compare.yaml --prepare-options "--nj 2" --seeds "1 2 3" \
  --sets "base_train base_valid base_test adapt_train adapt_valid adapt_test new_train new_valid new_test" \
  --base-test-sets "base_test new_test" --test-sets adapt_test "$@"
