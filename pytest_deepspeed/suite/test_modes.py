"""Every ZeRO and offload mode that DeepSpeed has, each check of it a test.

All checks of a mode share one training of it, and one more with SGD. What this machine cannot run
is skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_deepspeed.checking import DsCheck
from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.training import faults, matrix
from pytest_deepspeed.training.machine import Machine
from pytest_deepspeed.training.parity.check import agree
from pytest_deepspeed.values.finding import Check


def _config(mode: matrix.Mode) -> pytest.MarkDecorator:
    return pytest.mark.ds_config(matrix.config(mode, optimizer="AdamW"))


each_mode = pytest.mark.parametrize(
    "mode", [pytest.param(mode, id=mode.id, marks=_config(mode)) for mode in matrix.MODES]
)

#: A checkpoint holds nothing of the micro-batches before it.
each_mode_saved = pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, id=mode.id, marks=_config(mode))
        for mode in matrix.MODES
        if mode.gradient_accumulation_steps == 1
    ],
)


def _known_faults() -> Iterator[object]:
    """Each mode with the traits that meet a known fault: in fp32, where it is beyond doubt.

    In a training each trait by itself; what a checkpoint loses of one does not hide another.
    """
    for mode in matrix.MODES:
        if mode.dtype != "fp32":
            continue
        traits: dict[tuple[Check, str], list[str]] = {}
        for fault in faults.can_meet(matrix.config(mode)):
            trained = fault.check == "parity"
            if fault.trait and (trained or mode.gradient_accumulation_steps == 1):
                key = (fault.check, fault.id if trained else fault.check)
                traits.setdefault(key, []).append(fault.trait)
        for (check, name), some in traits.items():
            yield pytest.param(
                mode, check, tuple(some), id=f"{mode.id}-{name}", marks=_config(mode)
            )


@pytest.fixture(autouse=True)
def _runnable(request: pytest.FixtureRequest, mode: matrix.Mode) -> None:
    """Skips what this machine cannot run; of NVMe `ds_check` says it."""
    machine = Machine(request.config.stash[SETTINGS].device)
    if reason := matrix.unrunnable(mode, machine):
        pytest.skip(reason)


@each_mode
def test_loss(mode: matrix.Mode, ds_check: DsCheck) -> None:
    """Protects: the loss falls as far as that of plain torch."""
    ds_check("loss")


@each_mode
def test_ranks(mode: matrix.Mode, ds_check: DsCheck) -> None:
    """Protects: after each step all ranks have the same weights and the same gradient norm."""
    ds_check("ranks")


@each_mode
def test_parity(mode: matrix.Mode, ds_check: DsCheck) -> None:
    """Protects: losses, gradient norms, weights and moments are those of plain torch."""
    ds_check("parity")


@each_mode
def test_engagement(mode: matrix.Mode, ds_check: DsCheck) -> None:
    """Protects: partitions, offloads, optimizer and precision are what the config says."""
    ds_check("engagement")


@each_mode
def test_memory(mode: matrix.Mode, ds_check: DsCheck) -> None:
    """Protects: each rank holds the bytes that the ZeRO arithmetic gives, and no more."""
    ds_check("memory")


@each_mode_saved
def test_checkpoint(mode: matrix.Mode, ds_check: DsCheck) -> None:
    """Protects: what is saved comes back in new processes, bit by bit, and is all there is."""
    ds_check("checkpoint")


@each_mode_saved
def test_reshard(mode: matrix.Mode, ds_check: DsCheck) -> None:
    """Protects: a universal checkpoint brings the same state back at other world sizes."""
    ds_check("reshard")


@pytest.mark.parametrize(("mode", "check", "traits"), list(_known_faults()))
def test_known_fault(
    mode: matrix.Mode, check: Check, traits: tuple[str, ...], ds_check: DsCheck
) -> None:
    """Protects: a known fault of DeepSpeed still shows, by itself and in nothing else."""
    ds_check(check, only=traits)


def _alike(stages: tuple[int, ...]) -> object:
    alike = [matrix.Mode(stage, "none", "none", "bf16", 1) for stage in stages]
    marks = [_config(alike[0]), *(getattr(pytest.mark, f"zero{stage}") for stage in stages)]
    return pytest.param(alike[0], alike, id="bf16", marks=marks)


# With accumulation the stages add up micro-batches in other orders and types: up to 1.3e-3 apart.
@pytest.mark.parametrize(("mode", "alike"), [_alike((1, 2, 3))])
def test_stages_agree(mode: matrix.Mode, alike: list[matrix.Mode], ds_check: DsCheck) -> None:
    """Protects: in bf16 on two ranks the ZeRO stages have the same losses, to five digits."""
    configs = {m.id: matrix.config(m, optimizer="AdamW") for m in alike}
    met = [fault for config in configs.values() for fault in faults.can_meet(config)]
    without = [fault.trait for fault in met if fault.trait and fault.check == "parity"]

    losses = {}
    for name, config in configs.items():
        evidence = ds_check.evidence(config, without=without)
        if evidence.trial.world_size > 2:
            pytest.skip("with more than two ranks a sum in bf16 depends on its order")
        losses[name] = evidence.loss

    assert agree(losses) == []
