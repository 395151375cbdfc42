"""The three Lightning programs: their flags, where they run, and that they train as DeepSpeed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_deepspeed.processes import op_cache
from reference_training import cifar10, lightning_cifar10
from reference_training.record import Record

on_two_ranks = pytest.mark.world_size(2)
pytestmark = [pytest.mark.lightning, pytest.mark.ds_timeout(200)]

#: Of 2,048 synthetic images on two ranks: two epochs of four steps.
SMALL = ["--width", "1", "--batch_size", "256", "--lr", "0.01"]

#: What the launchers say of a process.
LAUNCHERS = (
    "LOCAL_WORLD_SIZE",
    "WORLD_SIZE",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_NTASKS",
    "SLURM_NNODES",
)


@pytest.fixture
def run(monkeypatch):
    """Train as the program does; give this rank's record, and the Trainer."""
    make, kept = lightning_cifar10._trainer, []

    def keep(*arguments):
        kept.append(make(*arguments))
        return kept[-1]

    monkeypatch.setattr(lightning_cifar10, "_trainer", keep)

    def run(*options):
        args = lightning_cifar10._parse([str(option) for option in options])
        return lightning_cifar10.fit(args), kept[-1]

    return run


def plain(mode, steps, **more):
    """The record of the same training without Lightning."""
    from reference_training.train import train

    zero = {"stage": 3}
    if mode == "offload_cpu":
        zero |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    config = {
        "train_batch_size": 512,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01}},
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
    }
    return train(config, steps=steps, **more)


@on_two_ranks
@pytest.mark.parametrize("mode", ["zero3", "offload_cpu"])
def test_the_loss_curve_is_that_of_plain_deepspeed(mode, run, tmp_path):
    """Protects: Lightning and plain DeepSpeed train alike, over two epochs and when resumed."""
    record, _ = run(*SMALL, "--mode", mode)
    expected = plain(mode, 8)

    assert record.loss == pytest.approx(expected.loss, abs=1e-5, rel=0)
    assert record.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    assert record.lr == expected.lr == (0.01,) * 8
    assert min(record.loss[:4]) > max(record.loss[-2:])

    saved = tmp_path / "saved"
    first, _ = run(*SMALL, "--mode", mode, "--max_epochs", 1, "--checkpoint", saved)
    later = resumed([*SMALL, "--mode", mode, "--seed", "0"], saved)

    assert (first.loss, later.start_step) == (record.loss[:4], 4)
    assert later.loss == pytest.approx(expected.loss[4:], abs=1e-5, rel=0)


def resumed(options, saved):
    """The record of a training that goes on from a checkpoint, on other weights at first."""
    from reference_training.lightning_module import Classifier, ImageData
    from reference_training.lightning_record import StepRecorder

    args = lightning_cifar10._parse(options)
    recorder = StepRecorder()
    lightning_cifar10._trainer(args, [recorder]).fit(
        Classifier(lr=args.lr, width=1, seed=5, cpu_optimizer=args.mode != "zero3"),
        datamodule=ImageData(None, batch_size=args.batch_size, seed=args.seed),
        ckpt_path=saved,
    )
    return recorder.record


@on_two_ranks
def test_each_flag_has_its_effect(run, tmp_path):
    """Protects: no flag is read and forgotten."""
    from reference_training.model import Net

    saved, short = tmp_path / "saved", ["--width", "1", "--batch_size", "16", "--max_steps", "2"]
    base, trainer = run(*short)
    assert (len(base.loss), base.train_batch_size, base.lr) == (2, 32, (1e-3, 1e-3))
    assert (trainer.max_epochs, trainer.train_dataloader.num_workers) == (2, 0)
    assert "offload_param" not in trainer.strategy.config["zero_optimization"]
    assert type(trainer.strategy).__name__ == "DeepSpeedCPUStrategy"
    assert trainer.callback_metrics == {}
    assert base.data == "synthetic (2,048 images)"

    assert run(*short, "--lr", 0.25)[0].lr == (0.25, 0.25)
    assert run(*short, "--batch_size", 8)[0].train_batch_size == 16
    assert len(run(*short, "--max_steps", 3)[0].loss) == 3
    assert run(*short, "--seed", 1)[0].loss != base.loss
    wide = run(*short, "--width", 2)[0].parameters
    assert wide == sum(parameter.numel() for parameter in Net(2).parameters()) != base.parameters

    epoch, trainer = run(*short, "--batch_size", 512, "--max_steps", -1, "--max_epochs", 1)
    assert (len(epoch.loss), trainer.current_epoch) == (2, 1)

    loaded, trainer = run(*short, "--num_workers", 1)
    assert (loaded.loss, trainer.train_dataloader.num_workers) == (base.loss, 1)

    offloaded, trainer = run(*short, "--mode", "offload_cpu")
    zero = trainer.strategy.config["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"
    assert offloaded.loss == pytest.approx(base.loss, abs=1e-5, rel=0)

    _, trainer = run(*short, "--validate", "--checkpoint", saved)
    assert trainer.callback_metrics.keys() == {"val_loss", "val_accuracy"}
    assert saved.joinpath("checkpoint").is_dir()

    half, trainer = run(*short, "--precision", "bf16-mixed")
    assert trainer.precision == "bf16-mixed"
    assert half.loss == pytest.approx(base.loss, rel=0.02)


@on_two_ranks
def test_the_program(capsys, rank, tmp_path):
    """Protects: rank 0 alone tells what was trained, and writes its record."""
    file = tmp_path / f"record-{rank}.json"
    options = ["--width", "1", "--batch_size", "16", "--max_steps", "2", "--record", str(file)]

    status = lightning_cifar10.main(options)
    lines = [line for line in capsys.readouterr().out.splitlines() if " steps of " in line]

    assert status == 0
    assert file.exists() == (rank == 0)
    if rank == 0:
        record = Record.from_json(file.read_text())
        assert (record.world_size, record.train_batch_size, len(record.loss)) == (2, 32, 2)
        assert lines == [cifar10.summary(record)]
    else:
        assert lines == []


@pytest.mark.world_size(1)
def test_missing_data(capsys, tmp_path):
    """Protects: what the data module says is one line here."""
    status = lightning_cifar10.main(["--data", str(tmp_path / "no")])

    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"reference_training.lightning_cifar10: error: the data directory {tmp_path}/no does not"
        " exist: give the one that holds cifar-10-batches-py"
    )


def test_nvme_needs_a_directory(capsys, monkeypatch):
    """Protects: no directory is made up; Slurm's is taken where there is one."""
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    with pytest.raises(SystemExit) as ended:
        lightning_cifar10.main(["--mode", "offload_nvme"])
    said = capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setenv("SLURM_TMPDIR", "/localscratch/1")

    assert ended.value.code == 2
    assert said == (
        "reference_training.lightning_cifar10: error: --mode=offload_nvme needs a directory on a"
        " local disk, and SLURM_TMPDIR is not set: give one with --nvme_path"
    )
    assert lightning_cifar10._parse(["--mode", "offload_nvme"]).nvme_path == Path("/localscratch/1")
    relative = lightning_cifar10._parse(["--mode", "offload_nvme", "--nvme_path", "here"])
    assert relative.nvme_path == Path.cwd() / "here"


def test_nvme_is_not_validated_behind_the_training(capsys):
    """Protects: what would lose the trained weights is refused before anything is trained."""
    with pytest.raises(SystemExit) as ended:
        lightning_cifar10.main(["--mode=offload_nvme", "--nvme_path=/tmp", "--validate"])

    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "reference_training.lightning_cifar10: error: --validate does not go with"
        " --mode=offload_nvme: the engine that Lightning makes for it removes the swap files of"
        " the trained one (DeepSpeed 0.19.8, runtime/swap_tensor/partitioned_param_swapper.py)."
        " Save with --checkpoint instead"
    )


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        pytest.param({}, (3, 1), id="none"),
        pytest.param({"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}, (2, 2), id="torchrun"),
        pytest.param(
            {"SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_NTASKS": "8"},
            (4, 2),
            id="slurm_tasks_per_node",
        ),
        pytest.param({"SLURM_NTASKS": "6", "SLURM_NNODES": "3"}, (2, 3), id="slurm_tasks"),
        pytest.param(
            {
                "LOCAL_WORLD_SIZE": "2",
                "WORLD_SIZE": "4",
                "SLURM_NTASKS_PER_NODE": "1",
                "SLURM_NNODES": "2",
            },
            (2, 2),
            id="torchrun_in_slurm",
        ),
    ],
)
def test_devices_and_nodes(launcher, expected, monkeypatch):
    """Protects: a process for each device, as many as the launcher has started."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)

    assert (lightning_cifar10.devices(3), lightning_cifar10.nodes()) == expected


def test_without_devices(monkeypatch):
    """Protects: a machine without a GPU runs one process."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)

    assert lightning_cifar10.devices(0) == 1


def test_by_hand_under_torchrun(tmp_path):
    """Protects: the program by itself, as its page says to run it, on two CPU ranks."""
    file, saved = tmp_path / "record.json", tmp_path / "saved"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
        "TORCH_EXTENSIONS_DIR": str(op_cache.cache_dir("cpu")),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "reference_training.lightning_cifar10", "--mode", "offload_cpu", "--width", "1"),
        *("--batch_size", "16", "--max_steps", "3", "--record", file, "--checkpoint", saved),
    ]
    ended = subprocess.run(
        list(map(str, command)),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    record = Record.from_json(file.read_text())
    assert (record.world_size, record.train_batch_size, record.optimizer_steps) == (2, 32, 3)
    assert cifar10.summary(record) in ended.stdout.splitlines()
    assert saved.joinpath("latest").read_text() == "checkpoint"
