#!/usr/bin/env bash
# Submits the trainer to SLURM. --help prints the section of launch/README.md.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/commands.sh
source "$here/commands.sh"
if [[ ${1:-} == @(--help|-h) ]]; then show_help SLURM; fi

nodes=2 gpus=8 tasks='' cpus='' time=24:00:00 partition='' account=''
read_flags 'nodes= gpus= tasks= cpus= time= partition= account= dry_run' "$@"
tasks=${tasks:-$gpus}
check nodes '[1-9][0-9]*' 2
check gpus '0|[1-9][0-9]*' 8
check tasks '[1-9][0-9]*' 8
check cpus '([1-9][0-9]*)?' 12
check time '([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}' 24:00:00
check partition '[A-Za-z0-9_.,-]*' gpu
check account '[A-Za-z0-9_.-]*' my_project
check_arguments '' 'an absolute path on shared storage'

gpus=${gpus#0} # none rather than 0
execute sbatch "--nodes=$nodes" "--ntasks-per-node=$tasks" "--time=$time" \
  ${gpus:+"--gpus-per-node=$gpus"} ${cpus:+"--cpus-per-task=$cpus"} \
  ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
  "$here/slurm.sbatch" "${arguments[@]}"
