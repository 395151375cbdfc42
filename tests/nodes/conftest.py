"""One inner session over two emulated nodes for many tests; see `inner` in the folder above."""

import os

import inner
import pytest
from filelock import FileLock
from nodes_lines import TWO_NODES, freed


def pytest_configure(config):
    """Registers the mark of the tests that share the session over nodes."""
    config.addinivalue_line(
        "markers",
        "over_nodes(source): a test file for the inner session over two nodes, which all tests"
        " with this mark share.",
    )


@pytest.fixture(scope="session")
def _shared_over_nodes(request, tmp_path_factory):
    """One inner session for the sources of all ``over_nodes`` marks, as that of `inner` is."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "over_nodes"
    marks = (item.get_closest_marker("over_nodes") for item in request.session.items)
    sources = sorted({mark.args[0] for mark in marks if mark is not None})
    with FileLock(f"{folder}.lock"):
        if folder.joinpath("status").exists():
            return inner.Session(folder)
        folder.mkdir(exist_ok=True)
        return inner.run(folder, *sources, args=TWO_NODES, timeout=1500)


@pytest.fixture
def over_nodes(request, _shared_over_nodes):
    """What the shared session over two nodes showed of this test's ``over_nodes`` source."""
    source = request.node.get_closest_marker("over_nodes").args[0]
    (file,) = inner.write(_shared_over_nodes.folder, source)
    return _shared_over_nodes.test(file)


@pytest.fixture
def failures(over_nodes):
    """Each failure of this test's source: ``{headline: text}``; see `freed`."""
    shown = over_nodes.session.failures(over_nodes.file)
    return {headline: freed(text) for headline, text in shown.items()}
