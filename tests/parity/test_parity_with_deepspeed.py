"""The trap model under DeepSpeed, beside its twin: right modes pass, and live faults are found."""

import warnings

import pytest
import torch
from torch import distributed

from pytest_deepspeed.training import matrix, state
from pytest_deepspeed.training.parity.check import agree, check
from pytest_deepspeed.training.parity.compare import History, compare
from pytest_deepspeed.training.twin import optimizers
from pytest_deepspeed.training.twin.reading import dtype_of
from pytest_deepspeed.training.twin.train import train
from reference_training.train import build_engine, run_steps
from reference_training.trap import TRAITS, Trap

STEPS = 4
SOMETIMES = ("alternating", "late_branch", "early_branch")
STEADY = tuple(trait for trait in TRAITS if trait not in SOMETIMES)

pytestmark = pytest.mark.world_size(2)


def by_deepspeed(workload, config):
    """The history of a training by DeepSpeed."""
    rates, weights = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        engine = build_engine(workload, config)
        record = run_steps(
            engine,
            workload,
            steps=STEPS,
            before_update=lambda _: rates.append(tuple(engine.get_lr())),
            on_step=lambda *_: weights.append(state.full_parameters(engine)),
        )
        history = History(
            dtype=dtype_of(config),
            loss=record.loss,
            grad_norm=record.grad_norm,
            lr=tuple(rates),
            parameters=tuple(weights),
            moments=state.full_moments(engine),
            optimizer_steps=record.optimizer_steps,
        )
        engine.destroy()
    return history


def config_of(mode, optimizer="Adam"):
    """The config of a mode; with SGD at a rate that moves weights by more than the tolerances."""
    config = matrix.config(mode, nvme_path=None, optimizer=optimizer)
    if optimizer == "SGD":
        del config["scheduler"]
        config["optimizer"]["params"]["lr"] = 0.3
    return config


def both(mode, kind, traits=STEADY, **changes):
    """Evidence of a mode beside its twin, with a kind of optimizer."""
    config = config_of(mode, kind) | changes
    workload = Trap(traits)
    return compare(by_deepspeed(workload, config), train(workload, config, steps=STEPS))


def bad(findings, name):
    """The parameters that findings of a name are about."""
    return {finding.parameter for finding in findings if finding.name == name}


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_right_modes_pass(optimizer):
    """Protects: all ZeRO stages train as plain torch does, to 1e-5, and the comparison is of
    something: all parameters, their moments, and every norm.
    """
    for stage in range(4):
        evidence = both(matrix.Mode(stage, gradient_accumulation_steps=1 + stage % 2), optimizer)

        assert check(evidence) == [], stage
        assert len(evidence.parameters) == 20
        assert len(evidence.moments) == 18 * (2 if optimizer == "Adam" else 1)
        assert None not in evidence.grad_norm
        assert min(evidence.twin_grad_norm) > 0.1  # clipping engages


def test_a_schedule_of_momentum_passes():
    """Protects: rates and betas that OneCycle sets reach DeepSpeed's optimizer as the twin's."""
    params = {"cycle_min_lr": 1e-3, "cycle_max_lr": 1e-2, "cycle_first_step_size": 2}
    evidence = both(matrix.Mode(1), "Adam", scheduler={"type": "OneCycle", "params": params})

    assert check(evidence) == []
    assert [max(rates) for rates in evidence.lr] == pytest.approx([0.001, 0.0055, 0.01, 0.0055])


@pytest.mark.parametrize(("stage", "clipping"), [(0, 0.1), (2, 0.0), (3, 0.0)])
def test_muon_passes(stage, clipping):
    """Protects: Muon, which DeepSpeed has at two places, trains as the twin's; ZeRO's stages have
    neither its gradient norm nor, before stage 3, its momentum to compare.
    """
    params = {"muon_lr": 0.02, "adam_lr": 0.005, "weight_decay": 0.01, "momentum": 0.9}
    if reason := optimizers.uncovered({"type": "Muon", "params": params}):
        pytest.skip(f"{reason}; run it on a CPU without")
    zero = matrix.config(matrix.Mode(stage), nvme_path=None)["zero_optimization"]
    with torch.compiler.set_stance("force_eager"):
        evidence = both(
            matrix.Mode(stage),
            "Adam",
            optimizer={"type": "Muon", "params": params},
            zero_optimization=zero | {"reduce_scatter": False},
            gradient_clipping=clipping,
        )

    assert check(evidence) == []
    assert len(evidence.lr[0]) == 2
    assert (evidence.twin_grad_norm[0] is None) == (stage > 0)


@pytest.mark.parametrize(("accumulation", "trait"), [(1, "alternating"), (2, "late_branch")])
def test_stale_gradients_are_found_where_they_are(accumulation, trait):
    """Protects: a fault of DeepSpeed 0.19.8's stage 3, where the last gradient of a parameter is
    applied again if it gets none, is laid at the door of exactly the branch that has it.
    """
    mode = matrix.Mode(3, gradient_accumulation_steps=accumulation)
    findings = check(both(mode, "SGD", (*STEADY, trait)))

    branch = {f"{trait}.weight", f"{trait}.bias"}
    assert bad(findings, "parameters") == branch
    assert bad(findings, "moments") == branch
    assert {f.step for f in findings if f.name == "parameters"} == {1}


@pytest.mark.parametrize(("optimizer", "counts"), [("Adam", True), ("SGD", False)])
def test_a_step_too_many_is_found(optimizer, counts):
    """Protects: a fault of DeepSpeed 0.19.8's stage 0 in bf16, a step of the optimizer before the
    first, is found by what weight decay did in it, where the optimizer does not count too.
    """
    findings = check(both(matrix.Mode(0, dtype="bf16"), optimizer))

    decayed = {finding.parameter for finding in findings if finding.name == "parameters"}
    assert {"encoder.weight", "first.weight", "head.weight"} <= decayed
    assert {finding.step for finding in findings if finding.name == "parameters"} == {0}
    assert not {name for name in decayed if name.endswith("bias")}
    assert ("optimizer_steps" in {finding.name for finding in findings}) == counts


def test_bf16_stages_agree():
    """Protects: in bf16 the stages pass beside the twin in bf16 and in fp32, and agree."""
    losses = {}
    workload = Trap(STEADY)
    for stage in (1, 2, 3):
        config = config_of(matrix.Mode(stage, dtype="bf16"))
        history = by_deepspeed(workload, config)
        for dtype in ("bf16", "fp32"):
            twin = train(workload, config, steps=STEPS, dtype=dtype)
            assert check(compare(history, twin)) == [], (stage, dtype)
        losses[f"zero{stage}"] = history.loss

    assert agree(losses) == []


def test_gradients_of_one_rank_alone_are_found():
    """Protects: the tolerances find an average over the ranks that is none, in its first step."""
    config, workload = config_of(matrix.Mode(0), "SGD"), Trap(STEADY)
    right = train(workload, config, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "all_reduce", lambda tensor: tensor.mul_(2))
        wrong = train(workload, config, steps=1)

    findings = check(compare(wrong, right))
    assert {finding.name for finding in findings} == {"loss", "grad_norm", "parameters", "moments"}
    # On one rank or the other a small parameter may be within the tolerance in this step.
    assert len(bad(findings, "parameters")) >= 15
