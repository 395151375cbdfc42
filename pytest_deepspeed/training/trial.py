"""One training of a config, on the trap model or on the user's own workload: what is trained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_deepspeed.training import nvme
from pytest_deepspeed.values import modes
from reference_training.traits import HIDDEN, TRAITS

if TYPE_CHECKING:
    from pytest_deepspeed.training.workload.adapter import Adapter
    from reference_training.trap import Trap

#: Steps whose weights are compared with the twin's. The branch of the trap model that is used on
#: alternate steps is on, off and on again in them.
STEPS = 6


#: DeepSpeed's default of ``stage3_param_persistence_threshold``, in elements.
_PERSISTENCE_THRESHOLD = 100_000

#: Elements of a layer that a test can still train.
_LARGEST_LAYER = 4_000_000


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is to be trained.

    Attributes:
        ds_config: a DeepSpeed config that this machine can run; ``nvme_path`` may be left out.
        world_size: ranks.
        without: traits that the trap model shall not have.
        only: the traits that it shall have alone; ``None`` for all that are left.
        wide: rows of its wide layer; 0 for none, ``None`` for as many as swapping needs.
        bucket: elements of its parameter that fills a bucket; ``None`` for the config's bucket.
        steps: optimizer steps that are compared. One more is measured.
        seed: of weights and samples.
        workload_from: a reference, as `training.workload.source` has them, to the user's own
            workload; empty for the trap model.
        code: the directory that stands for the project's, when the workload's modules are
            imported: of another commit; empty for the project's own.
        lightning: a user's own Lightning code, as `training.lightning.target.Target` has it, which
            brings all but the directory to swap to; empty for the checks' own loop.
        data: of Lightning code, what stands in for a CIFAR10 that is not there.
        uncovered: of Lightning code, why it can have no twin; empty where it can.

    Raises:
        ValueError: an unknown trait; or something of the trap model for another one.
    """

    ds_config: Mapping[str, Any]
    world_size: int
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    wide: int | None = None
    bucket: int | None = None
    steps: int = STEPS
    seed: int = 0
    workload_from: str = ""
    code: str = ""
    lightning: str = ""
    data: str = ""
    uncovered: str = ""

    def __post_init__(self) -> None:
        if self.workload_from and (self.without or self.only is not None or self.wide is not None):
            raise ValueError(
                f"the workload {self.workload_from} has no traits: `only`, `without` and `wide` are"
                " the trap model's, so leave them out"
            )
        unknown = sorted({*self.without, *(self.only or ())} - set(TRAITS))
        if unknown:
            raise ValueError(
                f"no trait of the trap model: {', '.join(unknown)}; there are {', '.join(TRAITS)}"
            )

    @property
    def key(self) -> str:
        """The same for the same trial, in any process."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def has(self, trait: str) -> bool:
        """Whether what is trained is the trap model and has a trait."""
        if self.workload_from or self.lightning:
            return False
        return trait in self.only if self.only is not None else trait not in self.without

    def workload(self) -> Trap | Adapter:
        """The workload that is trained; on a rank.

        Raises:
            WorkloadError: the user's own is not there, or is none.
        """
        from reference_training.trap import Trap

        if self.workload_from:
            return self._own() or Trap(_safe(self.ds_config), self.seed)
        traits = [t for t in TRAITS if t not in self.without] if self.only is None else self.only
        wide = wide_of(self.ds_config, self.world_size) if self.wide is None else self.wide
        bucket = bucket_elements(self.ds_config) if self.bucket is None else self.bucket
        return Trap(traits, self.seed, wide, bucket_elements=bucket)

    def _own(self) -> Adapter | None:
        """The user's own; ``None`` where the hook has none for this config."""
        from pytest_deepspeed.training.workload import source
        from pytest_deepspeed.training.workload.adapter import Adapter

        found = source.find(self.workload_from, self.ds_config, self.code)
        return (
            None if found is None else Adapter(found, source.shown(self.workload_from), self.seed)
        )


def _safe(ds_config: Mapping[str, Any]) -> list[str]:
    """Traits that meet no known fault: the controller judges a hook's workload as one without."""
    from pytest_deepspeed.training import faults

    met = {fault.trait for fault in faults.can_meet(ds_config)}
    return [trait for trait in TRAITS if trait not in met]


def wide_of(ds_config: Mapping[str, Any], world_size: int) -> int:
    """Rows of the trap model's wide layer: none where nothing is swapped and ZeRO-3 partitions.

    Masters and states are in fp32, whatever the weights are in.
    """
    from reference_training.trap import wide_enough

    partitioned = _partitioned_elements(ds_config) // HIDDEN + 1
    rows = partitioned + partitioned % 2 if partitioned > 1 else 0
    if not nvme.asked(ds_config):
        return rows
    aio = ds_config.get("aio") or {}
    block = aio.get("block_size", 0)
    in_half = modes.dtype_of(ds_config) != "fp32"
    weights_too = modes.offloads(ds_config).get("param") == "nvme"
    swapped = wide_enough(
        world_size=world_size,
        block_bytes=max(2**20, int(block)),
        bytes_per_element=2 if in_half and weights_too else 4,
    )
    return max(rows, swapped)


def _partitioned_elements(ds_config: Mapping[str, Any]) -> int:
    """Elements that ZeRO-3 still keeps whole, where they are many; 0 elsewhere.

    A larger parameter is partitioned. Above a limit the model would be too large for a test, and
    the check `engagement` says that nothing is partitioned.
    """
    zero = ds_config.get("zero_optimization")
    if not isinstance(zero, Mapping) or modes.stage_of(ds_config) != 3:
        return 0
    threshold = zero.get("stage3_param_persistence_threshold", _PERSISTENCE_THRESHOLD)
    few = not isinstance(threshold, (int, float)) or threshold <= 1000
    return 0 if few or threshold > _LARGEST_LAYER else int(threshold)


def bucket_elements(ds_config: Mapping[str, Any]) -> int:
    """Elements of the trap model's parameter that shall fill a bucket: the config's bucket size.

    600 where no parameter of the model can be made to fill it: where it is too large, or no
    multiple of the model's 40 columns.
    """
    zero = ds_config.get("zero_optimization")
    size = zero.get("reduce_bucket_size") if isinstance(zero, Mapping) else None
    fits = isinstance(size, int) and 0 < size <= 20_000 and size % 40 == 0
    return size if isinstance(size, int) and fits else 600


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
