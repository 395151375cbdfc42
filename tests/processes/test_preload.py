"""What an agent imports: for engines where a session has engines, and torch alone otherwise."""

import importlib
import subprocess
import sys
import types
from pathlib import Path

import inner
import pytest

from pytest_deepspeed.processes import preload

#: No word of these files says what they import.
PLAIN = """
    import sys

    import pytest

    @pytest.mark.world_size(2)
    def test_plain():
        assert "torch.distributed" in sys.modules
        assert "deep" + "speed" not in sys.modules
"""
UNNAMED = """
    import importlib
    import sys

    import pytest
    import torch

    NAME = "deep" + "speed"

    @pytest.mark.world_size(2)
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_unnamed(number):
        late = [f"{NAME}.runtime.engine", "torch._inductor"]
        assert [name in sys.modules for name in late] == [number > 1] * 2
        library = importlib.import_module(NAME)
        assert library.ops.__compatible_ops__[f"{NAME}_shm_comm"] is False
        optimizer = {"type": "SGD", "params": {"lr": 0.1}}
        config = {"train_micro_batch_size_per_gpu": 1, "optimizer": optimizer}
        engine, *_ = library.initialize(model=torch.nn.Linear(4, 4), config=config)
        assert engine.zero_optimization_stage() == 0
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Imports a module of one line, and takes it back."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def module(name, line):
        tmp_path.joinpath(f"{name}.py").write_text(f"{line}\n")
        made.append(name)
        return importlib.import_module(name)

    yield module
    for name in made:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("HELP = 'trained with deepspeed'", True),
        ("def test_it(ds_train): ...", True),
        ("TARGET = 'pytorch_lightning'", True),
        ("TARGET = 'lightning.pytorch'", True),
        ("def test_it(ds_run): ...", False),
        ("PLUGIN = 'pytest_deepspeed'", False),
    ],
)
def test_who_names_engines(tmp_path, module, line, named):
    """Protects: the word decides, wherever in a module of the project it stands."""
    assert preload.name_engines([module("preload_named", line)], tmp_path) is named


def test_whose_modules_are_asked(tmp_path, module):
    """Protects: what is no module of the project's files decides nothing."""
    own = module("preload_elsewhere", "import importlib  # deepspeed")
    gone = types.ModuleType("preload_gone")
    gone.__file__ = str(tmp_path / "preload_gone.py")

    assert not preload.name_engines([own], tmp_path / "project")
    assert not preload.name_engines([gone, types.ModuleType("preload_none"), sys], tmp_path)
    assert not preload.name_engines([preload], Path(preload.__file__).parent)


def test_asking_where_it_is_is_no_import():
    """Protects: what is done after DeepSpeed's import is done after that, whoever has looked for it
    before, and once.
    """
    code = """if True:
        import importlib.util
        import sys
        from pytest_deepspeed.processes import preload

        preload.after_deepspeed(lambda: done.append(sys.modules["deepspeed"].ops))
        done, finders = [], len(sys.meta_path)
        assert importlib.util.find_spec("deepspeed").origin.endswith("__init__.py")
        assert not done
        import deepspeed
        assert done == [deepspeed.ops]
        assert len(sys.meta_path) == finders - 1
        preload.after_deepspeed(lambda: done.append("at once"))
        assert done == [deepspeed.ops, "at once"]
    """
    subprocess.run([sys.executable, "-c", code], check=True, env=inner.environment())


def test_sessions(tmp_path):
    """Protects: a session that names no DeepSpeed starts without the seconds of importing it; where
    ranks import it unforeseen it is set up as ever, and the agent has it before the next world.
    """
    for source in (PLAIN, UNNAMED):
        folder = tmp_path / f"{len(source)}"
        folder.mkdir()
        session = inner.run(folder, source)
        assert session.status == 0, session.output
