# shellcheck shell=bash
# Functions of the shell launchers; to be sourced.

dry_run='' workdir='' arguments=() others=()

# Prints a one-line error and exits with CODE, 2 by default.
fail() { # MESSAGE [CODE]
  echo "launch: $1" >&2
  exit "${2:-2}"
}

# Sets a variable for each flag, and `arguments` to the words after --. If the list of
# flags ends with *, sets `others` to the unknown ones.
read_flags() { # 'NAME_OF_A_SWITCH NAME_OF_A_FLAG_WITH_A_VALUE=...' WORDS...
  local flags=" $1 " flag value
  while shift && (($#)); do
    flag=${1#--} value=true
    case $1 in
      --) arguments=("${@:2}"); return ;;
      --*=*) value=${flag#*=} flag=${flag%%=*}= ;;
    esac
    if [[ $1 == --[a-z]* && $flags == *' * ' && $flags != *" $flag "* ]]; then
      others+=("$1")
      continue
    fi
    [[ $1 == --* && $flags == *" $flag "* ]] ||
      fail "$1: unknown; see --help. The flags of progdist train come after --"
    printf -v "${flag%=}" %s "$value"
  done
}

# Prints the section of the README and exits.
show_help() { # TITLE
  sed -n "/^## $1\$/,/^## /p" "${BASH_SOURCE[0]%/*}/README.md" | sed '$d'
  exit 0
}

# Prints words quoted for a shell.
quote() {
  local word line=''
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# Runs a command; in a dry run prints it instead.
execute() { if [[ $dry_run ]]; then quote "$@"; else "$@"; fi; }

# Fails if the pattern does not match the flag's value.
check() { # FLAG PATTERN EXAMPLE
  local value=${!1}
  [[ $value =~ ^($2)$ ]] || fail "--$1=$value: must look like $3"
}

# Sets `workdir`; refuses arguments of progdist train that cannot work on several
# machines.
check_arguments() { # ROOT_OF_THE_WORKDIR RULE
  local argument config=''
  for argument in "${arguments[@]}"; do
    case $argument in
      --config=?*) config=$argument ;;
      --workdir=gs://[a-z0-9]*[a-z0-9]/?* | --workdir="$1"/?*) workdir=${argument#*=} ;;
      --workdir=*) fail "$argument: must be gs://BUCKET/PATH or $2" ;;
      --distributed* | --coordinator=* | --num_processes=* | --process_id=*)
        fail "$argument: is set by the launcher" ;;
      --[a-z]*) ;;
      *) fail "'$argument' is not a flag; those of progdist train are --name=value" ;;
    esac
  done
  [[ $config ]] || fail '--config=... is missing after --'
  [[ $workdir ]] || fail '--workdir=... is missing after --'
}
