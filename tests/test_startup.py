"""What the plugin costs a suite that never uses it."""

import subprocess
import sys

import inner

WATCHES = """
    import sys

    def test_modules():
        heavy = {"torch", "deepspeed", "numpy", "torchvision", "hjson", "reference_training"}
        assert not heavy & set(sys.modules)
        own = sorted(m for m in sys.modules if m.startswith("pytest_deepspeed."))
        assert "pytest_deepspeed.controller" not in own
"""

RANKED = """
    import sys
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.ds_config(stage=1)
    def test_ranked(ds_config):
        assert ds_config["zero_optimization"]["stage"] == 1

    def test_after():
        assert "torch" not in sys.modules
        assert "deepspeed" not in sys.modules
"""


def test_an_unused_plugin_imports_little(inner_session):
    """Protects: neither torch nor deepspeed nor our own controller, where no test needs ranks."""
    session = inner_session(WATCHES)

    assert session.status == 0, session.output


def test_the_controller_never_imports_torch(inner_session):
    """Protects: a session that has run ranks and read configs has no torch in the controller."""
    session = inner_session(RANKED)

    assert session.status == 0, session.output


def test_no_agent_without_ranks(tmp_path):
    """Protects: a session without ranked tests starts no process."""
    (file,) = inner.write(tmp_path, "def test_plain(): pass")
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, str(file)], env=inner.environment(), check=False
    )

    assert done.returncode == 0


CHILDREN = """
import sys, subprocess, pytest
started = []
real = subprocess.Popen.__init__
def note(self, *args, **kwargs):
    started.append(args)
    real(self, *args, **kwargs)
subprocess.Popen.__init__ = note
# pytest-metadata, of pytest-html, asks `uname`.
status = pytest.main([sys.argv[1], "-q", "-p", "no:html", "-p", "no:metadata"])
sys.exit(status or len(started))
"""
