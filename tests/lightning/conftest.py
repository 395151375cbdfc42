"""What the tests of the Lightning layer share."""

import importlib
import os

import inner
import pytest
from filelock import FileLock


@pytest.fixture
def made():
    """The small training of `lightning_made`, on ranks: it imports Lightning."""
    return importlib.import_module("lightning_made")


@pytest.fixture(scope="session")
def whole_session(tmp_path_factory):
    """Runs an inner session that the tests of a file share, also across xdist's workers:
    ``whole_session(name, prepare, *sources, args=...)``.
    """

    def run(name, prepare, *sources, **kwargs):
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
        with FileLock(f"{folder}.lock"):
            if folder.joinpath("status").exists():
                return inner.Session(folder)
            folder.mkdir(exist_ok=True)
            prepare(folder)
            return inner.run(folder, *sources, **kwargs)

    return run
