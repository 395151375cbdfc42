#!/usr/bin/env bash
# Makes the Python environment of a job, unless it is there, and prints its path:
#
#     VENV=$(slurm/config_env.sh)
#
#   VENV=DIR      one that you made, on storage that all nodes see: it is only looked at
#   otherwise     one on each node in $NODE_DIR (default: $SLURM_TMPDIR), which goes with the job;
#                 without $NODE_DIR, one in $SHARED (default: $SLURM_SUBMIT_DIR/.pytest-deepspeed), which is
#                 kept for later jobs
#
# It is installed from wheels alone: those of WHEELHOUSE (slurm/wheelhouse.sh makes one) and of the
# site's own wheelhouse, where pip is configured for one, as on the Alliance clusters.
set -euo pipefail
FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$FOLDER/site.sh"

REQUIREMENTS=${REQUIREMENTS:-pytest-deepspeed[digits]}
WHEELHOUSE=${WHEELHOUSE:-}
PYTHON=${PYTHON:-python3}

check_settings() {
    command -v "$PYTHON" >/dev/null || fail "$PYTHON was not found on $NODE." \
        "Load a module, MODULES=python/3.11, or name an interpreter, PYTHON=/path/to/python3."
    [ -z "$WHEELHOUSE" ] || compgen -G "$WHEELHOUSE/*.whl" >/dev/null ||
        fail "there are no wheels in WHEELHOUSE=$WHEELHOUSE, as seen from $NODE." \
            "Fill it on a machine with internet: slurm/wheelhouse.sh $WHEELHOUSE"
    [ -n "$WHEELHOUSE" ] || [ "$SITE" = alliance ] || fail "neither VENV nor WHEELHOUSE is set." \
        "An environment that all nodes see:                 VENV=~/env sbatch ..." \
        "Or, after slurm/wheelhouse.sh ~/wheels, its wheels: WHEELHOUSE=~/wheels sbatch ..."
}

# A digest of what the environment is made from, for its name: what another job uses never changes.
recipe() {
    {
        "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'
        echo "$REQUIREMENTS $WHEELHOUSE"
        [ -z "$WHEELHOUSE" ] || ls -l --time-style=full-iso "$WHEELHOUSE"
    } | sha256sum | cut -c -8
}

make_environment() {
    local env=$1 log=$1.log began=$SECONDS pip=("$PYTHON" -m pip --python "$1") without=(--without-pip)
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then # a pip of its own takes longer
        pip=("$env/bin/python" -m pip) without=()
    fi
    rm -rf "$env"
    "$PYTHON" -m venv "${without[@]}" "$env" >"$log" 2>&1 ||
        fail "no environment could be made in $env on $NODE:" "$(tail -n 5 "$log")"
    # Bytecode of all that is installed would take as long as the rest; imports write what they need.
    # shellcheck disable=SC2086 # words
    "${pip[@]}" --disable-pip-version-check --no-input install --no-index --no-compile \
        ${WHEELHOUSE:+--find-links "$WHEELHOUSE"} $REQUIREMENTS >"$log" 2>&1 ||
        fail "pip could not install $REQUIREMENTS on $NODE without an index:" \
            "$(grep -E '^ *(ERROR|error)' "$log" || tail -n 5 "$log")" \
            "$("$env/bin/python" --version) looked in ${WHEELHOUSE:-the wheelhouses that pip is configured for}." \
            "Wheels are for one version of Python: make them with the one that runs here."
    touch "$env/.complete"
    say "$NODE: $env is ready after $((SECONDS - began)) s"
}

# The lock is for jobs that share a directory.
make_once() {
    mkdir -p "$(dirname "$1")" || fail "$(dirname "$1") cannot be made on $NODE."
    exec 9>"$1.lock"
    flock 9
    [ -e "$1/.complete" ] || make_environment "$1"
}

in_a_job "Type: sbatch slurm/pytest.sbatch"
use_site
if [ "${1:-}" = --on-this-node ]; then
    make_once "$2"
elif [ -n "$VENV" ]; then
    [ -x "$VENV/bin/python" ] || fail "VENV=$VENV has no bin/python, as seen from $NODE." \
        "Make it where all nodes see it:  python3 -m venv $VENV" \
        "and fill it:  $VENV/bin/pip install '$REQUIREMENTS'"
    echo "$VENV"
else
    check_settings
    VENV=${NODE_DIR:-${SHARED:-$SLURM_SUBMIT_DIR/.pytest-deepspeed}}/env-$(recipe)
    if [ -n "$NODE_DIR" ]; then
        each_node bash "$FOLDER/config_env.sh" --on-this-node "$VENV"
    else
        make_once "$VENV"
    fi
    echo "$VENV"
fi
