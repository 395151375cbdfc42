"""What the doctor's tests share: a ``PATH`` of their own."""

import pytest


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """``PATH`` with these programs alone, each a shell script: ``programs(srun="echo 1")``."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("LMOD_CMD", raising=False)
    monkeypatch.delenv("CXX", raising=False)

    def write(**scripts):
        for name, script in scripts.items():
            file = folder / name
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)

    return write
