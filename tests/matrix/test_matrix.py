"""The matrix: ids, what DeepSpeed has, what a machine runs, and the configs."""

import re
from itertools import product
from pathlib import Path

import pytest

from pytest_deepspeed.training import matrix
from pytest_deepspeed.training.machine import Machine
from pytest_deepspeed.training.matrix import MODES, Mode
from pytest_deepspeed.values import modes

CPU, GPU = Machine("cpu"), Machine("cuda")
PAGE = (Path(__file__).parents[2] / "docs" / "modes.md").read_text()


def rows(heading):
    """The cells of the table under a heading of docs/modes.md, without its two head lines."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_modes_are_unique_and_in_order():
    """Protects: ids name one mode each, and the order in which they run does not change."""
    ids = [mode.id for mode in MODES]

    assert len(set(ids)) == len(ids) == 89
    assert ids[:3] == ["zero0-fp32", "zero0-fp32-gas2", "zero0-bf16"]
    assert ids[83] == "zero3-optimizer_nvme-param_nvme-fp16-gas2"
    assert ids[84:] == [
        "zero1-optimizer_cpu-bf16-pinned",
        "zero2-optimizer_cpu-bf16-pinned",
        "zero3-param_cpu-bf16-pinned",
        "zero3-optimizer_cpu-bf16-pinned",
        "zero3-optimizer_cpu-param_cpu-bf16-pinned",
    ]


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (Mode(3, "nvme", "nvme"), None),
        (
            Mode(0, "cpu"),
            (
                "stage 0 offloads nothing: offload_optimizer only makes it take DeepSpeedCPUAdam,"
                " which refuses parameters on a GPU (runtime/engine.py, zero_use_cpu_optimizer)"
            ),
        ),
        (
            Mode(2, "none", "cpu"),
            (
                "offload_param is read at stage 3 only and ignored in silence below"
                " (runtime/zero/offload_config.py)"
            ),
        ),
        (
            Mode(1, "nvme"),
            (
                "stages 1 and 2 take nvme for cpu in silence and write nothing to nvme_path"
                " (runtime/zero/stage_1_and_2.py:220)"
            ),
        ),
    ],
)
def test_exists(mode, why):
    """Protects: a mode that DeepSpeed takes and ignores is no mode, and why is said."""
    assert matrix.exists(mode) == why
    assert (mode in MODES) == (why is None)


@pytest.mark.parametrize(
    ("mode", "machine", "why"),
    [
        (Mode(0), CPU, None),
        (
            Mode(1, dtype="fp16"),
            CPU,
            "a CPU does not train in fp16: run it on a machine with a GPU, or use bf16",
        ),
        (Mode(1, dtype="fp16"), GPU, None),
        (
            Mode(2, "cpu", dtype="bf16", pinned=True),
            CPU,
            (
                "memory is page-locked for the copies of a GPU: run it on a machine with a GPU, or"
                " without pin_memory"
            ),
        ),
        (Mode(2, "cpu", dtype="bf16", pinned=True), GPU, None),
        (
            Mode(3, "none", "nvme"),
            CPU,
            (
                "without fp16 arithmetic DeepSpeed swaps parameters as bf16 whatever they are, and"
                " fp32 ones then fail with 'self and mat2 must have the same dtype'"
                " (runtime/zero/partition_parameters.py:409): run it on a machine with a GPU, or"
                " use bf16"
            ),
        ),
        (Mode(3, "none", "nvme"), GPU, None),
        (Mode(3, "nvme"), Machine("cpu", "no libaio"), "no libaio"),
        (Mode(3, "cpu"), Machine("cpu", "no libaio"), None),
    ],
)
def test_unrunnable(mode, machine, why):
    """Protects: a mode is skipped where the machine cannot run it, and nowhere else."""
    assert matrix.unrunnable(mode, machine) == why


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.id)
def test_config_is_of_its_mode(mode):
    """Protects: a trial's config is the mode that its id says, with an explicit batch triple."""
    config = matrix.config(mode, nvme_path="/nvme", world_size=2, train_batch_size=8)
    found = modes.offloads(config)

    assert mode.id.startswith(modes.case_id(config))
    assert found.get("optimizer", "none") == mode.offload_optimizer
    assert found.get("param", "none") == mode.offload_param
    assert config["train_batch_size"] == 8
    assert config["gradient_accumulation_steps"] == mode.gradient_accumulation_steps
    assert config["zero_optimization"].get("reduce_bucket_size", 600) == 600
    assert ("aio" in config) == mode.swaps


def test_config_of_parameters_on_nvme_keeps_none_in_memory():
    """Protects: `max_in_cpu`, which is 1e9 elements unless said: nothing would be swapped."""
    zero = matrix.config(Mode(3, "none", "nvme", "bf16"), nvme_path="/nvme")["zero_optimization"]

    assert zero["offload_param"] == {
        "device": "nvme",
        "pin_memory": False,
        "buffer_count": 5,
        "buffer_size": 2**19 + 1024,
        "max_in_cpu": 0,
        "nvme_path": "/nvme",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"train_batch_size": 6, "nvme_path": "/nvme"},
            "train_batch_size 6 is no multiple of 2 ranks x 2 micro-batches",
        ),
    ],
)
def test_config_refuses(arguments, message):
    """Protects: a config that cannot be is refused before any rank starts."""
    mode = Mode(3, "nvme", gradient_accumulation_steps=2)

    with pytest.raises(ValueError, match=re.escape(message)) as error:
        matrix.config(mode, **arguments)
    assert str(error.value) == message


def test_page_says_what_runs_where():
    """Protects: the table of docs/modes.md is what matrix.py decides."""
    expected = []
    for stage, optimizer, param in product(range(4), *[("none", "cpu", "nvme")] * 2):
        if matrix.exists(Mode(stage, optimizer, param)):
            continue
        cells = [
            "CPU, GPU"
            if matrix.unrunnable(Mode(stage, optimizer, param, t), CPU) is None
            else "GPU"
            for t in ("fp32", "bf16", "fp16")
        ]
        expected.append([str(stage), optimizer, param, *cells])

    assert rows("What runs where") == expected


def test_page_says_what_deepspeed_lacks():
    """Protects: the reasons of docs/modes.md are those of matrix.py, and none is missing."""
    cells = product(range(4), *[("none", "cpu", "nvme")] * 2)
    reasons = {matrix.exists(Mode(*cell)) for cell in cells} - {None}

    assert {why.replace("`", "") for _, why in rows("What DeepSpeed does not have")} == reasons
