"""A git repository, read by git itself: a commit's files, and what differs from it."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

#: Seconds; git reads local files alone.
_TIMEOUT = 60

#: An answer in the user's language could not be told from another; nothing is fetched or locked.
_ENVIRONMENT = {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}


class GitError(Exception):
    """What git cannot say; the text says why, and what to type."""


class Repository:
    """The work tree that a directory lies in.

    Args:
        directory: in the work tree.

    Raises:
        GitError: it lies in none, or there is no git.
    """

    def __init__(self, directory: Path) -> None:
        self.root = directory
        try:
            self.root = Path(self._text("rev-parse", "--show-toplevel").rstrip("\n"))
        except GitError as error:
            text = str(error)
            if "not a git repository" in text:
                text = f"{directory} lies in no git repository"
            raise GitError(text) from None

    def merge_base(self, ref: str) -> str:
        """The newest commit that HEAD and another one have both come from: its full name.

        Raises:
            GitError: there is no such commit, or the history is cut off before it.
        """
        try:
            commit = self._text(
                "rev-parse", "--verify", "--quiet", "--end-of-options", _peeled(ref)
            )
        except GitError:
            raise GitError(
                f"there is no commit {ref!r} here: fetch it (git fetch origin), or name another"
            ) from None
        try:
            return self._text("merge-base", commit.strip(), "HEAD").strip()
        except GitError:
            if self._text("rev-parse", "--is-shallow-repository").strip() == "true":
                raise GitError(
                    f"the clone is shallow, and its history ends before where {ref} and HEAD part:"
                    " git fetch --unshallow, or fetch-depth: 0 where CI checks out"
                ) from None
            raise GitError(f"{ref} and HEAD have no commit in common") from None

    def short(self, commit: str) -> str:
        """A commit's short name."""
        return self._text("rev-parse", "--short", commit).strip()

    def differing(self, commit: str) -> dict[str, str]:
        """Paths from the root whose file differs from a commit's, to the path that it had there.

        That is another path where git takes it for renamed, and empty where there was none. Files
        of the commit that are gone are not among them: see `gone`. What is not committed yet, and
        what git does not know yet and is not told to ignore, counts too.
        """
        found = {path: old for path, old in self._diff(commit) if path}
        for path in _split(self._text("ls-files", "--others", "--exclude-standard", "-z")):
            found.setdefault(path, "")
        return found

    def gone(self, commit: str) -> list[str]:
        """Paths of a commit's files that are there no more, under any name."""
        return sorted(old for path, old in self._diff(commit) if not path)

    def read(self, commit: str, path: str) -> bytes | None:
        """A commit's file; ``None`` where it has none."""
        try:
            return self._run("show", f"{commit}:{path}")
        except GitError:
            return None

    def files(self, commit: str) -> list[str]:
        """Paths of a commit's files."""
        return _split(self._text("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit))

    def export(self, commit: str, folder: Path) -> None:
        """Writes a commit's files to a directory; without submodules."""
        archive = io.BytesIO(self._run("archive", "--format=tar", commit))
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(folder, filter="data")

    def _diff(self, commit: str) -> list[tuple[str, str]]:
        """Of each file that differs, the path now and that of the commit; empty where there is
        none.
        """
        fields = iter(_split(self._text("diff", "--name-status", "-M", "-z", commit, "--")))
        found = []
        for status in fields:
            path = next(fields)
            if status.startswith(("R", "C")):
                found.append((next(fields), path))
            else:
                found.append(("" if status == "D" else path, "" if status == "A" else path))
        return found

    def _text(self, *arguments: str) -> str:
        return os.fsdecode(self._run(*arguments))

    def _run(self, *arguments: str) -> bytes:
        command = ["git", "-C", str(self.root), *arguments]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_TIMEOUT,
                env={**os.environ, **_ENVIRONMENT},
                check=False,
            )
        except FileNotFoundError:
            raise GitError("git is not installed: apt-get install git") from None
        except subprocess.TimeoutExpired:
            text = " ".join(command[3:])
            raise GitError(f"git {text} has not ended after {_TIMEOUT} s") from None
        if done.returncode:
            said = os.fsdecode(done.stderr).strip().splitlines()
            raise GitError(said[0] if said else f"git {arguments[0]} ended with {done.returncode}")
        return done.stdout


def _peeled(ref: str) -> str:
    return ref + "^{commit}"


def _split(text: str) -> list[str]:
    return [part for part in text.split("\0") if part]
