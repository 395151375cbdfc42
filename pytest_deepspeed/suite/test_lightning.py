"""The reference Lightning programs, each check of each a test.

ZeRO-3 over all devices, with offload to the CPU, and with offload to NVMe. What this machine cannot
run is skipped, with the reason.
"""

from __future__ import annotations

import pytest

from pytest_deepspeed.checking import DsCheck
from pytest_deepspeed.values.finding import Check

#: Wide enough that its large layers are partitioned, and swapped, at DeepSpeed's own thresholds.
_PROGRAM = "-m reference_training.lightning_cifar10 --width 4 --batch_size 8 --max_epochs 1"


def _mode(name: str, *more: str) -> object:
    # The directory is the test's own, whatever the program is told.
    target = f"{_PROGRAM} --mode {name} --nvme_path /tmp"
    marks = [pytest.mark.lightning(target), pytest.mark.zero3]
    return pytest.param(name, marks=[*marks, *(getattr(pytest.mark, mark) for mark in more)])


each_mode = pytest.mark.parametrize(
    "mode",
    [_mode("zero3"), _mode("offload_cpu", "offload_cpu"), _mode("offload_nvme", "offload_nvme")],
)


@each_mode
@pytest.mark.parametrize("check", ["loss", "ranks", "parity", "engagement", "memory", "checkpoint"])
def test_lightning(check: Check, mode: str, ds_check: DsCheck) -> None:
    """Protects: Lightning trains what plain torch trains, in the mode that was asked for."""
    ds_check(check)
