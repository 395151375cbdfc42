"""What a test needs of the machine: a skip that says what is missing, or with ``--ds-require`` a
failure.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_deepspeed.options import Settings


def need_nvme(settings: Settings, path: Path) -> None:
    """Skips the test where nothing can be offloaded to NVMe in a directory."""
    from pytest_deepspeed.training.machine import Machine

    reason = Machine.find(settings.device, path).no_nvme
    if reason is not None and "nvme" in settings.require:
        pytest.fail(f"--ds-require=nvme: {reason}", pytrace=False)
    if reason is not None:
        pytest.skip(reason)
