#!/usr/bin/env bash
# Runs the trainer on a slice of Cloud TPU VMs, from a machine that has gcloud.
# --help prints the section of launch/README.md.
set -euo pipefail
origin=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh

readonly max_failures=10 max_restarts=100
readonly archive=build/progdist.tar.gz worker=progdist/launch/tpu_worker.sh
name='' zone='' project='' type='' version='' nfs='' mount=/mnt/progdist python=3.12
from='' to='' spot='' internal='' poll_seconds=60

tpus() { # GROUP VERB WORDS...
  execute gcloud compute tpus "$@" "--zone=$zone" ${project:+"--project=$project"}
}

on_workers() { # WORKERS COMMAND_LINE
  tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2" ${internal:+--internal-ip}
}

create() {
  tpus "$group" create "$name" ${spot:+"--node-id=$name"} "--accelerator-type=$type" \
    ${internal:+--internal-ips} "--${spot:+runtime-}version=$version" ${spot:+--spot}
}

delete() { tpus "$group" delete "$name" ${spot:+--force} --quiet; }

install() {
  execute mkdir -p "${archive%/*}" &&
    execute git archive --format=tar.gz "--output=$archive" HEAD &&
    tpus tpu-vm scp "$archive" "$name:" --worker=all ${internal:+--internal-ip} &&
    on_workers all "mkdir -p progdist && tar -xzf ${archive##*/} -C progdist && \
$worker install $python"
}

run() { on_workers all "$(quote "$worker" start "$nfs" "$mount" "${arguments[@]}")"; }

# state_of GROUP FIELD: prints one word, or nothing if there is no slice.
state_of() { tpus "$1" list "--filter=name~/$name\$" "--format=value($2)"; }

states_of_slice() {
  if [[ $spot ]]; then state_of queued-resources state.state; fi
  state_of tpu-vm state
}

states_of_workers() {
  on_workers all "if [ -x $worker ]; then $worker state; else echo progdist: absent; fi"
}

# Takes the next missing step, in a loop; may be stopped and restarted.
watch() {
  local restarts=0 failures=0
  while ((failures < max_failures)); do
    if step; then failures=0; else echo "launch: failed $((++failures)) times" >&2; fi
    sleep "$poll_seconds"
  done
  fail "giving up: $max_failures failures in a row" 1
}

step() {
  local state=ACTIVE
  if [[ $spot ]]; then state=$(state_of queued-resources state.state) || return; fi
  if [[ $state == ACTIVE ]]; then state=$(state_of tpu-vm state) || return; fi
  echo "launch: $(date +%FT%T%z) slice ${state:-absent}"
  case $state in
    READY) step_of_run ;;
    '') count_restart && create ;;
    PREEMPTED | TERMINATED | SUSPENDED | FAILED) delete ;;
    STOPPED | STOPPING) fail 'giving up: the slice was stopped' 1 ;;
  esac
}

step_of_run() {
  local states code
  states=$(states_of_workers) || return
  if has running; then return; fi
  for code in 2 3 4 1 130; do
    if has "ended $code"; then fail "the run ended with $code" "$code"; fi
  done
  if has absent || [[ -z $states ]]; then install && run
  elif has idle; then run
  elif has 'ended [1-9][0-9]*'; then
    echo 'launch: a process was lost or preempted'
    count_restart && run
  else
    echo 'launch: the run has finished'
    exit
  fi
}

has() { grep -qxE "progdist: $1" <<<"$states"; }

count_restart() {
  if ((++restarts > max_restarts)); then fail "giving up: $max_restarts restarts" 1; fi
}

command=${1:---help}
case $command in
  --help | -h) show_help 'Cloud TPU VMs' ;;
  create | install | run | status | log | stop | fetch | delete | watch) shift ;;
  *) fail "$command: is not a command; see --help" ;;
esac
read_flags "name= zone= project= internal dry_run type= version= spot python= nfs= \
mount= from= to= poll_seconds=" "$@"
check name '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' my-slice
check zone '[a-z]+-[a-z]+[0-9]+-[a-z]' us-central2-b
check project '[a-z0-9.:-]*' my-project
check python '3\.1[123]' 3.12
check poll_seconds '[0-9]+(\.[0-9]+)?' 60
if [[ $command == @(create|watch) ]]; then
  check type '[a-z0-9]+-[0-9]+' v4-32
  check version '[a-zA-Z0-9._-]+' tpu-ubuntu2204-base
fi
if [[ $command == @(run|watch) ]]; then
  check nfs '[A-Za-z0-9.-]+:/[A-Za-z0-9_./-]*' 10.0.0.2:/share
  check mount '/[A-Za-z0-9_./-]+' /mnt/progdist
  check_arguments "$mount" "below the mount, $mount, which all workers share"
fi
group=tpu-vm
if [[ $spot ]]; then group=queued-resources; fi
case $command in
  status) states_of_slice && states_of_workers ;;
  log) on_workers 0 'tail -n 100 -F .progdist/log' ;;
  stop) on_workers 0 "$worker stop" ;;
  fetch)
    check from '/[A-Za-z0-9_./-]+' /mnt/progdist/W
    check to '.+' runs
    [[ $to == /* ]] || to=$origin/$to
    tpus tpu-vm scp "$name:$from" "$to" --recurse --worker=0 ${internal:+--internal-ip} ;;
  watch)
    [[ $dry_run ]] || watch # which exits
    for part in states_of_slice create delete states_of_workers install run; do
      echo "# $part" && "$part"
    done ;;
  *) "$command" ;;
esac
