# What recipes share: options, messages, and where to run commands. Sourced by bash.

say() {  # one line of progress, on stderr like every message that is not a result
  printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2
}

die() {  # end with a message: 1 cannot, 2 misuse
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

# Set the variables that '--name value' words name; every name must be an option of the recipe.
parse_options() {
  local recipe=$1 name
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
        sed -n '/^# options/,/^# end/p' "$recipe" | grep -q "^$name=" || die 2 "no option $1; see --help"
        [ $# -ge 2 ] || die 2 "$1 needs a value"
        printf -v "$name" '%s' "$2"
        shift 2
        ;;
      *) die 2 "'$1' is not an option; see --help" ;;
    esac
  done
}

# Refuse to start without the program that every stage runs.
need_adaptkit() {
  command -v adaptkit >/dev/null || die 1 "adaptkit is not on PATH; 'make install' puts it into .venv/bin"
}

# Find out whether a stage is to be run, and say so.
is_stage() {
  [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] || return 1
  say "stage $1: $2"
}

# Threads that wait by spinning make training several times slower when another program wants a core too.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

# Name the yaml of an adapter: the corpus's own in conf/adapters, else the one that all share.
find_adapter() {
  local folder
  for folder in conf/adapters "$recipes/../conf/adapters"; do
    if [ -f "$folder/$1.yaml" ]; then
      echo "$folder/$1.yaml"
      return
    fi
  done
  die 1 "no conf/adapters/$1.yaml, here or in $(cd "$recipes/.." && pwd)"
}

# Call a function with each of several words, $jobs of them at a time; fail, at the end, if one of them did.
for_each() {
  local call=$1 running=0 failed=0 word
  shift
  [ "$jobs" = 1 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + jobs - 1) / jobs))}
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
