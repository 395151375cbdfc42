"""Fixtures for tests that run pytest inside pytest; see `inner`."""

import os

import inner
import pytest
from filelock import FileLock


def pytest_configure(config):
    """Registers the mark of the tests that share an inner session."""
    config.addinivalue_line(
        "markers",
        "inner(source): a test file for the inner session that all tests with this mark share.",
    )


@pytest.fixture
def inner_session(tmp_path):
    """Runs test files in an inner session of their own: ``inner_session(source, args=[...])``."""
    return lambda *sources, **kwargs: inner.run(tmp_path, *sources, **kwargs)


@pytest.fixture(scope="session")
def _shared(request, tmp_path_factory):
    """One inner session for the sources of all ``inner`` marks, also across xdist's workers.

    An agent takes seconds to start; the sources are files of their own and share no more than it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared_session"
    marks = (item.get_closest_marker("inner") for item in request.session.items)
    sources = sorted({mark.args[0] for mark in marks if mark is not None})
    with FileLock(f"{folder}.lock"):
        if folder.joinpath("status").exists():
            return inner.Session(folder)
        folder.mkdir(exist_ok=True)
        return inner.run(folder, *sources)


@pytest.fixture
def shown(request, _shared):
    """What the shared inner session showed of this test's ``inner`` source."""
    (file,) = inner.write(_shared.folder, request.node.get_closest_marker("inner").args[0])
    return _shared.test(file)
