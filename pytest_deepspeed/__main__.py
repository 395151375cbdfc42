"""``torchrun … -m pytest_deepspeed TEST``: a test's body on torchrun's ranks.

What the last line of a failure says. Each process is one rank: it sets up the test's fixtures and
runs its body, without controller, agent or capture.
"""

from __future__ import annotations

import os
import sys

import pytest

from pytest_deepspeed.inprocess import under_torchrun


def main() -> int:
    """Runs the tests named on the command line in this process."""
    if not under_torchrun() or len(sys.argv) < 2:
        sys.stderr.write(
            "usage: torchrun --standalone --nproc_per_node=N -m pytest_deepspeed TEST [OPTION]...\n"
            "Runs TEST (such as tests/test_a.py::test_b) with each process as one rank.\n"
        )
        return 2
    quiet = ["-q", "--no-header"] if os.environ["RANK"] != "0" else []
    options = ["-s", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly"]
    options += ["-W", "ignore:Module already imported so cannot be rewritten"]
    return int(pytest.main([*options, *quiet, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
