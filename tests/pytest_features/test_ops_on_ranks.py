"""A rank that needs a DeepSpeed op gets it built outside, or a message that says what to do."""

import shutil
from pathlib import Path

import inner

LOADS = """
    import pytest

    @pytest.mark.world_size(2)
    @pytest.mark.ds_timeout(20)
    def test_loads(rank):
        from deepspeed.ops.op_builder import CPULionBuilder
        CPULionBuilder().load()
"""


def test_a_missing_compiler_is_named(tmp_path):
    """Protects: an op that cannot be built fails the test with the package to install."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "env", "uname", "which", "ninja", "ldconfig"):
        if found := shutil.which(name):
            (tools / name).symlink_to(Path(found).resolve())
    inner.write(tmp_path, LOADS)
    process = inner.start(
        tmp_path, PATH=str(tools), PYTEST_DS_OPS_CACHE=str(tmp_path / "ops"), CXX="", CC=""
    )
    process.wait(300)
    session = inner.Session(tmp_path)

    assert process.returncode == 1, session.output
    assert "DeepSpeed's op cpu_lion could not be built" in session.output
    assert "apt-get install g++" in session.output
    assert "OpBuildError" in session.output
