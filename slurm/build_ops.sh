#!/usr/bin/env bash
# Compiles DeepSpeed's ops ahead, on a node that has a compiler, for nodes with the same CPU:
#
#     VENV=~/env PYTEST_DS_OPS_CACHE=~/ops srun --cpus-per-task=4 --mem=8G --time=00:30:00 \
#         slurm/build_ops.sh fused_adam cpu_adam async_io
#
# VENV is the environment that jobs will use, at the same path. DS_ACCELERATOR=cuda compiles for GPUs.
# An op that is there already takes no time.
set -euo pipefail
FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$FOLDER/site.sh"

use_site
[ $# -gt 0 ] || fail "which ops? Such as: slurm/build_ops.sh fused_adam cpu_adam async_io"
[ -n "$VENV" ] || fail "VENV is not set." \
    "Name the environment that jobs will use: VENV=~/env slurm/build_ops.sh $*"
activate
exec python -m pytest_deepspeed.processes.ops build "$@"
