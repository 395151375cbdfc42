#!/usr/bin/env bash
# On each node of a training: torchrun with this node's ranks. train.sbatch starts it, by srun.
set -euo pipefail
FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$FOLDER/site.sh"

in_a_job "Type: sbatch slurm/train.sbatch"
use_site
activate
threads=$((${SLURM_CPUS_PER_TASK:-1} / RANKS_PER_NODE))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
use_compiled_ops

# No comment may follow a backslash: it would end the command. Node 0 is told that it is the host,
# which torchrun would otherwise guess from its names.
options=(
    --nnodes "$SLURM_JOB_NUM_NODES"
    --nproc_per_node "$RANKS_PER_NODE"
    --rdzv_backend c10d
    --rdzv_id "$SLURM_JOB_ID"
    --rdzv_endpoint "$RENDEZVOUS"
    --rdzv_conf "is_host=$((SLURM_NODEID == 0))"
    --max_restarts 0
)
exec torchrun "${options[@]}" -m reference_training.cifar10 "$@"
