# Functions shared by recipes: options, messages, where commands run, and reports. Sourced by bash.

say() {  # print a line of progress on stderr, like every message that is not a result
  printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2
}

die() {  # exit status, message: 1 for a failure, 2 for misuse
  printf '%s: %s\n' "$(basename "$0")" "$2" >&2
  exit "$1"
}

# Print the options of a recipe from the commented assignments between '# options' and '# end'.
print_options() {
  sed -n '/^# options/,/^# end/s/^\([a-z_]*\)=\([^#]*[^# ]\)\{0,1\} *# *\(.*\)/\1|\2|\3/p' "$1" |
    while IFS='|' read -r name value help; do
      printf '  --%-16s %s (default: %s)\n' "${name//_/-}" "$help" "${value:-none}"
    done
}

# Set the variables that '--name value' words name; every name must be an option of the recipe. A value must be true or
# false where the default is one of them, and a number where the default is one without quotes. Lists may have several
# lines, which 'read' would not take in.
parse_options() {
  local recipe=$1 name default
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$recipe"
        print_options "$recipe"
        exit 0
        ;;
      --*)
        name=${1#--}
        name=${name//-/_}
        default=$(sed -n '/^# options/,/^# end/p' "$recipe" | grep "^$name=") || die 2 "no option $1; see --help"
        [ $# -ge 2 ] || die 2 "$1 needs a value"
        case ${default#*=} in
          true* | false*) [[ $2 =~ ^(true|false)$ ]] || die 2 "$1: expected true or false, not '$2'" ;;
          [0-9]*) [[ $2 =~ ^[0-9]+$ ]] || die 2 "$1: expected a number, not '$2'" ;;
        esac
        printf -v "$name" '%s' "${2//$'\n'/ }"
        shift 2
        ;;
      *) die 2 "'$1' is not an option; see --help" ;;
    esac
  done
}

# Refuse to start without the program that every stage runs.
need_adaptkit() {
  command -v adaptkit >/dev/null || die 1 "adaptkit is not on PATH; activate the environment it is installed in"
}

# Refuse a missing yaml of an experiment.
need_config() {
  [ -n "$config" ] || die 2 "--config is needed; see --help"
  [ -f "$config" ] || die 2 "no $config here; --config names the yaml of an experiment"
}

# Refuse augmentations other than those shown by stage 4.
need_policies() {
  [ -z "$augment" ] || [ -z "$adapter" ] || die 2 "give --adapter or --augment, not both"
  [[ " $augment " != *" own "* ]] || die 2 "--augment names policies of conf/augment; the yaml says 'own'"
  [ -z "$augment" ] || [[ ! " $set" =~ [[:space:].]augment[.=] ]] || die 2 "--augment and --set both change the augmentation; write a policy"
}

# Add the changes in $set to overrides, and those of the base model to base_overrides too.
add_changes() {
  local word
  for word in $set; do
    overrides+=(--set "$word")
    [[ $word != base[.=]* ]] || base_overrides+=(--set "$word")
  done
}

# Print the name of an experiment, as its yaml gives it.
name_of() {
  sed -n "s/^name: *[\"']\{0,1\}\([A-Za-z0-9_.+-]*\).*/\1/p" "$1"
}

# Print the Mel bins that a base model reads, as its yaml gives them.
bins_of() {
  sed -n 's/^input_size: *\([0-9]\{1,\}\).*/\1/p' "$1"
}

# List the rows of the section 'compare:' of an experiment's yaml.
list_rows() {
  sed -n "/^compare:/,/^[a-z]/s/^  [\"']\{0,1\}\([A-Za-z0-9_.+-]*\)[\"']\{0,1\}:.*/\1/p" "$1"
}

# Refuse adapters unknown to 'adaptkit train --adapter'.
need_adapter() {
  [[ $1 != *.yaml ]] || [ ! -f "$1" ] || return 0
  ! list_rows "$config" | grep -qxF -- "$1" || return 0
  [ "$1" != "$(name_of "$config")" ] || ! grep -q '^adapters:' "$config" || return 0
  ! python -c 'import sys; from adaptkit.config import find_optional; sys.exit(not find_optional("adapters", sys.argv[1]))' \
    "$1" || return 0
  adaptkit adapters show "$1" >/dev/null || die 1 "--adapter $1: no such adapters, and no such row of 'compare:' in $config"
}

# Whether a stage is to be run; if so, announce it.
is_stage() {
  [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] || return 1
  say "stage $1: $2"
}

# Whether a set can be scored: its text exists and holds more than ids.
has_references() {  # set
  grep -qs '[^[:space:]][[:space:]]\{1,\}[^[:space:]]' "data/$1/text" && return 0
  say "data/$1 has no references; its hypotheses are in decode_$1 and are not scored"
  return 1
}

searches=("")  # to decode sets with; the empty one is the yaml's

# Print the name of a decoded set: that of the set, followed by the search, as in test_beam, if there are several.
name_decoded() {  # set, search
  if [ "${#searches[@]}" -gt 1 ]; then printf '%s_%s\n' "$1" "$(basename "$2" .yaml)"; else printf '%s\n' "$1"; fi
}

# Report scored runs on each of $test_sets, and on all of them together.
report_sets() {  # words of 'adaptkit report'
  local name by as form all=()
  for name in $test_sets; do
    has_references "$name" || continue
    for by in "${searches[@]}"; do
      as=$(name_decoded "$name" "$by")
      all+=(--test-set "$as")
      adaptkit report "$@" --test-set "$as"
      for form in md html; do
        adaptkit report "$@" --test-set "$as" --format "$form" --out "$expdir/report_$as.$form"
        say "wrote $expdir/report_$as.$form"
      done
    done
  done
  if [ "${#all[@]}" -gt 2 ]; then
    adaptkit report "$@" "${all[@]}" --format md --out "$expdir/report.md"
    say "wrote $expdir/report.md, all sets side by side"
  fi
}

# Threads that spin while waiting make training several times slower when another program needs a core.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

# Memory that glibc returns to the system after every step has to be cleared before its next use: training on a CPU then
# takes about 9 % longer. Kept, it makes the peak about 8 % higher.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0} MALLOC_TOP_PAD_=${MALLOC_TOP_PAD_:-200000000}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-20000000000}

# Call a function with each of several words, $jobs of them at a time; fail, at the end, if one of them did.
for_each() {
  local call=$1 running=0 failed=0 word
  shift
  [ "$jobs" = 1 ] || local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + jobs - 1) / jobs))}
  for word in "$@"; do
    if [ "$running" -ge "$jobs" ]; then
      wait -n || failed=1
      running=$((running - 1))
    fi
    "$call" "$word" &
    running=$((running + 1))
  done
  while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
  done
  [ "$failed" = 0 ] || die 1 "$call failed; its messages are above and in the log of its folder"
}
