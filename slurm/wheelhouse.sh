#!/usr/bin/env bash
# Collects the wheels of an environment, on a machine with internet, for nodes without it:
#
#     slurm/wheelhouse.sh DIR [REQUIREMENT ...]      'pytest-deepspeed[digits]' unless said
#
# In a clone of pytest-deepspeed that is the clone, with the versions that it is tested with; with
# PIP_CONSTRAINT=/dev/null pip chooses. What is published as source, such as DeepSpeed, is built
# here. Use the Python that the nodes run: PYTHON=python3.11, or its module.
# Without GPUs take torch's CPU build, a tenth of the size:
#
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu slurm/wheelhouse.sh ~/wheels
set -euo pipefail
FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$FOLDER/site.sh"

PYTHON=${PYTHON:-python3}
[ $# -gt 0 ] || fail "which directory? Such as: slurm/wheelhouse.sh ~/wheels"
use_site
wheels=$1
shift
if [ $# -eq 0 ]; then
    if grep -q '^name = "pytest-deepspeed"' "$FOLDER/../pyproject.toml" 2>/dev/null; then
        set -- "$FOLDER/..[digits]"
        export PIP_CONSTRAINT=${PIP_CONSTRAINT:-$FOLDER/../constraints.txt}
    else
        set -- 'pytest-deepspeed[digits]'
    fi
fi
mkdir -p "$wheels" || fail "$wheels cannot be made."
"$PYTHON" -m pip wheel --disable-pip-version-check --wheel-dir "$wheels" --find-links "$wheels" "$@" ||
    fail "pip could not collect $* for $("$PYTHON" --version)."
say "$(find "$wheels" -name '*.whl' | wc -l) wheels for $("$PYTHON" --version) in $wheels, $(du -sh "$wheels" | cut -f 1)"
