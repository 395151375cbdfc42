"""The command line."""

import os
from pathlib import Path

import pytest

import reference_training
from reference_training import cifar10
from reference_training.record import Record

SEED = Path(reference_training.__file__).parent / "examples" / "seed" / "ds_config.json"


@pytest.fixture
def fails(monkeypatch, capsys):
    """Return a function: run the program in this process, which fails, and give its one line."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("PATH", os.environ["PATH"])  # put back after the program prepended to it

    def run(*options):
        try:
            status = cifar10.main([str(option) for option in options])
        except SystemExit as error:
            status = error.code
        assert status == 2
        *_, last = capsys.readouterr().err.splitlines()
        program, _, message = last.partition(": error: ")
        assert program == "reference_training.cifar10"
        return message

    return run


def test_under_torchrun(tmp_path, cifar10_dir, torchrun):
    """The program by itself: two ranks, the wiki's config, real files, and a record."""
    path = tmp_path / "record.json"
    run = torchrun(
        *("-m", "reference_training.cifar10", "--deepspeed", "--deepspeed_config", SEED, "--adapt"),
        *("--data", cifar10_dir, "--steps", 4, "--log-every", 3, "--width", 2, "--record", path),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    record = Record.from_json(path.read_text())
    data = f"images in CIFAR10's format from {cifar10_dir} (30 images)"
    assert (len(record.loss), record.world_size, record.train_batch_size) == (4, 2, 16)
    assert record.data == data
    ours = ("data: ", "step ", "4 steps of ")
    lines = [line for line in run.stdout.splitlines() if line.startswith(ours)]
    assert [line.partition(": loss")[0] for line in lines] == [
        f"data: {data}",
        "step 3/4",
        "step 4/4",
        "4 steps of 16 images on 2 ranks",
    ]
    assert lines[-1] == cifar10.summary(record)


def test_summary():
    """The line says how far the loss fell, how fast it went, and whether it stepped."""
    record = Record(
        loss=(2.0, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.25),
        local_loss=(0.0,) * 8,
        lr=(0.0,) * 8,
        grad_norm=(None,) * 8,
        step_time=(0.0,) * 8,
        samples_per_second=1234.5,
        optimizer_steps=7,
        skipped_steps=1,
        world_size=2,
        rank=0,
        train_batch_size=32,
        data="",
        parameters=0,
    )
    assert cifar10.summary(record) == (
        "8 steps of 32 images on 2 ranks: loss 1.7500 -> 0.2500 (means of 2), 1,234 images/s, "
        "7 optimizer steps, 1 skipped"
    )


def test_fp16_where_it_cannot_run(fails):
    """DeepSpeed would end in a traceback; the message says what to type instead."""
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().is_fp16_supported():
        pytest.skip("this accelerator trains in fp16")
    assert fails("--deepspeed_config", SEED) == (
        "the config enables fp16, which this accelerator (cpu) "
        'does not train in: set "fp16": {"enabled": false}, for fp32, and "bf16": '
        '{"enabled": true}, for bf16, or pass --adapt, which takes bf16 for this run'
    )


def test_missing_data(fails, tmp_path):
    """What the data module says is one line here."""
    assert fails("--deepspeed_config", "zero2", "--data", tmp_path / "no") == (
        f"the data directory {tmp_path / 'no'} does not exist: "
        "give the one that holds cifar-10-batches-py"
    )


def test_config_without_an_optimizer(fails, tmp_path):
    """The training brings no optimizer, and DeepSpeed's own assertion would not say so."""
    file = tmp_path / "ds_config.json"
    file.write_text('{"train_batch_size": 8}')
    assert fails("--deepspeed_config", file) == (
        'the DeepSpeed config has no "optimizer" block, and '
        'this training brings none of its own: add one, such as {"type": "Adam", "params": '
        '{"lr": 0.001}}'
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            (
                "--deepspeed_config is missing: give a file, or one of the reference configs "
                "zero0, zero1, zero2, zero3"
            ),
        ),
        (["--steps", "0"], "argument --steps: '0' is not a number from 1 up"),
        (["--record", "/no/dir"], "argument --record: cannot write a file '/no/dir'"),
        (["--stepz"], "unrecognized arguments: --stepz"),
    ],
)
def test_bad_flags(fails, options, message):
    """Each is one line, after argparse's usage."""
    required = ["--deepspeed_config", "zero2"] if options else []
    assert fails(*required, *options) == message


def test_without_torchrun(fails, monkeypatch):
    """DeepSpeed would look for MPI; what is missing is torchrun."""
    monkeypatch.delenv("RANK")
    assert fails("--deepspeed_config", "zero2") == (
        "RANK is not set: start this with torchrun, such as "
        "torchrun --standalone --nproc_per_node 2 -m reference_training.cifar10"
    )
