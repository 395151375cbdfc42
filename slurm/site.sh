# shellcheck shell=bash
# Sourced by the other scripts: what is particular to a site, and one task on each node.
#
# Works on the settings that stand at the top of the *.sbatch files.

NODE=${SLURMD_NODENAME:-$(hostname)}
ME=${ME:-${0##*/}}

say() { printf '%s: %s\n' "$ME" "$*" >&2; }
fail() {
    local text
    printf -v text '  %s\n' "${@:2}" # in one write, since nodes speak at the same time
    printf '%s: error: %s\n%s' "$ME" "$1" "${2:+$text}" >&2
    exit 1
}

in_a_job() {
    [ -n "${SLURM_JOB_ID:-}" ] || fail "this runs in a Slurm job, and SLURM_JOB_ID is not set." "$@"
}

# Fills in, and exports, the site's defaults for what was not set, and loads its modules.
use_site() {
    : "${SITE:=${CC_CLUSTER:+alliance}}" # the Alliance's clusters set CC_CLUSTER to their name
    case ${SITE:=plain} in
        alliance) : "${MODULES=python/3.11}" ;; # a version, since the default changes
        plain) : "${MODULES=}" ;;
        *) fail "SITE=$SITE is not known." "Use SITE=alliance or SITE=plain." ;;
    esac
    VENV=${VENV:-}
    NODE_DIR=${NODE_DIR:-${SLURM_TMPDIR:-}}
    # Ops are kept by the path of the environment: those for one that goes with the job go with it.
    [ -n "$VENV" ] || [ -z "$NODE_DIR" ] || : "${PYTEST_DS_OPS_CACHE:=$NODE_DIR/ops}"
    [ -z "$MODULES" ] || load_modules
    MODULES= # loaded, for all that this script starts
    export SITE MODULES VENV NODE_DIR PYTEST_DS_OPS_CACHE
}

# Before an environment is made or used, so that all steps have the same Python and CUDA.
load_modules() {
    local status=0
    type module >/dev/null 2>&1 || fail "there is no command 'module' on $NODE to load $MODULES with." \
        "Where modules are not used: MODULES= sbatch ..."
    set +u # which the function `module` does not bear
    # shellcheck disable=SC2086 # words
    module load $MODULES || status=$?
    set -u
    [ $status -eq 0 ] || fail "'module load $MODULES' failed on $NODE." \
        "See what there is: module spider ${MODULES%% *}"
}

# Runs a command once on each node. srun does not inherit --cpus-per-task from Slurm 22.05 on;
# without --kill-on-bad-exit the other nodes would wait for one that has failed.
each_node() {
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --overlap --kill-on-bad-exit=1 --wait=60 "$@"
}

# What the `activate` of the environment VENV does, for the rest of this script.
activate() {
    [ -x "$VENV/bin/python" ] || fail "no Python environment in $VENV on $NODE."
    export VENV VIRTUAL_ENV="$VENV" PATH="$VENV/bin:$PATH"
    unset PYTHONHOME
}

# Sets DATA to where each node reads the data of the setting DATA.
stage_data() {
    if [ -n "$NODE_DIR" ]; then
        bash "$FOLDER/stage_data.sh" "$DATA" "$NODE_DIR/data"
        DATA=$NODE_DIR/data
    elif [ ! -d "$DATA" ]; then
        fail "DATA=$DATA is not a directory." "An archive is unpacked on each node's disk only: set NODE_DIR."
    fi
}

# Runs a command as a task for each device, as the job was asked for.
each_task() {
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_NTASKS" \
        --ntasks-per-node="$SLURM_NTASKS_PER_NODE" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        --overlap --kill-on-bad-exit=1 --wait=60 "$@"
}

# The first node, by the name that Slurm has for it, or by its address where that is no host name.
head_node() {
    local head
    read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST") ||
        fail "scontrol could not name the nodes of $SLURM_JOB_NODELIST."
    getent hosts "$head" >/dev/null ||
        head=$(scontrol show node "$head" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    echo "$head"
}

# Compiles ops, given as words, before the nodes need them: once where all see the cache.
build_ops_of() {
    local build
    read -ra build <<<"$1"
    [ ${#build[@]} -gt 0 ] || return 0
    build=(bash "$FOLDER/build_ops.sh" "${build[@]}")
    if [[ -n $NODE_DIR && ${PYTEST_DS_OPS_CACHE:-} == "$NODE_DIR"/* ]]; then
        each_node "${build[@]}"
    else
        "${build[@]}"
    fi
}

# What DeepSpeed starts takes the ops that were compiled; the folder depends on this node's CPU and GPUs.
use_compiled_ops() {
    TORCH_EXTENSIONS_DIR=$(python -c '
import sys
from pytest_deepspeed.processes.ops import cache_dir
print(cache_dir(sys.argv[1]))' "$DS_ACCELERATOR")
    export TORCH_EXTENSIONS_DIR
}
