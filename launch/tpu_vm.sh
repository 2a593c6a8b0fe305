#!/usr/bin/env bash
# Runs the trainer on a slice of Cloud TPU VMs, from a machine that has gcloud.
# --help prints the section of launch/README.md.
set -euo pipefail
origin=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/commands.sh

readonly archive=build/progdist.tar.gz worker=progdist/launch/tpu_worker.sh
name='' zone='' project='' type='' version='' nfs='' mount='' python=3.12
from='' to='' spot='' queued='' guaranteed='' reserved='' max_run='' valid_until=6h
internal='' network='' subnetwork='' service_account='' max_hours=168 delete_at_end=''

tpus() { # GROUP VERB WORDS...
  execute gcloud ${max_run:+alpha} compute tpus "$@" "--zone=$zone" \
    ${project:+"--project=$project"} --quiet # asks nothing, as for the first ssh key
}

on_workers() { # WORKERS COMMAND_LINE
  tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2" ${internal:+--internal-ip}
}

create() {
  local -a own=("--version=$version")
  if [[ $group == queued-resources ]]; then
    own=("--node-id=$name" "--runtime-version=$version"
      "--valid-until-duration=$valid_until" ${guaranteed:+--guaranteed}
      ${max_run:+--provisioning-model=flex-start "--max-run-duration=$max_run"})
  fi
  tpus "$group" create "$name" "--accelerator-type=$type" "${own[@]}" \
    ${spot:+--spot} ${reserved:+--reserved} ${internal:+--internal-ips} \
    ${network:+"--network=$network"} ${subnetwork:+"--subnetwork=$subnetwork"} \
    ${service_account:+"--service-account=$service_account"}
}

delete() {
  local force=''
  if [[ $group == queued-resources ]]; then force=--force; fi
  tpus "$group" delete "$name" ${force:+"$force"}
}

install() {
  execute mkdir -p "${archive%/*}" &&
    execute git archive --format=tar.gz "--output=$archive" HEAD &&
    tpus tpu-vm scp "$archive" "$name:" --worker=all ${internal:+--internal-ip} &&
    on_workers all "mkdir -p progdist && tar -xzf ${archive##*/} -C progdist && \
$worker install $python"
}

run() {
  local deletion=''
  if [[ $delete_at_end ]]; then deletion=$(dry_run=true delete); fi
  on_workers all "$(quote "$worker" start "$nfs" "$root" "$max_hours" "$deletion" \
    "${arguments[@]}")"
}

# state_of GROUP FIELD: prints one word, or nothing if there is no slice.
state_of() { tpus "$1" list "--filter=name~/$name\$" "--format=value($2)"; }

states_of_slice() {
  if [[ $group == queued-resources ]]; then state_of "$group" state.state; fi
  state_of tpu-vm state
}

states_of_workers() {
  on_workers all "if [ -x $worker ]; then $worker state; else echo progdist: absent; fi"
}

command=${1:---help}
case $command in
  --help | -h) show_help 'Cloud TPU VMs' ;;
  create | install | run | status | log | stop | fetch | delete) shift ;;
  *) fail "$command: is not a command; see --help" ;;
esac
read_flags "name= zone= project= internal dry_run type= version= spot queued guaranteed \
reserved max_run= valid_until= network= subnetwork= service_account= python= nfs= mount= \
max_hours= delete_at_end from= to=" "$@"
check name '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' my-slice
check zone '[a-z]+-[a-z]+[0-9]+-[a-z]' us-central2-b
check project '[a-z0-9.:-]*' my-project
check python '3\.1[123]' 3.12
if [[ $command == create ]]; then
  check type '[a-z0-9]+-[0-9]+' v4-32
  check version '[a-zA-Z0-9._-]+' tpu-ubuntu2204-base
  check valid_until '[0-9]+[smhd]' 6h
  check max_run '([0-9]+[smhd])?' 24h
  check network '[A-Za-z0-9/._-]*' my-network
  check subnetwork '[A-Za-z0-9/._-]*' my-subnetwork
  check service_account '[A-Za-z0-9@._-]*' runner@my-project.iam.gserviceaccount.com
elif [[ $command == run ]]; then
  check max_hours '[1-9][0-9]*' 168
  root=${mount:-/mnt/progdist}
  check_arguments "$root" "below the mount, $root, which all workers share"
  if [[ $workdir == gs://* ]]; then
    [[ ! $nfs$mount ]] || fail "--workdir=$workdir: needs no share; omit --nfs and --mount"
    root=$workdir
  else
    check nfs '[A-Za-z0-9.-]+:/[A-Za-z0-9_./-]*' 10.0.0.2:/share
    check mount '(/[A-Za-z0-9_./-]+)?' /mnt/progdist
  fi
fi
group=tpu-vm
if [[ $spot || $queued || $guaranteed || $max_run ]]; then group='queued-resources'; fi
case $command in
  status) states_of_slice && states_of_workers ;;
  log) on_workers 0 'tail -n 100 -F .progdist/log' ;;
  stop) on_workers 0 "$worker stop" ;;
  fetch)
    check from '/[A-Za-z0-9_./-]+' /mnt/progdist/W
    check to '.+' runs
    [[ $to == /* ]] || to=$origin/$to
    tpus tpu-vm scp "$name:$from" "$to" --recurse --worker=0 ${internal:+--internal-ip} ;;
  *) "$command" ;;
esac
