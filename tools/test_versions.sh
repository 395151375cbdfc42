#!/usr/bin/env bash
# Runs one test per feature beside the oldest and the newest releases that are supported:
#
#     tools/test_versions.sh [LANE ...]       oldest and newest unless said
#
# A lane is a file of pins, tools/versions/LANE.txt, with an environment of its own below
# .venv-versions. What is done of a lane is not done again while neither its pins nor pyproject.toml
# change; what it said is in .venv-versions/LANE.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
START=${START:-$(date +%s)}
LIMIT=${LIMIT:-20m}
ENVIRONMENTS=.venv-versions

# One of each: ranks, worlds of a test's own, each ZeRO stage, checkpoints, Lightning, rules. What they
# need compiled is fused_adam alone, since async_io takes minutes.
TESTS=(
    tests/ranks/test_on_ranks.py::test_the_process_group_is_there_before_the_fixtures
    tests/ranks/test_on_ranks.py::test_deepspeed_takes_the_group
    tests/ranks/test_on_ranks.py::test_data_loader_workers
    tests/ranks/test_ds_run.py::test_worlds_of_different_sizes_in_one_test
    'pytest_deepspeed/suite/test_zero.py::test_loss_falls[zero0-fp32]'
    'pytest_deepspeed/suite/test_zero.py::test_loss_falls[zero1-fp32]'
    'pytest_deepspeed/suite/test_zero.py::test_loss_falls[zero2-fp32]'
    'pytest_deepspeed/suite/test_zero.py::test_loss_falls[zero3-fp32]'
    'pytest_deepspeed/suite/test_modes.py::test_checkpoint[zero2-fp32]'
    'pytest_deepspeed/suite/test_modes.py::test_checkpoint[zero3-fp32]'
    'pytest_deepspeed/suite/test_lightning.py::test_lightning[parity-zero3]'
    'pytest_deepspeed/suite/test_lightning.py::test_lightning[engagement-zero3]'
    'pytest_deepspeed/suite/test_lightning.py::test_lightning[checkpoint-zero3]'
    tests/rules/test_keys.py
    tests/doctor/test_versions.py
)

say() { printf '[%4d s] %s\n' $(($(date +%s) - START)) "$*"; }
fail() {
    printf 'test-versions: %s\n' "$@" >&2
    exit 1
}

recipe() {
    "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'
    sha256sum pyproject.toml constraints.txt "tools/versions/$1.txt"
}

make_environment() {
    local lane=$1 env=$ENVIRONMENTS/$1 pins=tools/versions/$1.txt
    if [ "$(recipe "$lane")" = "$(cat "$env/.made-from" 2>/dev/null)" ]; then
        return
    fi
    say "$lane: making $env from $pins"
    rm -f "$env/.made-from"
    "$PYTHON" -m venv "$env" >"$env.log" 2>&1 || fail "'$PYTHON -m venv $env' failed:" "$(cat "$env.log")"
    # torch first and alone, so that nothing else can choose another one.
    # shellcheck disable=SC2086 # words
    for what in torch '--editable .[digits,test]'; do
        "$env/bin/python" -m pip --disable-pip-version-check --no-input --quiet install --no-compile \
            --constraint "$pins" $what >"$env.log" 2>&1 </dev/null ||
            fail "$lane: pip failed:" "$(tail -n 20 "$env.log")"
    done
    recipe "$lane" >"$env/.made-from"
}

versions() {
    "$ENVIRONMENTS/$1/bin/python" - <<'END'
from importlib.metadata import version
from platform import python_version
names = ("torch", "torchvision", "deepspeed", "pytorch-lightning", "pytest", "pytest-xdist")
print(f"python {python_version()},", ", ".join(f"{name} {version(name)}" for name in names))
END
}

run_lane() {
    local lane=$1 env=$ENVIRONMENTS/$1
    [ -e "tools/versions/$lane.txt" ] || fail "there are no pins tools/versions/$lane.txt." \
        "Lanes: $(cd tools/versions && echo *.txt | sed 's/\.txt//g')"
    make_environment "$lane"
    say "$lane: $(versions "$lane")"
    say "$lane: compiling fused_adam, unless that is done"
    "$env/bin/python" -m pytest_deepspeed.processes.ops build fused_adam >"$env.log" 2>&1 ||
        fail "$lane: fused_adam could not be built:" "$(tail -n 20 "$env.log")"
    say "$lane: one test per feature, $env.log has what they say"
    timeout --foreground --signal=INT --kill-after=30s "$LIMIT" "$env/bin/python" -m pytest \
        -p no:randomly -p no:cacheprovider -q -rfE "${TESTS[@]}" >"$env.log" 2>&1 || return 1
}

mkdir -p "$ENVIRONMENTS"
echo '*' >"$ENVIRONMENTS/.gitignore"
exec 9<"${BASH_SOURCE[0]}"
flock --nonblock 9 || fail "another run of it is under way in this clone."
failed=()
[ $# -gt 0 ] || set -- oldest newest
for lane; do
    if run_lane "$lane"; then
        say "$lane: $(tail -n 1 "$ENVIRONMENTS/$lane.log")"
    else
        failed+=("$lane")
        tail -n 40 "$ENVIRONMENTS/$lane.log"
        say "$lane: failed"
    fi
done
[ ${#failed[@]} -eq 0 ] || fail "failed: ${failed[*]}"
