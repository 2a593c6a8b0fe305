#!/usr/bin/env bash
# What launch/tpu_vm.sh has done on each worker of a slice, in its checkout there.
#
#   launch/tpu_worker.sh install PYTHON_VERSION
#   launch/tpu_worker.sh start SERVER:/SHARE MOUNT FLAGS_OF_PROGDIST_MAIN...
#   launch/tpu_worker.sh state      running, idle, absent, or ended CODE
#   launch/tpu_worker.sh stop       SIGTERM: saves, and ends with 143
#
# The trainer outlives the connection that starts it. ~/.progdist has its log, its exit
# code, and a lock that it holds for as long as it lives.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh
record=$HOME/.progdist

install() {
  python3 -m pip install --user --quiet 'uv>=0.8,<1'
  local uv=$HOME/.local/bin/uv constraints=.ci/constraints-$1.txt
  "$uv" venv --quiet --clear --python "$1" .venv
  if [[ -f $constraints ]]; then
    "$uv" pip install --quiet --python .venv/bin/python -c "$constraints" '.[tpu,tfds]'
  else
    "$uv" pip install --quiet --python .venv/bin/python '.[tpu,tfds]'
  fi
  touch .venv/complete
}

mount_share() {
  if ! mountpoint --quiet "$2"; then
    command -v mount.nfs >/dev/null || sudo apt-get install --yes --quiet nfs-common
    sudo mkdir -p "$2"
    sudo mount -t nfs -o nosuid,nodev "$1" "$2"
  fi
  [[ -w $2 ]] || sudo chown "$(id -u):$(id -g)" "$2"
}

start() {
  mount_share "$1" "$2"
  mkdir -p "$record"
  exec 9>"$record/lock"
  flock --nonblock 9 || fail 'is running already; see: status, stop'
  echo 137 >"$record/code" # what remains where nobody lives to write another
  setsid --fork launch/tpu_worker.sh attend "${@:3}" </dev/null >>"$record/log" 2>&1
}

# Not for the user: runs the trainer, and writes down how it ended.
attend() {
  # A machine that shuts down sends SIGTERM to both, and the trainer takes its time.
  trap ':' TERM HUP
  local code=0
  (
    echo "$BASHPID" >"$record/pid"
    exec .venv/bin/python -m progdist.main --distributed "$@"
  ) || code=$?
  echo "launch: ended with $code"
  echo "$code" >"$record/code"
}

is_running() { [[ -e $record/lock ]] && ! flock --nonblock "$record/lock" true; }

state() {
  if is_running; then
    echo 'progdist: running'
  elif [[ ! -e .venv/complete ]]; then
    echo 'progdist: absent'
  elif [[ -e $record/code ]]; then
    echo "progdist: ended $(<"$record/code")"
  else
    echo 'progdist: idle'
  fi
}

stop() {
  is_running || fail 'is not running'
  kill -TERM "$(<"$record/pid")"
}

case ${1:-} in
  install | start | state | stop | attend) "$@" ;;
  *) fail "${1:-nothing}: is not one of install, start, state, stop" ;;
esac
