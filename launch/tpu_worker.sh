#!/usr/bin/env bash
# Runs the trainer on a worker of a TPU slice, for launch/tpu_vm.sh: COMMAND WORDS...
# The trainer outlives the connection that starts it. ~/.progdist holds its log, its exit
# code, and a lock that it holds while it lives.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh
record=$HOME/.progdist

install() { # PYTHON_VERSION
  python3 -m pip install --user --quiet 'uv>=0.8,<1'
  "$HOME/.local/bin/uv" venv --quiet --clear --python "$1" .venv
  "$HOME/.local/bin/uv" pip install --quiet --python .venv/bin/python \
    -c ".ci/constraints-$1.txt" '.[tpu,tfds,gcs]'
  touch .venv/complete
}

packages() { # VERB NAMES...; a fresh machine may still be installing others
  sudo apt-get -o DPkg::Lock::Timeout=300 --yes --quiet "$@"
}

mount_share() { # SERVER:/SHARE MOUNT
  if ! mountpoint --quiet "$2"; then
    command -v mount.nfs >/dev/null || { packages update && packages install nfs-common; }
    sudo mkdir -p "$2"
    sudo mount -t nfs -o nosuid,nodev "$1" "$2"
  elif [[ $(findmnt --noheadings --output=FSTYPE "$2") == fuse.gcsfuse ]]; then
    fail "$2: is a bucket mounted by gcsfuse; use --workdir=gs://BUCKET/PATH"
  fi
  [[ -w $2 ]] || sudo chown "$(id -u):$(id -g)" "$2"
}

# SERVER:/SHARE MOUNT MAX_HOURS COMMAND_THAT_DELETES_THE_SLICE FLAGS_OF_PROGDIST_MAIN...
# With a workdir in a bucket the first is empty, and the second the workdir.
start() {
  if [[ $1 ]]; then mount_share "$1" "$2"; fi
  mkdir -p "$record"
  exec 9>"$record/lock"
  flock --nonblock 9 || fail 'is running already; see: status, stop'
  echo 137 >"$record/code" # remains if no process lives to write another
  setsid --fork launch/tpu_worker.sh attend "${@:2}" </dev/null >>"$record/log" 2>&1
}

# Internal: runs the trainer, writes its exit code, and deletes the slice if it must.
attend() { # MOUNT_OR_WORKDIR MAX_HOURS COMMAND FLAGS...
  # A shutdown of the machine sends SIGTERM to both; the trainer takes longer.
  trap ':' TERM HUP
  local code=0
  (
    echo "$BASHPID" >"$record/pid"
    export JAX_PLATFORMS=tpu,cpu # never the CPU alone, in silence
    exec timeout --foreground --preserve-status --kill-after=600 "$2h" \
      .venv/bin/python -m progdist.main --distributed "${@:4}"
  ) || code=$?
  echo "launch: ended with $code"
  echo "$code" >"$record/code"
  if [[ $3 ]]; then
    local copy=(cp)
    if [[ $1 == gs://* ]]; then copy=(gcloud storage cp --quiet); fi
    "${copy[@]}" "$record/log" "$1/$HOSTNAME.log" || echo 'launch: the log was not copied'
    sleep "${SECONDS_BEFORE_DELETION:-60}" # the other workers are saving, too
    bash -c "$3" || echo 'launch: the slice was not deleted, and costs money'
  fi
}

is_running() { [[ -e $record/lock ]] && ! flock --nonblock "$record/lock" true; }

state() { # prints running, idle, absent, or ended CODE
  if is_running; then echo 'progdist: running'
  elif [[ ! -e .venv/complete ]]; then echo 'progdist: absent'
  elif [[ -e $record/code ]]; then echo "progdist: ended $(<"$record/code")"
  else echo 'progdist: idle'; fi
}

stop() { # the trainer saves and exits with 143
  is_running || fail 'is not running'
  kill -TERM "$(<"$record/pid")"
}

"$@"
