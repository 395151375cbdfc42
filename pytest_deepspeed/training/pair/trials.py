"""The two trials of a pair: what both configs train, so that only what they say differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pytest_deepspeed.training import faults
from pytest_deepspeed.training.trial import STEPS, Trial, bucket_elements, wide_of

#: Why a trial on the trap model has no twin: the other trial of its pair takes its place.
BESIDE_BASE = "it is compared with its base"

#: Branches of the trap model that take part by the number of a micro-batch, which may change
#: without changing the batch.
_OF_MICRO_BATCHES = ("late_branch", "early_branch")

#: Of these checks' known faults no trait shall show one.
_ABOUT = ("parity", "checkpoint")

#: Blocks of half precision, and keys that name a dtype.
_HALF = ("fp16", "bf16", "bfloat16", "amp", "torch_autocast", "data_types")
_DTYPE_KEYS = ("communication_data_type", "seq_parallel_communication_data_type")


def trials(base: Trial, head: Trial) -> tuple[Trial, Trial]:
    """Two trials that train the same.

    The user's own workload is trained as it is. The trap model is made as both configs need it,
    without what meets a known fault of DeepSpeed's under either.
    """
    steps = head.steps or STEPS
    base, head = (dataclasses.replace(one, steps=steps, seed=head.seed) for one in (base, head))
    if head.workload_from or base.workload_from:
        return base, head
    met = {
        fault.trait
        for one in (base, head)
        for fault in faults.can_meet(one.ds_config)
        if fault.trait and fault.check in _ABOUT
    }
    shared: dict[str, Any] = {
        "without": tuple(sorted({*met, *_OF_MICRO_BATCHES})),
        "wide": max(wide_of(one.ds_config, one.world_size) for one in (base, head)),
        "bucket": bucket_elements(base.ds_config),
        "uncovered": BESIDE_BASE,
    }
    return dataclasses.replace(base, **shared), dataclasses.replace(head, **shared)


def in_single(trial: Trial) -> Trial:
    """The trial in fp32."""
    return dataclasses.replace(trial, ds_config=_in_single(trial.ds_config))


def _in_single(ds_config: Mapping[str, Any]) -> dict[str, Any]:
    left = (*_HALF, *_DTYPE_KEYS)
    return {key: value for key, value in ds_config.items() if key not in left}
