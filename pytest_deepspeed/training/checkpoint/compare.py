"""Compares two snapshots, or two trainings' losses, and says in what they differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pytest_deepspeed.training.checkpoint.evidence import Saved, Snapshot
from pytest_deepspeed.values.finding import Check, Finding

#: What to do about state that did not come back, by what it is.
_ADVICE = {
    "weights": "Do not train on from such a checkpoint: save the weights with save_16bit_model too",
    "compute": "The forward pass does not use the restored weight: read the loss of the first step"
    " after a load before trusting it",
    "moments": "The optimizer starts anew for this parameter: expect a step in the loss, or keep"
    " the run uncut",
    "buffers": "Save it in client_state and copy it into the module after load_checkpoint",
    "steps": "Adam's bias correction and every schedule depend on it: set it by hand after"
    " load_checkpoint",
    "lr": "Give the scheduler to deepspeed.initialize, or name it in the config: no other is saved",
    "groups": "Set the groups of engine.optimizer.param_groups by hand after load_checkpoint",
    "scheduler": "Give the scheduler to deepspeed.initialize, or name it in the config: no other"
    " is saved",
    "loss_scale": "Set it by hand after load_checkpoint",
}


def states(
    check: Check, prefix: str, expected: Snapshot, found: Snapshot, when: str
) -> Iterator[Finding]:
    """A finding for each part of the state that is not what it was, bit by bit.

    Args:
        check: whose findings they are.
        prefix: of their names: ``"loaded"`` makes ``"loaded_weights"``.
        expected: the state saved, or reached without a cut.
        found: the state loaded, or reached after it.
        when: when `found` was taken, for the messages.
    """
    wrong = set()
    for name in _either(expected.weights, found.weights):
        if problem := _tensor(name, expected.weights, found.weights, expected.shapes, found.shapes):
            wrong.add(name)
            yield _of(check, prefix, "weights", f"{name}: {when} its fp32 weight {problem}", name)
    for name in _either(expected.compute, found.compute):
        if name not in wrong and expected.compute.get(name) != found.compute.get(name):
            text = f"{name}: {when} the weight that the forward pass uses is another than before"
            yield _of(check, prefix, "compute", text, name)
    for name in _either(expected.moments, found.moments):
        if problem := _moments(name, expected, found):
            yield _of(check, prefix, "moments", f"{name}: {when} {problem}", name)
    for name in _either(expected.buffers, found.buffers):
        if problem := _tensor(name, expected.buffers, found.buffers, {}, {}):
            yield _of(check, prefix, "buffers", f"{name}: {when} this buffer {problem}", name)
    yield from _numbers(check, prefix, expected, found, when)


def losses(saved: Saved, found: tuple[float, ...], rank: int) -> Iterator[Finding]:
    """The first step whose loss is not bitwise that of the uncut training, on one rank."""
    for number, (one, other) in enumerate(zip(saved.losses, found, strict=True), saved.first_step):
        if one != other:
            yield Finding(
                "checkpoint",
                "resume_loss",
                f"the loss of step {number} on rank {rank} is {other!r} in the resumed training and"
                f" {one!r} in the uncut one, though the whole saved state came back: something that"
                " is not saved takes part in the training, such as a gradient kept from an earlier"
                " step, random numbers, or the order of the samples",
                step=number,
            )
            return


def once(findings: Iterable[Finding]) -> list[Finding]:
    """The first of the findings with one name about one parameter: ranks mostly say the same."""
    first: dict[tuple[str, str, str], Finding] = {}
    for finding in findings:
        first.setdefault((finding.check, finding.name, finding.parameter), finding)
    return list(first.values())


def _numbers(
    check: Check, prefix: str, expected: Snapshot, found: Snapshot, when: str
) -> Iterator[Finding]:
    pairs: dict[str, tuple[Any, Any, str]] = {
        "steps": (_steps(expected), _steps(found), "the steps are counted as"),
        "lr": (list(expected.lr), list(found.lr), "the learning rates are"),
        "groups": (list(expected.groups), list(found.groups), "the parameter groups' settings are"),
        "scheduler": (expected.scheduler, found.scheduler, "the scheduler's state is"),
        "loss_scale": (expected.loss_scale, found.loss_scale, "the loss scale is"),
    }
    for what, (one, other, text) in pairs.items():
        if one != other:
            before, after = _shortened(one, other)
            yield _of(check, prefix, what, f"{when} {text} {after}, not {before}")


def _shortened(one: Any, other: Any) -> tuple[Any, Any]:
    """Of two lists of groups, the settings that differ."""
    if not (isinstance(one, list) and one and isinstance(one[0], dict)):
        return one, other
    if len(one) != len(other):
        return one, other
    pairs = list(zip(one, other, strict=True))
    keys = [[k for k in _either(a, b) if a.get(k) != b.get(k)] for a, b in pairs]
    return (
        [{k: a.get(k) for k in some} for (a, _), some in zip(pairs, keys, strict=True)],
        [{k: b.get(k) for k in some} for (_, b), some in zip(pairs, keys, strict=True)],
    )


def _steps(snapshot: Snapshot) -> dict[str, int]:
    return {
        "optimizer": snapshot.optimizer_steps,
        "global": snapshot.global_steps,
        "skipped": snapshot.skipped_steps,
    }


def _tensor(
    name: str,
    expected: dict[str, str],
    found: dict[str, str],
    shapes: dict[str, tuple[int, ...]],
    found_shapes: dict[str, tuple[int, ...]],
) -> str:
    """What is wrong with one tensor; empty where nothing is."""
    if name not in found:
        return "is missing"
    if name not in expected:
        return "is there, and was not before"
    if shapes.get(name) != found_shapes.get(name):
        return f"has shape {found_shapes.get(name)}, not {shapes.get(name)}"
    if expected[name] != found[name]:
        return f"has other values than before (sha256 {found[name][:8]}, not {expected[name][:8]})"
    return ""


def _moments(name: str, expected: Snapshot, found: Snapshot) -> str:
    before, after = expected.moments.get(name, {}), found.moments.get(name, {})
    shapes, others = expected.moment_shapes.get(name, {}), found.moment_shapes.get(name, {})
    for key in _either(before, after):
        if problem := _tensor(key, before, after, shapes, others):
            return f"the optimizer's {key} {problem}"
    return ""


def _of(check: Check, prefix: str, what: str, text: str, parameter: str = "") -> Finding:
    return Finding(check, f"{prefix}_{what}", f"{text}. {_ADVICE[what]}", parameter)


def _either(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return list(one | other)
