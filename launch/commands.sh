# shellcheck shell=bash
# What the launchers in shell share; to be sourced.

dry_run=false

# One clear line for a mistake, and exit code 2.
fail() {
  echo "launch: $*" >&2
  exit 2
}

# Prints words as a shell reads them again, whatever is in them.
quote() {
  local separator='' word
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    printf '%s%s' "$separator" "$word"
    separator=' '
  done
}

# Runs a command; in a dry run prints it instead.
execute() {
  if $dry_run; then
    quote "$@"
    echo
  else
    "$@"
  fi
}

# check NAME VALUE PATTERN EXAMPLE: refuses a value that the pattern does not match.
check() {
  [[ $2 =~ ^($3)$ ]] || fail "$1=$2: must look like $4"
}

# Refuses arguments of progdist.main that cannot work on several machines.
check_arguments() {
  local argument config='' workdir=''
  for argument in "$@"; do
    case $argument in
      --config=?*) config=$argument ;;
      --workdir=*:*) fail "$argument: must be a path that is mounted on every machine" ;;
      --workdir=/?*) workdir=$argument ;;
      --workdir=*) fail "$argument: must be an absolute path on shared storage" ;;
      --distributed* | --coordinator=* | --num_processes=* | --process_id=*)
        fail "$argument: is set by the launcher" ;;
      --*=* | --no* | --[a-z]*) ;;
      *) fail "'$argument' is not a flag; those of progdist.main are --name=value" ;;
    esac
  done
  [[ -n $config ]] || fail '--config=... is missing after --'
  [[ -n $workdir ]] || fail '--workdir=... is missing after --'
}
