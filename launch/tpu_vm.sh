#!/usr/bin/env bash
# The trainer on a slice of Cloud TPU VMs, from a machine that has gcloud.
#
#   launch/tpu_vm.sh COMMAND --name=N --zone=Z [--project=P] [--internal] [--dry_run] ...
#
#   create   --type=v4-32 --version=tpu-ubuntu2204-base [--spot]
#   install  [--python=3.12]     this checkout's HEAD, on every worker
#   run      --nfs=SERVER:/SHARE [--mount=/mnt/progdist] -- FLAGS_OF_PROGDIST_MAIN
#   status   the state of the slice, and of the trainer on each worker
#   log      follows what the first worker writes
#   stop     the trainer saves and ends
#   fetch    --from=/mnt/progdist/W --to=DIR
#   delete   [--spot]
#   watch    all of create, install and run: does what is missing, and again after a
#            preemption, until the run has ended; ends with its exit code
#
# --spot asks for it through the queue, and has to be said to delete and watch too.
# --internal gives the workers no external addresses, and connects to their internal
# ones. The workdir has to be below the mount: all workers write into it. --dry_run
# prints the commands and runs none.
set -euo pipefail
origin=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh

readonly max_failures=10 max_restarts=100
archive=build/progdist.tar.gz
name='' zone='' project='' type='' version='' nfs='' mount=/mnt/progdist python=3.12
from='' to='' spot=false internal=false poll_seconds=60

read_flags() {
  while (($#)); do
    case $1 in
      --name=* | --zone=* | --project=* | --type=* | --version=* | --nfs=* | --mount=* | \
        --python=* | --from=* | --to=* | --poll_seconds=*)
        local flag=${1%%=*}
        printf -v "${flag#--}" %s "${1#*=}"
        ;;
      --spot) spot=true ;;
      --internal) internal=true ;;
      --dry_run) dry_run=true ;;
      --) shift; arguments=("$@"); return ;;
      *) fail "$1: unknown; see --help. The flags of progdist.main come after --" ;;
    esac
    shift
  done
}

check_flags() {
  check --name "$name" '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' my-slice
  check --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' us-central2-b
  check --project "$project" '([a-z0-9.:-]*)' my-project
  check --python "$python" '3\.1[123]' 3.12
  check --poll_seconds "$poll_seconds" '[0-9]+(\.[0-9]+)?' 60
  case $command in create | watch)
    check --type "$type" '[a-z0-9]+-[0-9]+' v4-32
    check --version "$version" '[a-zA-Z0-9._-]+' tpu-ubuntu2204-base ;;
  esac
  case $command in run | watch)
    check --nfs "$nfs" '[A-Za-z0-9.-]+:/[A-Za-z0-9_./-]*' 10.0.0.2:/share
    check --mount "$mount" '/[A-Za-z0-9_./-]+' /mnt/progdist
    check_arguments "${arguments[@]}"
    check_workdir "${arguments[@]}" ;;
  esac
  if [[ $command == fetch ]]; then
    check --from "$from" '/[A-Za-z0-9_./-]+' /mnt/progdist/W
    check --to "$to" '.+' runs
    if [[ $to != /* ]]; then to=$origin/$to; fi
  fi
}

check_workdir() {
  local argument
  for argument in "$@"; do
    if [[ $argument == --workdir=* && $argument != "--workdir=$mount"/?* ]]; then
      fail "$argument: must be below the mount, $mount, which all workers share"
    fi
  done
}

tpus() { # GROUP VERB WORDS...
  local words=("--zone=$zone")
  if [[ -n $project ]]; then words+=("--project=$project"); fi
  execute gcloud compute tpus "$@" "${words[@]}"
}

on_workers() { # WORKERS COMMAND_LINE: a line for the shell there
  local words=("--worker=$1" "--command=$2")
  if $internal; then words+=(--internal-ip); fi
  tpus tpu-vm ssh "$name" "${words[@]}"
}

copy() { # FROM TO WORDS...
  local words=("${@:3}")
  if $internal; then words+=(--internal-ip); fi
  tpus tpu-vm scp "$1" "$2" "${words[@]}"
}

create() {
  local words=("--accelerator-type=$type")
  if $internal; then words+=(--internal-ips); fi
  if $spot; then
    tpus queued-resources create "$name" "--node-id=$name" "${words[@]}" \
      "--runtime-version=$version" --spot
  else
    tpus tpu-vm create "$name" "${words[@]}" "--version=$version"
  fi
}

install() {
  execute mkdir -p "${archive%/*}" &&
    execute git archive --format=tar.gz "--output=$archive" HEAD &&
    copy "$archive" "$name:" --worker=all &&
    on_workers all "mkdir -p progdist && tar -xzf ${archive##*/} -C progdist && \
progdist/launch/tpu_worker.sh install $python"
}

start() {
  on_workers all "$(
    quote progdist/launch/tpu_worker.sh start "$nfs" "$mount" "${arguments[@]}"
  )"
}

worker_states() {
  on_workers all "if [ -x progdist/launch/tpu_worker.sh ]; then \
progdist/launch/tpu_worker.sh state; else echo 'progdist: absent'; fi"
}

delete() {
  if $spot; then
    tpus queued-resources delete "$name" --force --quiet
  else
    tpus tpu-vm delete "$name" --quiet
  fi
}

# Each prints one word; nothing where there is none. They fail where gcloud does not know.
request_state() {
  tpus queued-resources list "--filter=name~/$name\$" '--format=value(state.state)'
}

node_state() {
  tpus tpu-vm list "--filter=name~/$name\$" '--format=value(state)'
}

# That of the request, where it has no slice yet or no more; else that of the slice.
slice_state() {
  local state=ACTIVE
  if $spot; then state=$(request_state) || return; fi
  if [[ $state == ACTIVE ]]; then node_state; else echo "$state"; fi
}

show_states() {
  if $spot; then request_state; fi
  node_state
}

source launch/tpu_watch.sh

command=${1:-}
case $command in
  --help | -h | '') sed -n '2,/^set/s/^# \{0,1\}//p' launch/tpu_vm.sh; exit 0 ;;
  create | install | run | status | log | stop | fetch | delete | watch) shift ;;
  *) fail "$command: is not a command; see --help" ;;
esac
arguments=()
read_flags "$@"
check_flags
case $command in
  run) start ;;
  status) show_states; worker_states ;;
  log) on_workers 0 'tail -n 100 -F .progdist/log' ;;
  stop) on_workers 0 'progdist/launch/tpu_worker.sh stop' ;;
  fetch) copy "$name:$from" "$to" --recurse --worker=0 ;;
  watch) if $dry_run; then show_watch; else watch; fi ;;
  *) "$command" ;;
esac
