#!/usr/bin/env bash
# Run a command on this machine, in the style of Kaldi's run.pl: run_local.sh [JOB=1:4] LOG COMMAND...
# Its output goes to LOG and to the terminal; jobs of an array run in parallel, with JOB replaced by each number.
set -euo pipefail

run_one() {  # LOG COMMAND...
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  printf '# %s\n' "$*" >"$log"
  "$@" 2>&1 | tee -a "$log"
}

if [[ ${1:-} =~ ^([A-Za-z]+)=([0-9]+):([0-9]+)$ ]]; then
  name=${BASH_REMATCH[1]} first=${BASH_REMATCH[2]} last=${BASH_REMATCH[3]}
  shift
  pids=() failed=0
  for job in $(seq "$first" "$last"); do
    run_one "${@//$name/$job}" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  exit "$failed"
else
  run_one "$@"
fi
