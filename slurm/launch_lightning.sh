#!/usr/bin/env bash
# One rank of a Lightning training. lightning.sbatch starts it, by srun, once for each device.
set -euo pipefail
FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$FOLDER/site.sh"

in_a_job "Type: sbatch slurm/lightning.sbatch"
use_site
activate
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
use_compiled_ops
exec python -m reference_training.lightning_cifar10 "$@"
