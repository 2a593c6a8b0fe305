# shellcheck shell=bash disable=SC2154 # variables of launch/tpu_vm.sh
# Keeps a run going on a slice that may be preempted; part of launch/tpu_vm.sh.
#
# It looks, does the one thing that is missing, and looks again: so it may itself be
# ended and started at any time.

restarts=0 failures=0

watch() {
  local state
  while true; do
    state=$(slice_state) || state=UNKNOWN
    echo "launch: $(date +%FT%T%z) slice ${state:-not there}"
    case $state in
      READY) look_after_run || note_failure ;;
      '') count_restart && { create || note_failure; } ;;
      PREEMPTED | TERMINATED | SUSPENDED | FAILED) delete || note_failure ;;
      STOPPED | STOPPING) give_up 'the slice was stopped' ;;
      UNKNOWN) note_failure ;;
      *) failures=0 ;; # on its way
    esac
    sleep "$poll_seconds"
  done
}

# Does what the states of the workers call for; ends where the run has ended.
look_after_run() {
  local states code
  states=$(worker_states) || return
  failures=0
  if has "$states" running; then return; fi
  for code in 2 3 4 1 130; do
    if has "$states" "ended $code"; then
      echo "launch: the run ended with $code"
      exit "$code"
    fi
  done
  if has "$states" absent || [[ -z $states ]]; then
    install && start
  elif has "$states" idle; then
    start
  elif has "$states" 'ended [1-9][0-9]*'; then
    echo 'launch: a process was lost or preempted'
    count_restart
    start
  else
    echo 'launch: the run is done'
    exit 0
  fi
}

has() { grep --quiet --extended-regexp "^progdist: $2\$" <<<"$1"; }

count_restart() {
  restarts=$((restarts + 1))
  if ((restarts > max_restarts)); then give_up "$max_restarts restarts"; fi
}

note_failure() {
  failures=$((failures + 1))
  echo "launch: that failed ($failures of $max_failures)" >&2
  if ((failures >= max_failures)); then give_up "$max_failures failures in a row"; fi
}

give_up() {
  echo "launch: given up: $1" >&2
  exit 1
}

# What the above would run, in each case.
show_watch() {
  echo '# every time: the state of the slice'
  show_states
  echo '# where it is not there'
  create
  echo '# PREEMPTED, TERMINATED, SUSPENDED, FAILED'
  delete
  echo '# READY: the state of each worker'
  worker_states
  echo '# absent'
  install
  echo '# absent, idle, or ended because of a loss or a preemption'
  start
}
