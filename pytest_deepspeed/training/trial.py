"""One training of a config, on the trap model, with all that the checks need to know of it.

A trial runs on the ranks of a fresh world and comes back as `Evidence`: plain data, which the
checks judge wherever they like, without torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.training import nvme
from pytest_deepspeed.training.engagement.evidence import RankEngagement, SwapFile
from pytest_deepspeed.training.memory.evidence import Layout, MemoryEvidence, RankMemory
from pytest_deepspeed.training.parity.evidence import ParityEvidence
from pytest_deepspeed.training.quiet import quietly
from pytest_deepspeed.values import modes, plain

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_deepspeed.training.memory.observe import Meter
    from pytest_deepspeed.training.parity.compare import History
    from reference_training.record import Record
    from reference_training.trap import Trap

#: Steps whose weights are compared with the twin's. The branch of the trap model that is used on
#: alternate steps is off, on and off again in them.
STEPS = 6


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is to be trained.

    Attributes:
        ds_config: a DeepSpeed config that this machine can run; ``nvme_path`` may be left out.
        world_size: ranks.
        without: traits that the trap model shall not have.
        only: the traits that it shall have alone; ``None`` for all that are left.
        wide: rows of its wide layer; 0 for none, ``None`` for as many as swapping needs.
        steps: optimizer steps that are compared. One more is measured.
        seed: of weights and samples.
    """

    ds_config: Mapping[str, Any]
    world_size: int
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    wide: int | None = None
    steps: int = STEPS
    seed: int = 0

    @property
    def key(self) -> str:
        """The same for the same trial, in any process."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def has(self, trait: str) -> bool:
        """Whether the trap model has a trait."""
        return trait in self.only if self.only is not None else trait not in self.without

    def workload(self) -> Trap:
        """The workload that is trained."""
        from reference_training.trap import TRAITS, Trap

        traits = [t for t in TRAITS if t not in self.without] if self.only is None else self.only
        wide = _wide(self.ds_config, self.world_size) if self.wide is None else self.wide
        return Trap(traits, self.seed, wide, bucket_elements=bucket_elements(self.ds_config))


def _wide(ds_config: Mapping[str, Any], world_size: int) -> int:
    """Rows of the trap model's wide layer: none where nothing is swapped."""
    from reference_training.trap import wide_enough

    if not nvme.asked(ds_config):
        return 0
    block = ds_config.get("aio", {}).get("block_size", 0)
    return wide_enough(world_size=world_size, block_bytes=max(2**20, int(block)))


def bucket_elements(ds_config: Mapping[str, Any]) -> int:
    """Elements of the trap model's parameter that shall fill a bucket: the config's bucket size.

    600 where no parameter of the model can be made to fill it: where it is too large, or no
    multiple of the model's 40 columns.
    """
    zero = ds_config.get("zero_optimization")
    size = zero.get("reduce_bucket_size") if isinstance(zero, Mapping) else None
    fits = isinstance(size, int) and 0 < size <= 20_000 and size % 40 == 0
    return size if isinstance(size, int) and fits else 600


@dataclasses.dataclass(frozen=True)
class RankEvidence:
    """What one rank saw.

    Attributes:
        grad_norm: of each step.
        digests: after each step, a checksum of each weight that the rank holds in full; ``None``
            where it holds parts only, at ZeRO stage 3.
        engagement: what its engine was made of.
    """

    grad_norm: tuple[float | None, ...]
    digests: tuple[dict[str, int] | None, ...]
    engagement: RankEngagement


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one trial did.

    Attributes:
        trial: what was asked for.
        loss: of each step, mean over ranks and micro-batches.
        optimizer_steps: by the optimizer's own count.
        skipped_steps: those that DeepSpeed gave up.
        train_batch_size: samples of all ranks in one step.
        samples_per_second: of all ranks.
        data: what was trained on.
        traits: of the trap model.
        groups: of each parameter group, the values that take the place of the config's.
        ranks: what each rank saw.
        parity: beside the twin, in the dtype of the config, and in fp32 where that is another.
        uncovered: why there is no twin; empty where there is.
        memory: what each rank held.
        left: files that DeepSpeed left in ``nvme_path`` when the engine was destroyed.
    """

    trial: Trial
    loss: tuple[float, ...]
    optimizer_steps: int
    skipped_steps: int
    train_batch_size: int
    samples_per_second: float
    data: str
    traits: tuple[str, ...]
    groups: tuple[dict[str, float], ...]
    ranks: tuple[RankEvidence, ...]
    parity: tuple[ParityEvidence, ...]
    uncovered: str
    memory: MemoryEvidence
    left: tuple[SwapFile, ...]


def with_sgd(ds_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with SGD in place of its optimizer and schedule.

    Adam forgives a gradient that is wrong by a factor, SGD does not. The rate is such that a step
    whose gradient is clipped moves the weights by a norm of 0.05, with momentum by several times
    that.
    """
    clipping = float(ds_config.get("gradient_clipping", 1.0))
    params = {"lr": 0.05 / (clipping or 1.0), "momentum": 0.9, "weight_decay": 0.01}
    changed = {
        **ds_config,
        "optimizer": {"type": "SGD", "params": params},
        # DeepSpeed has no SGD of its own, and wants to be told that torch's is meant.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    changed.pop("scheduler", None)
    return changed


def run(trial: Trial) -> str | None:
    """Runs a trial on this rank; every rank of the world calls it alike.

    Returns:
        the `Evidence` as JSON on rank 0, ``None`` on the others.
    """
    import torch.distributed as dist

    from pytest_deepspeed.training.memory import observe
    from reference_training.train import build_engine, run_steps

    workload = trial.workload()
    meter = observe.start()
    with quietly():
        engine = build_engine(workload, trial.ds_config, seed=trial.seed)
        watch = _Watch(engine)
        try:
            record = run_steps(
                engine,
                workload,
                steps=trial.steps,
                before_update=watch.before_update,
                on_step=watch.after_step,
            )
            history = watch.history(record)
            meter.ignore(_tensors(history))
            engagement, memory = _measured_step(engine, workload, trial.steps, meter)
        finally:
            engine.destroy()
    parity, uncovered = _beside_twin(trial, workload, history)
    ranks = _gather(RankEvidence(record.grad_norm, tuple(watch.digests), engagement))
    memories: list[RankMemory] = _gather(memory)
    if dist.get_rank() != 0:
        return None
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
            left=_left(trial.ds_config),
        )
    )


def _measured_step(
    engine: Any, workload: Trap, number: int, meter: Meter
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


def _model(trial: Trial, workload: Trap) -> tuple[tuple[dict[str, float], ...], Layout]:
    """What the config says nothing of: the values of each parameter group, and all sizes."""
    from pytest_deepspeed.training.memory.layout import layout_of

    model = workload.model()
    groups = workload.parameter_groups(model)
    values = tuple({k: v for k, v in group.items() if k != "params"} for group in groups)
    return values, layout_of(model, groups, trial.ds_config, trial.world_size)


class _Watch:
    """Looks at an engine before and after each of its steps."""

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

    def after_step(self, _number: int, _step: Any) -> None:
        from pytest_deepspeed.training import state

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


def _tensors(history: History) -> list[Tensor]:
    found = [tensor for weights in history.parameters for tensor in weights.values()]
    return found + [tensor for kinds in history.moments.values() for tensor in kinds.values()]


def _beside_twin(
    trial: Trial, workload: Trap, history: History
) -> tuple[tuple[ParityEvidence, ...], str]:
    from pytest_deepspeed.training.parity.compare import compare
    from pytest_deepspeed.training.twin.train import train, uncovered

    reason = uncovered(trial.ds_config)
    if reason is not None:
        return (), reason
    twins = []
    for dtype in dict.fromkeys((history.dtype, "fp32")):
        twin = train(workload, trial.ds_config, steps=trial.steps, dtype=dtype)
        twins.append(compare(history, twin))
    return tuple(twins), ""


def _gather(value: Any) -> list[Any]:
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
