"""A remote with a history, shallow checkouts of it, and a pytest that says what it was asked."""

import job
import pytest

#: Writes its arguments and a report, and ends with the status that it is told.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$TOLD/arguments"
end() { echo ended >>"$TOLD/arguments"; echo cut >"$FOLDER/report.md"; exit 2; }
[ -z "${SLOW:-}" ] || { trap end INT; : >"$TOLD/started"; for _ in {1..400}; do sleep 0.1; done; }
[ -n "${SILENT:-}" ] || echo "what it found" >"$FOLDER/report.md"
exit "${STATUS:-0}"
"""


def history():
    """What `git fast-import` makes of it: ``main`` has gone on for 60 commits since ``change``."""
    who = "committer A <a@localhost> 0 +0000"

    def commit(branch, message, text=None, parent=""):
        file = f"M 644 inline ds_config.json\ndata {len(text)}\n{text}\n" if text else ""
        start = f"from {parent}\n" if parent else ""
        return f"commit refs/heads/{branch}\n{who}\ndata {len(message)}\n{message}\n{start}{file}"

    yield commit("main", "first", "{}")
    yield "tag parted\nfrom refs/heads/main\ntagger A <a@localhost> 0 +0000\ndata 1\n.\n"
    for number in range(3):
        parent = "" if number else "refs/heads/main"
        yield commit("change", f"change {number}", f'{{"train_batch_size": {number}}}', parent)
    for number in range(60):
        yield commit("main", f"main {number}")


@pytest.fixture(scope="session")
def remote(tmp_path_factory):
    """A bare repository with that history; no test changes it."""
    bare = tmp_path_factory.mktemp("remote") / "remote.git"
    job.git(bare.parent, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    job.git(bare, "fast-import", "--quiet", input="".join(history()))
    return bare


@pytest.fixture
def checkout(remote, tmp_path):
    """The branch ``change`` as services check it out: its last commit, and no other branch."""
    folder = tmp_path / "checkout"
    url = remote.as_uri()
    job.git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=change", url, str(folder))
    return folder


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a pytest on PATH that writes its arguments to a file there, which is returned."""
    folder = tmp_path / "bin"
    folder.mkdir()
    folder.joinpath("pytest").write_text(STAND_IN)
    folder.joinpath("pytest").chmod(0o755)
    own = job.environment

    def environment(**more):
        made = own(**more)
        return made | {"PATH": f"{folder}:{made['PATH']}", "TOLD": str(folder), "FOLDER": "reports"}

    monkeypatch.setattr(job, "environment", environment)
    return folder / "arguments"
