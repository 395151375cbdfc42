"""What the gate on a pull request costs: ``python -m benchmarks.gate``.

Expected, before it was measured: a change that touches no config ends within two seconds, of which
most is the start of pytest, so that it takes less than twice as long as a session that finds no
test; a changed config takes its own eight checks and at most as long again for ``::against``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import config_files, table
from benchmarks.sessions import environment
from benchmarks.table import Aim, Row

#: Configs of the repository.
_CONFIGS = 20

_CONFIG = {
    "train_batch_size": 16,
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.001, "weight_decay": 0.01}},
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 500_000},
}

_AUTHOR = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")
_PYTEST = ("-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider")


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="sessions of each kind (default 9)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        rows = list(_unchanged(Path(folder), rounds))
    with tempfile.TemporaryDirectory() as folder:
        rows += _changed(Path(folder), max(3, rounds // 3))
    print(table.HEADER)
    for row in rows:
        print(row)


def _unchanged(folder: Path, rounds: int) -> list[Row]:
    config_files.write(folder, itertools.islice(config_files.sound(_CONFIGS), _CONFIGS))
    _commit(folder)
    folder.joinpath("README.md").write_text("a change that is about no config\n")
    gates, empty = [], []
    for _ in range(rounds + 1):
        empty.append(_session(folder, "--deselect=.", "--ignore-glob=*", allowed=(5,)))
        gates.append(_session(folder, "--ds-against=HEAD"))
    return [
        Row(f"none of {_CONFIGS} configs changed", "s", Aim("<", 2), gates[1:]),
        Row(
            "the same / a session without tests",
            "x",
            Aim("<", 2),
            table.pairwise_ratios(gates[1:], empty[1:]),
        ),
    ]


def _changed(folder: Path, rounds: int) -> list[Row]:
    folder.joinpath("ds_config.json").write_text(json.dumps(_CONFIG))
    _commit(folder)
    zero = {**_CONFIG["zero_optimization"], "offload_optimizer": {"device": "cpu"}}  # type: ignore[dict-item]
    folder.joinpath("ds_config.json").write_text(json.dumps({**_CONFIG, "zero_optimization": zero}))
    whole, own = [], []
    for _ in range(rounds):
        own.append(_session(folder))
        whole.append(_session(folder, "--ds-against=HEAD"))
    return [
        Row("one config, its own checks", "s", None, own),
        Row("with ::against / without", "x", Aim("<=", 2), table.pairwise_ratios(whole, own)),
    ]


def _commit(folder: Path) -> None:
    for arguments in (["init", "-q"], ["add", "."], [*_AUTHOR, "commit", "-qm", "base"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)


def _session(folder: Path, *options: str, allowed: tuple[int, ...] = (0,)) -> float:
    """Seconds of a session in a folder.

    Raises:
        RuntimeError: it ended with another status than those allowed.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *_PYTEST, *options],
        cwd=folder,
        env=environment(PYTHONPATH=str(Path.cwd())),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode not in allowed:
        raise RuntimeError(f"{options}: status {done.returncode}\n{done.stdout}")
    return seconds


if __name__ == "__main__":
    main()
