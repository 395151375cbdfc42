"""Sessions of the gate in a small repository of a test's own."""

import os
import subprocess
import sys

import inner

_AUTHOR = ("-c", "user.name=a person", "-c", "user.email=person@example.org")


def git(folder, *arguments):
    """What git said, run in a directory."""
    done = subprocess.run(
        ["git", "-C", folder, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(folder, contents, message="a change"):
    """Writes files, ``None`` for one that goes, and commits all that differs; returns its name."""
    for name, text in contents.items():
        path = folder / name
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
    git(folder, "add", "--all")
    git(folder, *_AUTHOR, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD").strip()


def gate(folder, *args, ref="main"):
    """Runs the gate; returns its exit status and what it showed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", f"--ds-against={ref}", "-p", "no:cacheprovider"),
            # `make soak-gate` trains from another seed in each round.
            *(
                "-p",
                "no:randomly",
                "-p",
                "no:asyncio",
                f"--ds-seed={os.environ.get('GATE_SEED', '0')}",
            ),
            *args,
        ],
        cwd=folder,
        env=inner.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
