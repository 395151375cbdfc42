# ruff: noqa: E501 (messages are compared as they are shown)
"""Nodes on which tests cannot run are told before any test, in one message each."""

import contextlib
import sys
from importlib import metadata

import in_a_job

_TEST = """
import pytest


@pytest.mark.multinode
@pytest.mark.world_size(2)
def test_ranks(rank):
    pass


def test_here():
    pass
"""

# What Python on n2 does when it starts.
_CLOCK = """
import time
now = time.time
time.time = lambda: now() + 3600
"""
_VERSION = """
from importlib import metadata
version = metadata.version
metadata.version = lambda name: "2.0.0" if name == "torch" else version(name)
"""
_PACKAGE = """
import sys
class Missing:
    def find_spec(name, path, target=None):
        if name == "pytest_deepspeed":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing)
"""


def _submit_with_other_python(slurm, folder, source):
    """A session with an n2 whose Python runs ``source`` at its start."""
    inside = "".join(f"    {line}\n" for line in source.splitlines())
    made = f"import os\nif os.environ.get('SLURMD_NODENAME') == 'n2':\n{inside}"
    folder.joinpath("sitecustomize.py").write_text(made)
    return in_a_job.submit(slurm, folder, _TEST, PYTHONPATH=folder)


def _told(session):
    """The first line of the one failure; what else is shown are the last words of the agent."""
    done = session.wait()
    assert (done.state, done.status) == ("FAILED", 1), session.output
    return _failure(session)


def _failure(session):
    (block,) = session.failures(session.folder / "test_ranks.py").values()
    told = block.splitlines()[0]
    assert {name: text.rstrip('"') for name, text in session.junit.items()} == {
        "test_ranks": f'error: failed on setup with "Failed: {told}',
        "test_here": "",
    }
    session.wait_gone()
    return told


def test_another_clock(isolated_slurm, tmp_path):
    """Files of both nodes are compared by their time, so clocks must agree."""
    session = _submit_with_other_python(isolated_slurm, tmp_path, _CLOCK)
    assert _told(session) == (
        "the clock of n2 is 3600 s ahead of that of n1: what is on a directory that both share, such as compiled ops, is compared by its time. Set them by NTP (`chronyc tracking` says how far off one is)"
    )


def test_another_version(isolated_slurm, tmp_path):
    """Ranks of two versions of torch would fail in ways that say nothing of versions."""
    session = _submit_with_other_python(isolated_slurm, tmp_path, _VERSION)
    assert _told(session) == (
        f"torch is {metadata.version('torch')} on n1 and 2.0.0 on n2: all nodes need the same environment, which slurm/config_env.sh makes on each"
    )


def test_a_missing_package(isolated_slurm, tmp_path):
    """A node without this package says so, and not the traceback alone."""
    session = _submit_with_other_python(isolated_slurm, tmp_path, _PACKAGE)
    assert _told(session) == (
        f"node n2 cannot be used: {sys.executable} lacks this package there: all nodes need the same environment, which slurm/config_env.sh makes on each."
    )


def test_a_missing_python(isolated_slurm, tmp_path):
    """A virtual environment that only the first node has is named."""
    env = isolated_slurm.local / "env"
    packages = [path for path in sys.path if path.endswith("site-packages")]
    library = "{}/lib/python{}.{}/site-packages".format(env, *sys.version_info[:2])
    before = f"{sys.executable} -m venv --without-pip {env}\n" + "".join(
        f"echo 'import site; site.addsitedir(\"{path}\")' >> {library}/all.pth\n"
        for path in packages
    )
    session = in_a_job.submit(
        isolated_slurm, tmp_path, _TEST, before=before, python=env / "bin/python"
    )
    assert _told(session) == (
        "node n2 cannot be used: CLUSTER/local/env/bin/python does not exist there: all nodes need the same environment, which slurm/config_env.sh makes on each."
    )


def test_a_directory_that_is_not_shared(isolated_slurm, tmp_path):
    """tmp_path must be seen by all ranks."""
    option = f"--basetemp={isolated_slurm.local}/tmp"
    session = in_a_job.submit(isolated_slurm, tmp_path, _TEST, option)
    assert _told(session) == (
        "n2 does not see CLUSTER/local/tmp, where tests have their tmp_path: it must be on a file system that all nodes share. Name a directory there, which is emptied first: --basetemp=$SLURM_SUBMIT_DIR/pytest-tmp"
    )


@contextlib.contextmanager
def _no_way_to_n1(slurm):
    """None from n2; Slurm itself needs only those from the login node."""
    way = ("unreachable", slurm.address("n1"))
    slurm.run("srun", "--nodelist=n2", "ip", "route", "add", *way)
    try:
        yield
    finally:
        slurm.run("srun", "--nodelist=n2", "ip", "route", "del", *way)


def test_a_first_node_that_cannot_be_reached(isolated_slurm, tmp_path):
    """Ranks would wait for each other until their budget."""
    with _no_way_to_n1(isolated_slurm):
        salloc = in_a_job.from_login_node(isolated_slurm, tmp_path, _TEST)
        assert salloc.wait(300) == 1
    assert _failure(in_a_job.JobSession(tmp_path, isolated_slurm)) == (
        "n2 cannot connect to n1: tried 10.0.0.1 (No route to host), n1 (No route to host). Ranks connect to each other on ports that the system chooses: the network between nodes must let them through"
    )


def test_more_nodes_than_granted(isolated_slurm, tmp_path):
    """The line that asks for enough has the user's own arguments."""
    session = in_a_job.submit(isolated_slurm, tmp_path, _TEST, "--ds-nodes=3", "-k", "here")
    assert session.wait().status == 4
    assert session.output == (
        "ERROR: --ds-nodes=3 asks for more nodes than job N has: 2 (n[1-2]). Use --ds-nodes=2, or submit a larger job:\n"
        "    sbatch --nodes=3 slurm/pytest.sbatch -rfEs --junitxml=junit.xml --basetemp=tmp --ds-nodes=2 --ds-nodes=3 -k here\n\n"
    )
