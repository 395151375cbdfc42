"""The registry of DeepSpeed's silent faults."""

import re
from pathlib import Path

import pytest

from pytest_deepspeed.training import faults, matrix
from pytest_deepspeed.training.matrix import Mode
from pytest_deepspeed.values.finding import Finding
from reference_training.trap import TRAITS

PAGE = (Path(__file__).parents[2] / faults.PAGE).read_text()


def config(*mode, **named):
    """The config of a mode."""
    return matrix.config(Mode(*mode, **named), nvme_path="/nvme")


def finding(name="parameters", parameter="alternating.weight", step=1, check="parity"):
    """A finding."""
    return Finding(check, name, "it is off", parameter=parameter, step=step)


ZERO3 = config(3)
UNIVERSAL = ["universal-without-frozen", "universal-without-buffers"]
UNIVERSAL3 = [*UNIVERSAL, "universal-mixes-groups"]


@pytest.mark.parametrize(
    ("ds_config", "ids"),
    [
        (config(0), []),
        (config(0, dtype="bf16"), ["bf16-step-at-init", "masters-not-loaded"]),
        (config(1), ["frozen-not-consolidated", *UNIVERSAL]),
        (config(2, gradient_accumulation_steps=2), UNIVERSAL),
        (config(1, "cpu"), ["stale-gradient", "frozen-not-consolidated", *UNIVERSAL]),
        (config(2, "cpu"), ["stale-gradient", *UNIVERSAL]),
        (
            config(2, "cpu", gradient_accumulation_steps=2),
            ["stale-gradient", "gradient-adds-up", "gradient-dropped", *UNIVERSAL],
        ),
        (ZERO3, ["stale-gradient", "tag-ignored", *UNIVERSAL3]),
        (
            config(3, gradient_accumulation_steps=2),
            ["stale-gradient", "gradient-adds-up", "tag-ignored", *UNIVERSAL3],
        ),
        (config(3, "nvme"), ["stale-gradient", "nvme-not-restored"]),
        (config(3, "none", "nvme", "bf16"), ["stale-gradient"]),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
            ["stale-gradient", "nvme-misaligned-gradient", "nvme-not-restored"],
        ),
    ],
)
def test_can_meet(ds_config, ids):
    """Protects: a config is told of the faults that it can meet, as measured, and of no others."""
    assert [fault.id for fault in faults.can_meet(ds_config)] == ids


def test_known_takes_what_the_fault_makes():
    """Protects: the branch is off first, and all that is off from then on is explained."""
    found = [finding(), finding(parameter="first.weight"), finding("loss", "", 2)]

    expected, others = faults.known(found, ZERO3, TRAITS)

    assert [(fault.id, f) for fault, f in expected] == [("stale-gradient", f) for f in found]
    assert others == []


@pytest.mark.parametrize(
    ("found", "traits"),
    [
        ([finding(parameter="first.weight")], TRAITS),
        ([finding()], ("tied",)),
        ([finding("optimizer_class")], TRAITS),
        ([finding(check="memory")], TRAITS),
    ],
    ids=["another parameter", "without the trait", "another name", "another check"],
)
def test_known_hides_no_other_fault(found, traits):
    """Protects: a known fault explains its own parameter, trait, name and check alone."""
    assert faults.known(found, ZERO3, traits) == ([], found)


def test_known_leaves_what_came_before():
    """Protects: what was off before the fault could act is another fault's."""
    before = finding("loss", "", 0)

    expected, others = faults.known([before, finding()], ZERO3, TRAITS)

    assert [f for _, f in expected] == [finding()]
    assert others == [before]


def test_a_mended_deepspeed_meets_nothing(monkeypatch):
    """Protects: a fault is expected of the versions that have it alone."""
    monkeypatch.setattr(faults, "installed", lambda: faults.Version("0.19.2"))

    assert faults.can_meet(ZERO3) == []
    assert faults.summary([ZERO3]) == []


def test_summary(monkeypatch):
    """Protects: the summary says which faults these configs can meet, and where to read on."""
    monkeypatch.setattr(faults, "installed", lambda: faults.Version("0.19.8"))

    assert faults.summary([config(0), config(0, dtype="bf16")]) == [
        "this DeepSpeed (0.19.8) has 2 known silent faults that these configs can meet:",
        "  bf16-step-at-init   the optimizer takes one step with zero gradients before",
        "                      the training starts",
        "  masters-not-loaded  load_checkpoint(load_optimizer_states=False) leaves the",
        "                      fp32 master weights as they were, and the next step",
        "                      overwrites the loaded ones by them",
        "(what each does, and what to do about it: docs/known-faults.md)",
    ]


def test_page_has_a_section_for_each():
    """Protects: each fault's id is a heading of docs/known-faults.md, with its source."""
    assert re.findall(r"^## ([\w-]+)$", PAGE, re.MULTILINE) == [f.id for f in faults.FAULTS]
    for fault in faults.FAULTS:
        section = PAGE.partition(f"## {fault.id}\n")[2].partition("\n## ")[0]
        for source in re.findall(r"https\S+|runtime/[\w/]+\.py", fault.source):
            assert source in section
