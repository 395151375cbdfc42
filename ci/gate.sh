#!/usr/bin/env bash
# The steps of the CI job that gates changes of DeepSpeed configs; ci/github/action.yml and
# ci/gitlab/gate.yml call them in this order:
#
#     ci/gate.sh install      torch, then what GATE_REQUIREMENTS names
#     ci/gate.sh ops          prints what a cache of compiled ops goes by: the folder, its key
#     ci/gate.sh base         prints what to compare with, with enough history to compare
#     ci/gate.sh test github  pytest and its reports, with pytest's status; or: test gitlab
#
# What a job may say, in the environment:
#
#     GATE_REQUIREMENTS  of pip, as in a shell: "-r requirements.txt 'pytest-deepspeed[digits]'"
#     GATE_TORCH         what is installed first, alone; empty: nothing
#     GATE_TORCH_INDEX   where from; empty: pip's own index
#     GATE_ARGUMENTS     of pytest, as in a shell: "-n 2 configs"
#     GATE_BASE          a branch, tag or commit; unless said the target of the pull or merge
#                        request, else what was there before the push
#     GATE_REPORTS       the folder of the reports
set -euo pipefail

PYTHON=${PYTHON:-python}
GATE_REQUIREMENTS=${GATE_REQUIREMENTS-pytest-deepspeed}
GATE_TORCH=${GATE_TORCH-torch torchvision}
GATE_TORCH_INDEX=${GATE_TORCH_INDEX-https://download.pytorch.org/whl/cpu}
GATE_REPORTS=${GATE_REPORTS:-ds-reports}

say() { printf 'gate: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 4 # as pytest's wrong usage
}

# Reads words as a shell reads them, and runs none of them: sets the array $words.
split() {
    local program='import shlex, sys; print(*shlex.split(sys.argv[1]), sep="\0", end="")'
    mapfile -d '' -t words < <("$PYTHON" -c "$program" "$1" 2>/dev/null)
    wait $! || fail "$2 has a quote without its end: $1"
}

install() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed, and $PYTHON is $("$PYTHON" --version 2>&1)"
    local words
    # First and alone, so that nothing else can choose another torch.
    split "$GATE_TORCH" GATE_TORCH
    [ ${#words[@]} -eq 0 ] ||
        "$PYTHON" -m pip install "${words[@]}" ${GATE_TORCH_INDEX:+--index-url "$GATE_TORCH_INDEX"}
    split "$GATE_REQUIREMENTS" GATE_REQUIREMENTS
    [ ${#words[@]} -eq 0 ] || "$PYTHON" -m pip install "${words[@]}"
    "$PYTHON" -c 'import sys
from importlib.util import find_spec
sys.exit(find_spec("pytest_deepspeed") is None)' ||
        fail "pytest-deepspeed is not there: name it, or a file that does, in the requirements"
    compiler
}

# DeepSpeed's ops are compiled at their first use; what is missing for that is named by a test.
compiler() {
    local missing=()
    command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
    echo '#include <libaio.h>' | "${CC:-cc}" -E - >/dev/null 2>&1 || missing+=(libaio-dev)
    [ ${#missing[@]} -gt 0 ] && command -v apt-get >/dev/null || return 0
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo -n)
    say "installing ${missing[*]}, for DeepSpeed's ops"
    { "${root[@]}" apt-get update -qq &&
        "${root[@]}" apt-get install -qq -y --no-install-recommends "${missing[@]}"; } >/dev/null ||
        say "could not: ops that need them are not built (docs: ops)"
}

# The key changes with each op that is built, so that a cache without it is not kept for ever.
ops() {
    local folder
    folder=$("$PYTHON" -c 'from pytest_deepspeed.processes.op_cache import cache_dir
print(cache_dir("cpu"))')
    echo "folder=$folder"
    echo "kind=${folder##*/}"
    echo "built=$(find "$folder" -maxdepth 1 -name '*.json' -printf '%f\n' 2>/dev/null |
        sort | sha256sum | cut -c 1-10)"
}

# Fetches the history of HEAD and of a base until they meet. A base that cannot be had is no error:
# pytest --ds-against says so, and runs everything.
base() {
    local remote=${GATE_REMOTE:-origin} ref branch tag depth
    ref=$(asked "$remote")
    if [ -z "$ref" ]; then
        say "no base: this is no pull or merge request, and nothing was there before the push"
        return 0
    fi
    local wanted=("$(git rev-parse HEAD)")
    branch=${ref#"$remote"/} tag=${ref#refs/tags/}
    if [ "$branch" != "$ref" ]; then
        wanted+=("+refs/heads/$branch:refs/remotes/$remote/$branch")
    elif git ls-remote --exit-code --tags "$remote" "refs/tags/$tag" >/dev/null 2>&1; then
        wanted+=("+refs/tags/$tag:refs/tags/$tag")
    else
        wanted+=("$ref")
    fi
    for depth in 1 50 500 2147483647; do
        meet "$ref" && break
        if [ "$(git rev-parse --is-shallow-repository)" = false ]; then
            git fetch --quiet --no-tags "$remote" "${wanted[@]}" || true
            break
        fi
        git fetch --quiet --no-tags --deepen="$depth" "$remote" "${wanted[@]}" || break
    done
    # GitLab has computed it too, from what the request was when it was made or last pushed to.
    if ! meet "$ref" && [ -z "${GATE_BASE:-}" ] && meet "${CI_MERGE_REQUEST_DIFF_BASE_SHA:-none}"; then
        ref=$CI_MERGE_REQUEST_DIFF_BASE_SHA
    fi
    meet "$ref" || say "HEAD and $ref do not meet in the history that could be fetched"
    echo "$ref"
}

meet() { git merge-base "$1" HEAD >/dev/null 2>&1; }

# What to compare with: a branch as the remote has it, where no such commit is here.
asked() {
    local ref=${GATE_BASE:-} remote=$1
    local target=${GITHUB_BASE_REF:-${CI_MERGE_REQUEST_TARGET_BRANCH_NAME:-}}
    local before=${GATE_BEFORE:-${CI_COMMIT_BEFORE_SHA:-}}
    if [ -z "$ref" ] && [ -n "$target" ]; then
        ref=$remote/$target
    elif [ -z "$ref" ] && [ -n "${before//0/}" ]; then
        ref=$before
    elif [ -n "$ref" ] && ! git rev-parse --quiet --verify --end-of-options "$ref^{commit}" >/dev/null &&
        git ls-remote --exit-code --heads "$remote" "refs/heads/$ref" >/dev/null; then
        ref=$remote/$ref
    fi
    echo "$ref"
}

run_tests() {
    local words reports=(--junitxml="$GATE_REPORTS/junit.xml") against=() status=0 pid
    reports+=(--ds-report "html:$GATE_REPORTS/report.html" --ds-report "md:$GATE_REPORTS/report.md")
    reports+=(--ds-report "sarif:$GATE_REPORTS/report.sarif")
    case ${1:-} in
    github) reports+=(--ds-report github) ;;
    gitlab) reports+=(--ds-report "codequality:$GATE_REPORTS/codequality.json") ;;
    *) fail "test github, or test gitlab?" ;;
    esac
    split "${GATE_ARGUMENTS:-}" GATE_ARGUMENTS
    [ -z "${GATE_BASE:-}" ] || against=(--ds-against "$GATE_BASE")
    mkdir -p "$GATE_REPORTS"
    rm -f "$GATE_REPORTS"/{report.html,report.md,report.sarif,junit.xml,codequality.json}
    # A job that is cancelled ends pytest as Ctrl-C does, and its reports are written. Without job
    # control what is started with & hears no SIGINT.
    set -m
    pytest "${against[@]}" "${reports[@]}" "${words[@]}" &
    pid=$!
    trap 'kill -INT "$pid" 2>/dev/null || true' INT TERM
    while :; do
        status=0
        wait "$pid" || status=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    [ -z "${GITHUB_STEP_SUMMARY:-}" ] || summary "$status" >>"$GITHUB_STEP_SUMMARY"
    return "$status"
}

# GitHub takes no summary that is longer than 1 MiB.
summary() {
    if [ -s "$GATE_REPORTS/report.md" ]; then
        head -c 1000000 "$GATE_REPORTS/report.md"
    else
        echo "pytest ended with status $1 and wrote no report: the log says why."
    fi
}

case ${1:-} in
install | ops | base) "$1" ;;
test) run_tests "${2:-}" ;;
*) fail "install, ops, base or test?" ;;
esac
