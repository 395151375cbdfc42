"""Slurm clusters for tests; see `cluster` and `isolated`."""

import cluster
import isolated
import pytest

from pytest_deepspeed.options import SETTINGS


@pytest.fixture(scope="session")
def _needs_slurm(pytestconfig):
    _need(cluster.missing(), pytestconfig)


@pytest.fixture(scope="session")
def _needs_namespaces(pytestconfig, _needs_slurm):
    _need(isolated.missing(), pytestconfig)


def _need(missing, config):
    if not missing:
        return
    if "slurm" in config.stash[SETTINGS].require:
        pytest.fail(f"{missing}\nRequired by --ds-require=slurm.", pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def slurm(_needs_slurm, tmp_path_factory):
    """A cluster of two nodes that all tests of an xdist worker use, one after the other.

    Whatever jobs a test leaves are cancelled after it. One that harms nodes takes `own_slurm`.
    """
    with cluster.Cluster(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def own_slurm(_needs_slurm, tmp_path):
    """A cluster of two nodes for one test. It takes about 10 seconds to see that a node is lost."""
    with cluster.Cluster(tmp_path / "slurm", conf=cluster.QUICK_TO_SEE_A_LOSS) as made:
        yield made


@pytest.fixture(scope="session")
def isolated_slurm(_needs_namespaces, tmp_path_factory):
    """`slurm` with nodes that share no address, no name and not every directory."""
    with isolated.IsolatedCluster(tmp_path_factory.mktemp("isolated_slurm")) as made:
        yield made


@pytest.fixture
def own_isolated_slurm(_needs_namespaces, tmp_path):
    """`isolated_slurm` for one test, to be harmed."""
    with isolated.IsolatedCluster(tmp_path / "slurm", conf=cluster.QUICK_TO_SEE_A_LOSS) as made:
        yield made


@pytest.fixture(autouse=True)
def _settle(request):
    """Leaves the shared clusters to the next test as they were."""
    yield
    for name in {"slurm", "isolated_slurm"} & set(request.fixturenames):
        request.getfixturevalue(name).settle()
