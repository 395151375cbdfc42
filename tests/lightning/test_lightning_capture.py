"""What stands between a user's code and Lightning's Trainer."""

import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [pytest.mark.lightning, pytest.mark.ds_timeout(100)]
on_one_rank = pytest.mark.world_size(1)

HEAD = """
import sys
from pathlib import Path

import lightning_made
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.strategies import DeepSpeedStrategy

def fit(**given):
    given = {"accelerator": "gpu", "devices": 8, "num_nodes": 4, **given}
    pl.Trainer(**given).fit(lightning_made.Net(), lightning_made.loader())

"""

GLOO = "-> DeepSpeedCPUStrategy with gloo, since Lightning refuses DeepSpeed on a CPU."


@pytest.fixture
def script(tmp_path):
    """Write a script; give its path as text."""

    def write(body, name="train.py", head=HEAD):
        file = tmp_path / name
        file.write_text(head + textwrap.dedent(body))
        return str(file)

    return write


def run(target, fit=lambda *_: None, **more):
    """Run a target; give what was changed."""
    from pytest_deepspeed.training.lightning.capture import Capture
    from pytest_deepspeed.training.lightning.target import Target

    given = {"data": "synthetic", "seed": 0, "steps": 3, "callbacks": [], **more}
    capture = Capture(Target(target), **given)
    capture.run(fit)
    return capture.changes


def captured(target, **more):
    """The Trainer that a target makes, and what was changed."""
    trainers = []
    changes = run(target, lambda trainer, *_: trainers.append(trainer), **more)
    return trainers[0], changes


def error_of(target):
    """What a person is told of code that cannot be checked."""
    from pytest_deepspeed.training.workload.contract import WorkloadError

    with pytest.raises(WorkloadError) as raised:
        run(target)
    return str(raised.value)


@pytest.mark.world_size(2)
def test_the_world_of_the_test(script):
    """Protects: a script for a cluster gets the ranks of the test, on the CPU, and no more steps
    than are asked for.
    """
    from pytorch_lightning.accelerators import CPUAccelerator

    named = script("fit(strategy='deepspeed_stage_3_offload', max_epochs=90, max_time='00:12')")
    trainer, changes = captured(named)

    assert isinstance(trainer.accelerator, CPUAccelerator)
    assert (trainer.num_devices, trainer.num_nodes) == (2, 1)
    assert (trainer.max_steps, trainer.max_epochs, trainer.limit_val_batches) == (3, -1, 0)
    assert type(trainer.strategy).__name__ == "DeepSpeedCPUStrategy"
    zero = trainer.strategy.config["zero_optimization"]
    assert (zero["stage"], zero["offload_optimizer"]["device"]) == (3, "cpu")
    assert changes == [f"strategy='deepspeed_stage_3_offload' {GLOO}"]


@on_one_rank
def test_strategies(script):
    """Protects: a strategy object is taken over with its config, and ours is left as it is."""
    theirs, said = captured(
        script("fit(strategy=DeepSpeedStrategy(stage=1, offload_optimizer=True))")
    )
    ours, nothing = captured(script("fit(strategy=lightning_made.DeepSpeedCPUStrategy(stage=2))"))

    assert theirs.strategy.config["zero_optimization"]["stage"] == 1
    assert said == [f"DeepSpeedStrategy {GLOO}"]
    assert ours.strategy.config["zero_optimization"]["stage"] == 2
    assert nothing == []


@on_one_rank
@pytest.mark.parametrize(
    ("given", "trained"),
    [(16, "bf16-mixed"), ("16-mixed", "bf16-mixed"), ("16-true", "bf16-true")],
)
def test_half_precision(script, given, trained):
    """Protects: what a CPU cannot train in is changed, and said; bf16 is left as it is."""
    trainer, (_, said) = captured(script(f"fit(strategy=DeepSpeedStrategy(), precision={given!r})"))
    other, changes = captured(script("fit(strategy=DeepSpeedStrategy(), precision='bf16-true')"))

    assert trainer.precision == trained
    assert said == f"precision {given} -> {trained} (a CPU does not train in fp16)."
    assert (other.precision, changes) == ("bf16-true", [f"DeepSpeedStrategy {GLOO}"])


@on_one_rank
def test_callbacks_and_files(script, tmp_path, monkeypatch):
    """Protects: what writes or shows is left out, the user's own callbacks are kept, the checks'
    come last, and no file is written.
    """
    from pytorch_lightning import Callback

    monkeypatch.chdir(tmp_path)
    path = script("""
        class Mine(pl.Callback):
            pass

        more = [ModelCheckpoint(), Mine(), LearningRateMonitor(), EarlyStopping("train_loss")]
        fit(strategy=DeepSpeedStrategy(), callbacks=more, logger=True, enable_checkpointing=True,
            enable_progress_bar=True, profiler="simple", fast_dev_run=True, barebones=False)
    """)
    trainer, _ = captured(path, callbacks=[Callback()])
    single, _ = captured(
        script("fit(strategy=DeepSpeedStrategy(), callbacks=EarlyStopping('train_loss'))")
    )

    assert [type(c).__name__ for c in trainer.callbacks] == ["Mine", "EarlyStopping", "Callback"]
    assert (trainer.loggers, trainer.checkpoint_callbacks) == ([], [])
    assert (trainer.progress_bar_callback, trainer.fast_dev_run) == (None, False)
    assert [type(c).__name__ for c in single.callbacks] == ["EarlyStopping"]
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


@on_one_rank
def test_what_a_script_sees(script, tmp_path):
    """Protects: a script runs as python runs it, with the module beside it; a function as it is."""
    tmp_path.joinpath("beside_it.py").write_text("WORD = 'found'\n")
    path = script("""
        import beside_it

        class Here:
            pass

        seen = [sys.argv, __file__, __name__, sys.path[0], beside_it.WORD, Here.__module__]
        Path(__file__).with_name("seen").write_text(repr(seen))
        if __name__ == "__main__":
            fit(strategy=DeepSpeedStrategy())
    """)
    before = sys.argv, sys.path[:]
    run(f"{path} --lr 0.1 'two words'")

    assert tmp_path.joinpath("seen").read_text() == repr(
        [
            [path, "--lr", "0.1", "two words"],
            path,
            "__main__",
            str(tmp_path),
            "found",
            "__main__",
        ]
    )
    assert (sys.argv, sys.path) == before


@on_one_rank
def test_a_function(script, tmp_path, monkeypatch):
    """Protects: a function of a module is a target too."""
    monkeypatch.syspath_prepend(tmp_path)
    script("def main():\n    fit(strategy=DeepSpeedStrategy(stage=1))\n", name="mine.py")

    trainer, _ = captured("mine:main")

    assert trainer.strategy.config["zero_optimization"]["stage"] == 1


@on_one_rank
def test_fit_is_the_end(script, tmp_path):
    """Protects: what was given to `fit` arrives, a checkpoint to resume from aside, no code behind
    it runs, and none that catches its errors either.
    """
    path = script(
        """
        try:
            pl.Trainer(strategy=DeepSpeedStrategy(stage=1), devices=8, accelerator="gpu").fit(
                lightning_made.Net(), lightning_made.loader(), None, None, "no/such.ckpt"
            )
        except Exception:
            Path(__file__).with_name("caught").touch()
        Path(__file__).with_name("behind").touch()
        """
    )
    steps = []

    def fit(trainer, _, real_fit):
        real_fit()
        steps.append(trainer.global_step)

    run(path, fit)

    assert steps == [3]
    assert [file.name for file in tmp_path.iterdir()] == ["train.py"]


@on_one_rank
def test_code_that_catches_everything(script):
    """Protects: code that catches even what ends it has been captured, and a training that fails
    is not passed over where the code does.
    """
    path = script("""
        try:
            fit(strategy=DeepSpeedStrategy())
        except:
            pass
    """)

    def fails(*_):
        raise ZeroDivisionError("in fit")

    assert run(path) == [f"DeepSpeedStrategy {GLOO}"]
    with pytest.raises(ZeroDivisionError, match="in fit"):
        run(path, fails)


CIFAR10 = """
from reference_training.compat import import_torchvision

CIFAR10 = import_torchvision().datasets.CIFAR10
train = CIFAR10(root="./data", train=True, {download}transform=lambda image: image.size)
held_out = CIFAR10("./data", False)
seen = len(train), train[0][0], held_out.transform, train.data.shape == held_out.data.shape
Path(__file__).with_name("seen").write_text(repr(seen))
fit(strategy=DeepSpeedStrategy())
"""


@on_one_rank
@pytest.mark.parametrize("download", ["", "download=False, ", "download=True, "])
def test_cifar10_that_is_not_there(script, tmp_path, monkeypatch, download):
    """Protects: nothing is downloaded: other images take its place, and that is said."""
    monkeypatch.chdir(tmp_path)
    _, changes = captured(script(CIFAR10.format(download=download)))

    assert tmp_path.joinpath("seen").read_text() == repr((2048, (32, 32), None, True))
    assert changes == [
        "CIFAR10 is not in './data': synthetic (2,048 images) in its place.",
        "CIFAR10 is not in './data': synthetic (2,048 test images) in its place.",
        f"DeepSpeedStrategy {GLOO}",
    ]
    assert not tmp_path.joinpath("data").exists()


@on_one_rank
def test_all_is_as_it_was(script):
    """Protects: Lightning's Trainer and the data set are themselves again, after errors too."""
    import pytorch_lightning as pl

    from reference_training.compat import import_torchvision

    cifar10 = import_torchvision().datasets.CIFAR10
    before = pl.Trainer.__init__, pl.Trainer.fit, cifar10.__init__
    run(script("fit(strategy=DeepSpeedStrategy())"))
    with pytest.raises(ZeroDivisionError):
        run(script("1 / 0"))

    assert (pl.Trainer.__init__, pl.Trainer.fit, cifar10.__init__) == before


@on_one_rank
def test_code_that_cannot_be_checked(script, tmp_path, monkeypatch):
    """Protects: each says what was run, what is wrong, and what to write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    script("def main():\n    pass\n", name="mine.py")
    where = "Its arguments are those of the marker `lightning`, or `arguments` in pyproject.toml"
    ended = script("sys.exit(3)", name="ends.py")
    usage = script("import argparse\nargparse.ArgumentParser().parse_args()\n", name="usage.py")
    without = script("if __name__ == 'train':\n    fit()\n")
    strange = script("fit(strategy='ddp')", name="ddp.py")
    objects = script(
        "from pytorch_lightning.strategies import DDPStrategy\nfit(strategy=DDPStrategy())\n",
        name="ddp_object.py",
    )
    unnamed = script("fit()", name="auto.py")

    assert error_of(ended) == (
        f"{ended} ended with status 3 before Trainer.fit: what it printed is below. {where}"
    )
    assert error_of(f"{usage} --no") == (
        f"{usage} --no ended with status 2 before Trainer.fit: what it printed is below. {where}"
    )
    assert error_of(without) == (
        f"{without} ended without a call of Trainer.fit: there is no training to check. Does it"
        " call it below if __name__ == '__main__'?"
    )
    of = "the checks are of a DeepSpeedStrategy"
    assert error_of(strange) == (
        f"{strange} makes a Trainer with strategy='ddp', which is not DeepSpeed's: {of}"
    )
    assert error_of(objects) == (
        f"{objects} makes a Trainer with DDPStrategy, which is not DeepSpeed's: {of}"
    )
    assert error_of(unnamed) == (
        f"{unnamed} makes a Trainer with strategy='auto', which is not DeepSpeed's: {of}"
    )
    assert error_of("no.py") == f"no.py: there is no such file in {Path.cwd()}"
    assert error_of("mine:no") == "mine:no: mine has no no"
    assert error_of("nowhere.mine:main") == (
        "nowhere.mine:main: there is no module 'nowhere': add its directory to `pythonpath` in the"
        " ini file"
    )
