#!/usr/bin/env bash
# Makes the virtual environment that the Makefile's targets run in, and nothing else.
#
#     PYTHON=python3.12 VENV=.venv tools/setup.sh
#
# FOR=tests adds Debian packages that only the project's own tests use; who may not install them
# does without, and those tests skip.
#
# Says what it does with the seconds since START (default: now); silent when nothing is to do.
# Safe to interrupt at any point: an environment that was not finished is made again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
START=${START:-$(date +%s)}
FOR=${FOR:-}
STATE=$VENV/.pytest-deepspeed # what the environment was made from; "unfinished" meanwhile

say() { printf '[%4d s] %s\n' $(($(date +%s) - START)) "$*"; }
fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

probe() {
    "$PYTHON" - <<'END'
import sys
print("%d.%d" % sys.version_info[:2])
if sys.version_info < (3, 11):
    sys.exit()
import importlib.util, os, sysconfig
print(sys.base_prefix, sys.version.replace("\n", " "))
print("lacks" if importlib.util.find_spec("ensurepip") is None else "has")
print("has" if os.path.exists(sysconfig.get_path("include") + "/Python.h") else "lacks")
END
}

# Sets $version, $interpreter, $ensurepip and $header from one start of the interpreter.
look_at_python() {
    local facts
    command -v "$PYTHON" >/dev/null ||
        fail "$PYTHON was not found." "Install Python 3.11 or newer, or name one: make PYTHON=python3.12 demo"
    facts=$(probe) || fail "$PYTHON does not run." "Name another one: make PYTHON=python3.12 demo"
    { read -r version && read -r interpreter && read -r ensurepip && read -r header; } <<<"$facts" ||
        fail "$PYTHON is Python $version; 3.11 or newer is needed." \
            "Name a newer one: make PYTHON=python3.12 demo"
}

# Prints the Debian packages that supply what is missing, one a line. What counts is whether the
# thing is there, not the package: the interpreter and the compiler need not be Debian's.
missing_packages() {
    look_at_python
    [ "$ensurepip" = has ] || echo "python$version-venv"
    [ "$header" = has ] || echo "python$version-dev"
    command -v "${CXX:-c++}" >/dev/null || echo g++
    echo '#include <libaio.h>' | "${CC:-cc}" -E - >/dev/null 2>&1 || echo libaio-dev
}

# The same for what the tests can do without: a Slurm cluster of their own, in network namespaces too,
# a linter for the scripts of slurm/, and a browser that looks at the HTML report.
missing_test_packages() {
    local PATH=$PATH:/usr/sbin:/sbin # where daemons are, if not for every user
    [ "$FOR" = tests ] || return 0
    command -v slurmctld >/dev/null || echo slurmctld
    command -v slurmd >/dev/null || echo slurmd
    command -v munged >/dev/null || echo munge
    command -v srun >/dev/null || echo slurm-client
    command -v ip >/dev/null || echo iproute2
    command -v shellcheck >/dev/null || echo shellcheck
    command -v chromium >/dev/null || echo chromium
}

install_system_packages() {
    local packages optional command
    mapfile -t packages < <(missing_packages)
    mapfile -t optional < <(missing_test_packages)
    if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
        packages+=("${optional[@]}")
    elif [ ${#optional[@]} -gt 0 ]; then
        say "not here, so tests that use them skip: ${optional[*]} (as root: apt-get install ${optional[*]})"
    fi
    [ ${#packages[@]} -gt 0 ] || return 0
    command="apt-get update && apt-get install -y ${packages[*]}"
    command -v apt-get >/dev/null ||
        fail "needed, in the names that Debian gives them: ${packages[*]}" "Install them, then run this again."
    [ "$(id -u)" -eq 0 ] ||
        fail "needed: ${packages[*]}" "Type: sudo sh -c '$command'" "Then run this again."
    say "installing ${packages[*]} with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -q -y --no-install-recommends "${packages[@]}"; } \
        </dev/null >"$LOG" 2>&1 || fail "$(tail -n 20 "$LOG")" "'$command' failed: its last lines are above."
    mapfile -t packages < <(missing_packages && missing_test_packages)
    [ ${#packages[@]} -eq 0 ] || fail "still missing after apt-get: ${packages[*]}" \
        "$PYTHON does not look there; name Debian's own: make PYTHON=/usr/bin/python3 demo"
}

# What the environment is made from. Its place counts, since the scripts in it and the editable
# install hold absolute paths.
base() { echo "$interpreter in $PWD"; }
recipe() {
    base
    sha256sum pyproject.toml constraints.txt tools/setup.sh
}

# Runs pip with "$@"; shows its larger steps, and all it said where it fails. Bytecode of all that is
# installed would take as long as the rest; the first import of a module writes what is needed.
pip() {
    "$VENV/bin/python" -m pip --disable-pip-version-check --no-input install --progress-bar off \
        --no-compile -c constraints.txt "$@" </dev/null 2>&1 | tee "$LOG" |
        sed --unbuffered -n -E \
            -e 's/^ *Downloading (.*\/)?([^-]+-[^-]+)-.* (\([0-9.]+ [MG]B\)).*/downloading \2 \3/p' \
            -e 's/^ *Building (wheel|editable) for (\S+) .*started$/building \2/p' \
            -e 's/^Installing collected packages:.*/installing what was collected/p' |
        while IFS= read -r line; do say "  $line"; done || fail "$(cat "$LOG")" "pip failed: what it said is above."
}

make_environment() {
    if [ -e "$VENV" ] && [ ! -e "$STATE" ]; then
        fail "$VENV is there, but was not made by this script." \
            "Move it away, or use another place: make VENV=.venv-deepspeed demo"
    fi
    if [ "$(base)" != "$(head -n 1 "$STATE" 2>/dev/null)" ]; then
        say "making $VENV with Python $version"
        rm -rf "$VENV"
        mkdir -p "$VENV"
        echo unfinished >"$STATE"
        "$PYTHON" -m venv "$VENV" >"$LOG" 2>&1 || fail "$(cat "$LOG")" "'$PYTHON -m venv $VENV' failed."
    fi
    echo unfinished >"$STATE"
    # First and alone, so that nothing else can choose another torch.
    say "installing $(grep '^torch==' constraints.txt)"
    pip "$(grep '^torch==' constraints.txt)"
    say "installing DeepSpeed, Lightning, pytest and this project"
    pip --editable '.[dev]'
    recipe >"$STATE"
    say "$VENV is ready"
}

look_at_python
exec 9<"${BASH_SOURCE[0]}" # held until this shell exits, however it does
flock --nonblock 9 || {
    say "waiting for another set-up that is under way here"
    flock 9
}
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT
install_system_packages
[ "$(recipe)" = "$(cat "$STATE" 2>/dev/null)" ] || make_environment
