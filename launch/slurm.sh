#!/usr/bin/env bash
# Submits the trainer to SLURM. --help prints the section of launch/README.md.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/commands.sh
source "$here/commands.sh"
if [[ ${1:-} == @(--help|-h) ]]; then show_help SLURM; fi

nodes=2 gpus=8 tasks='' cpus=8
read_flags 'nodes= gpus= tasks= cpus= dry_run *' "$@"
tasks=${tasks:-$gpus}
check nodes '[1-9][0-9]*' 2
check gpus '0|[1-9][0-9]*' 8
check tasks '[1-9][0-9]*' 8
check cpus '[1-9][0-9]*' 8
check_arguments '' 'an absolute path on shared storage'
for word in "${others[@]}"; do
  case $word in
    --gpus* | --gres* | --ntasks* | --cpus*)
      fail "$word: is set by --gpus, --tasks and --cpus; see --help" ;;
  esac
done

gpus=${gpus#0} # none rather than 0
execute sbatch "--nodes=$nodes" "--ntasks-per-node=$tasks" "--cpus-per-task=$cpus" \
  ${gpus:+"--gpus-per-node=$gpus"} "${others[@]}" "$here/slurm.sbatch" "${arguments[@]}"
