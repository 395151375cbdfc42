"""Runs a trial on the ranks of a fresh world, and puts together what the checks need of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.processes import progress
from pytest_deepspeed.training import accelerator, effective, nvme
from pytest_deepspeed.training.engagement.evidence import RankEngagement, SwapFile
from pytest_deepspeed.training.evidence import Evidence, RankEvidence
from pytest_deepspeed.training.memory.evidence import Layout, MemoryEvidence, RankMemory
from pytest_deepspeed.training.parity.evidence import ParityEvidence
from pytest_deepspeed.training.parity.tolerances import NUDGES
from pytest_deepspeed.training.quiet import quietly
from pytest_deepspeed.training.trial import Trial
from pytest_deepspeed.values import modes, plain

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_deepspeed.training.memory.observe import Meter
    from pytest_deepspeed.training.parity.compare import History
    from reference_training.record import Record
    from reference_training.workload import Workload


def run(trial: Trial, keep: str = "", phase: str = "training") -> str | None:
    """Runs a trial on this rank; every rank of the world calls it alike.

    Args:
        trial: what is trained.
        keep: a file that rank 0 writes the `History` to, for `pair.histories`; empty for none.
        phase: what the live line calls it.

    Returns:
        the `Evidence` as JSON on rank 0, ``None`` on the others.
    """
    import torch.distributed as dist

    from pytest_deepspeed.training.memory import observe

    accelerator.be_exact()
    progress.phase(phase, trial.ds_config, trial.steps)
    meter = observe.start()
    with quietly():
        trained = _lightning(trial, meter) if trial.lightning else _own_loop(trial, meter)
    workload, record = trained.workload, trained.record
    progress.phase("comparing", trial.ds_config)
    parity, uncovered = _beside_twin(trial, workload, trained.history)
    ranks = _gather(RankEvidence(record.grad_norm, trained.digests, trained.engagement))
    memories: list[RankMemory] = _gather(trained.memory)
    # Of all nodes, each with a disk of its own.
    here = _left(trial.ds_config) if os.environ.get("LOCAL_RANK", "0") == "0" else ()
    left = dict.fromkeys(file for files in _gather(here) for file in files)
    if dist.get_rank() != 0:
        return None
    if keep:
        from pytest_deepspeed.training.pair import histories

        histories.write(trained.history, keep)
    groups, layout = _model(trial, workload)
    return plain.dump(
        Evidence(
            trial=trial,
            loss=record.loss,
            optimizer_steps=record.optimizer_steps,
            skipped_steps=record.skipped_steps,
            train_batch_size=record.train_batch_size,
            samples_per_second=record.samples_per_second,
            data=record.data,
            traits=workload.traits,
            groups=groups,
            ranks=tuple(ranks),
            parity=parity,
            uncovered=uncovered,
            memory=MemoryEvidence(layout, tuple(memories)),
            left=tuple(left),
            effective=trained.effective,
            step_time=record.step_time,
        )
    )


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one rank saw of a training.

    Attributes:
        workload: what was trained, for its twin.
        record: of the steps that are compared.
        history: of the same.
        digests: after each of them, of each weight that the rank holds in full.
        engagement, memory: of one step more.
        effective: what DeepSpeed made of the config.
    """

    workload: Any
    record: Record
    history: History
    digests: tuple[dict[str, int] | None, ...]
    engagement: RankEngagement
    memory: RankMemory
    effective: dict[str, Any]


def _own_loop(trial: Trial, meter: Meter) -> Trained:
    from pytest_deepspeed.training.workload.verify import verify
    from reference_training.train import build_engine, run_steps

    workload = trial.workload()
    verify(workload, trial.ds_config)
    engine = build_engine(workload, trial.ds_config, seed=trial.seed)
    made = effective.effective(engine)
    watch = Watch(engine)
    try:
        record = run_steps(
            engine,
            workload,
            steps=trial.steps,
            before_update=watch.before_update,
            on_step=watch.after_step,
        )
        history = watch.history(record)
        meter.ignore(tensors_of(history))
        engagement, memory = _measured_step(engine, workload, trial.steps, meter)
    finally:
        engine.destroy()
    digests = tuple(watch.digests)
    return Trained(workload, record, history, digests, engagement, memory, made)


def _lightning(trial: Trial, meter: Meter) -> Trained:
    from pytest_deepspeed.training.lightning import watch

    return watch.train(trial, meter)


def _measured_step(
    engine: Any, workload: Workload, number: int, meter: Meter
) -> tuple[RankEngagement, RankMemory]:
    """One step more, after those that are compared, since to measure it slows it down."""
    from pytest_deepspeed.training.engagement import observe
    from reference_training.train import run_steps

    gradients = []

    def before_update(_: int) -> None:
        meter.look(engine)
        gradients.append(observe.before_step(engine))

    with meter.step():
        run_steps(engine, workload, steps=1, start_step=number, before_update=before_update)
    return observe.observe(engine, gradients[0]), meter.finish(engine)


def _left(ds_config: Mapping[str, Any]) -> tuple[SwapFile, ...]:
    from pytest_deepspeed.training.engagement.observe import swap_files

    return tuple(file for path in nvme.paths(ds_config) for file in swap_files(path))


def _model(trial: Trial, workload: Workload) -> tuple[tuple[dict[str, float], ...], Layout]:
    """What the config says nothing of: the values of each parameter group, and all sizes."""
    from pytest_deepspeed.training.lightning.replay import NoTwin
    from pytest_deepspeed.training.memory.layout import layout_of

    model = workload.model()
    try:
        groups = workload.parameter_groups(model)
    except NoTwin:  # which `_beside_twin` has told
        groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    values = tuple({k: v for k, v in group.items() if _is_setting(v)} for group in groups)
    return values, layout_of(model, groups, trial.ds_config, trial.world_size)


def _is_setting(value: Any) -> bool:
    """A number, or a pair of them as Adam's betas; not the parameters, nor a group's name."""
    pair = isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value)
    return pair or isinstance(value, (int, float))


class Watch:
    """Looks at an engine before and after each of its steps.

    Args:
        engine: after it is built.
    """

    def __init__(self, engine: Any) -> None:
        self.digests: list[dict[str, int] | None] = []
        self._engine = engine
        self._lr: list[tuple[float, ...]] = []
        self._parameters: list[dict[str, Tensor]] = []

    def before_update(self, _step: int) -> None:
        from pytest_deepspeed.training import state

        # Not `engine.get_lr()`: the scheduler says what it will set, the groups what is used.
        groups = state.innermost_optimizer(self._engine).param_groups
        self._lr.append(tuple(float(group["lr"]) for group in groups))

    def after_step(self, number: int, step: Any) -> None:
        from pytest_deepspeed.training import state

        progress.stepped(number, step)
        self._parameters.append(state.full_parameters(self._engine))
        self.digests.append(state.local_digest(self._engine))

    def history(self, record: Record) -> History:
        from pytest_deepspeed.training import state
        from pytest_deepspeed.training.parity.compare import History

        return History(
            dtype=modes.dtype_of(self._engine.config),
            loss=record.loss,
            grad_norm=record.grad_norm,
            lr=tuple(self._lr),
            parameters=tuple(self._parameters),
            moments=state.full_moments(self._engine),
            optimizer_steps=state.optimizer_steps(self._engine),
        )


def tensors_of(history: History) -> list[Tensor]:
    """What a history holds, which is none of the training's memory."""
    found = [tensor for weights in history.parameters for tensor in weights.values()]
    return found + [tensor for kinds in history.moments.values() for tensor in kinds.values()]


def _beside_twin(
    trial: Trial, workload: Workload, history: History
) -> tuple[tuple[ParityEvidence, ...], str]:
    from pytest_deepspeed.training.lightning.replay import NoTwin
    from pytest_deepspeed.training.twin.train import uncovered

    reason = trial.uncovered or uncovered(trial.ds_config)
    if reason:
        return (), reason
    try:
        return tuple(_twins(trial, workload, history)), ""
    except NoTwin as error:
        return (), str(error)


def _twins(trial: Trial, workload: Workload, history: History) -> Iterator[ParityEvidence]:
    from pytest_deepspeed.training.parity.compare import compare
    from pytest_deepspeed.training.twin.doubt import doubt
    from pytest_deepspeed.training.twin.train import train
    from reference_training.trap import Trap

    for dtype in dict.fromkeys((history.dtype, "fp32")):
        twin = train(workload, trial.ds_config, steps=trial.steps, dtype=dtype)
        beside = compare(history, twin)
        if not isinstance(workload, Trap):  # which the tolerances were measured on
            by = NUDGES[history.dtype]
            off = doubt(workload, trial.ds_config, twin, by=by)
            beside = dataclasses.replace(beside, doubt=off)
        yield beside


def _gather(value: Any) -> list[Any]:
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
