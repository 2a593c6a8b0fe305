#!/usr/bin/env bash
# Submits the trainer to SLURM.
#
#   launch/slurm.sh [--nodes=2] [--gpus=8] [--tasks=GPUS] [--cpus=CORES] [--time=24:00:00]
#     [--partition=P] [--account=A] [--dry_run] -- --config=configs/X.py --workdir=/shared/W
#
# --gpus and --tasks are those of one node, --cpus those of one task. One task for each
# GPU is what JAX expects; a node without GPUs takes --gpus=0 --tasks=1.
# Run it where the checkout is, on storage that every node sees; PYTHON is the
# interpreter, .venv/bin/python if it is not set. What stands after -- goes to
# progdist.main. --dry_run only prints the command.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/commands.sh
source "$here/commands.sh"

nodes=2 gpus=8 tasks='' cpus='' time=24:00:00 partition='' account=''
while (($#)); do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --tasks=*) tasks=${1#*=} ;;
    --cpus=*) cpus=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --partition=*) partition=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --dry_run) dry_run=true ;;
    --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) fail "$1: unknown; see --help. The flags of progdist.main come after --" ;;
  esac
  shift
done

tasks=${tasks:-$gpus}
check --nodes "$nodes" '[1-9][0-9]*' 2
check --gpus "$gpus" '[0-9]+' 8
check --tasks "$tasks" '[1-9][0-9]*' 8
check --cpus "$cpus" '([1-9][0-9]*)?' 12
check --time "$time" '([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}' 24:00:00
check --partition "$partition" '[A-Za-z0-9_.,-]*' gpu
check --account "$account" '[A-Za-z0-9_.-]*' my_project
check_arguments "$@"

command=(
  sbatch
  "--nodes=$nodes" "--ntasks-per-node=$tasks" "--time=$time"
)
if ((gpus)); then command+=("--gpus-per-node=$gpus"); fi
if [[ -n $cpus ]]; then command+=("--cpus-per-task=$cpus"); fi
if [[ -n $partition ]]; then command+=("--partition=$partition"); fi
if [[ -n $account ]]; then command+=("--account=$account"); fi
execute "${command[@]}" "$here/slurm.sbatch" "$@"
