#!/usr/bin/env bash
# Copies data to the local disk of every node of a job: slurm/stage_data.sh SOURCE TARGET
#
# SOURCE is a directory, whose content is copied, or an archive (.tar, .tar.gz, .tgz, .zip), which
# is unpacked. TARGET is a directory of the same path on all nodes, below $SLURM_TMPDIR. It is
# complete when this returns 0, and left alone where it was complete before.
set -euo pipefail
FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$FOLDER/site.sh"

stage() {
    local source=$1 target=$2 began=$SECONDS
    [ ! -e "$target/.staged" ] || return 0
    mkdir -p "$target"
    case $source in
        *.zip) unzip -q -o "$source" -d "$target" ;;
        *.tar | *.tar.gz | *.tgz) tar -xf "$source" -C "$target" ;;
        *) cp -R "$source/." "$target" ;;
    esac || fail "$source could not be copied to $target on $NODE." \
        "$(df -h "$target" | tail -n 1)"
    touch "$target/.staged"
    say "$NODE: $target is ready after $((SECONDS - began)) s"
}

check() {
    case $1 in
        *.zip | *.tar | *.tar.gz | *.tgz) [ -f "$1" ] ;;
        *) [ -d "$1" ] ;;
    esac || fail "$1 is neither a directory nor an archive." \
        "Archives are .tar, .tar.gz, .tgz and .zip. Put it on storage that all nodes see."
}

in_a_job "Type: sbatch slurm/pytest.sbatch"
if [ "${1:-}" = --on-this-node ]; then
    stage "$2" "$3"
else
    [ $# -eq 2 ] || fail "two arguments are needed: slurm/stage_data.sh SOURCE TARGET"
    check "$1"
    each_node bash "$FOLDER/stage_data.sh" --on-this-node "$(realpath "$1")" "$2"
fi
