"""Reads the evidence of engagement off a living engine; every rank for itself, no collective.

In the training loop of at least one step, between its last backward pass and `engine.step()`, call
`before_step`; after the last step, while the engine lives, `observe`. Once it is destroyed,
`swap_files` says what DeepSpeed leaves in the config's ``nvme_path``.

Nothing is taken from the config: where a figure is DeepSpeed's own record and not a tensor's size
(a partition that is swapped out has none in memory), the size of the swap file stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_deepspeed.training import state
from pytest_deepspeed.training.engagement.evidence import (
    GradientPart,
    Gradients,
    Parameter,
    Partition,
    RankEngagement,
    State,
    SwapFile,
)

_HYPERPARAMETERS = ("lr", "betas", "eps", "weight_decay", "momentum", "use_muon")


def before_step(engine: Any) -> Gradients:
    """Where the gradients are; call it between the last backward pass of a step and its update."""
    whole = sum(p.grad.numel() for p in engine.module.parameters() if p.grad is not None)
    return Gradients(whole=whole, parts=tuple(_gradient_parts(engine)))


def observe(engine: Any, gradients: Gradients) -> RankEngagement:
    """This rank's evidence, after at least one step.

    Args:
        engine: not yet destroyed.
        gradients: of `before_step`, from any step.
    """
    from deepspeed.accelerator import get_accelerator

    optimizer = state.innermost_optimizer(engine)
    mode = getattr(optimizer, "adam_w_mode", None)
    rank = engine.global_rank
    return RankEngagement(
        rank=rank,
        world_size=engine.dp_world_size,
        accelerator=get_accelerator().device_name(),
        stage=_stage(engine),
        wrapper=type(engine.optimizer).__name__,
        optimizer=type(optimizer).__name__,
        decoupled_weight_decay=None if mode is None else bool(mode),
        groups=tuple(_hyperparameters(group) for group in optimizer.param_groups),
        optimizer_steps=state.optimizer_steps(engine),
        global_steps=engine.global_steps,
        skipped_steps=engine.skipped_steps,
        micro_steps=engine.micro_steps,
        accumulation_steps=engine.gradient_accumulation_steps(),
        clipping=float(getattr(engine.optimizer, "clip_grad", engine.gradient_clipping())),
        scheduler=type(engine.lr_scheduler).__name__ if engine.lr_scheduler else "",
        offload_optimizer=_offload_optimizer(engine.optimizer),
        offload_param=_offload_param(engine.optimizer),
        parameters=tuple(_parameters(engine)),
        partitions=tuple(_partitions(engine, optimizer)),
        gradients=gradients,
        swap_files=tuple(
            file for path in _nvme_paths(engine) for file in swap_files(path, rank=rank)
        ),
        pinned=_pinned(engine.optimizer) if get_accelerator().device_name() == "cuda" else None,
    )


def swap_files(nvme_path: str | Path, rank: int | None = None) -> tuple[SwapFile, ...]:
    """The files below a config's ``nvme_path``; none where it is not there.

    Args:
        nvme_path: of the config.
        rank: only this rank's, which no other touches. Without it, call while no engine lives.
    """
    root = Path(nvme_path)
    pattern = "*" if rank is None else f"rank{rank}/*"
    files = sorted(path for path in root.rglob(pattern) if path.is_file())
    return tuple(
        SwapFile(path=str(path.relative_to(root)), bytes=path.stat().st_size, zeros=_zeros(path))
        for path in files
    )


def _zeros(path: Path) -> bool:
    with path.open("rb") as file:
        return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(1 << 20), b""))


def _nvme_paths(engine: Any) -> list[str]:
    blocks = (engine.zero_offload_optimizer(), engine.zero_offload_param())
    paths = (getattr(block, "nvme_path", None) for block in blocks)
    return sorted({str(path) for path in paths if path is not None})


def _stage(engine: Any) -> int:
    """By the class of the object that runs; stage 1 and 2 are one class with a switch."""
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    zero = engine.optimizer
    if isinstance(zero, DeepSpeedZeroOptimizer_Stage3):
        return 3
    if isinstance(zero, DeepSpeedZeroOptimizer):
        return 2 if zero.partition_gradients else 1
    return 1 if isinstance(zero, BF16_Optimizer) else 0


def _offload_optimizer(zero: Any) -> str:
    if getattr(zero, "swap_optimizer", False) and zero.optimizer_swapper is not None:
        return "nvme"
    offloaded = getattr(zero, "offload_optimizer", False) or getattr(zero, "cpu_offload", False)
    return "cpu" if offloaded else "none"


def _pinned(zero: Any) -> bool | None:
    """Of the buffers that DeepSpeed pins for as long as the engine lives.

    Stages 1 and 2 pin the master weights, stage 3 the gradients that it hands to the optimizer
    (runtime/zero/stage_1_and_2.py:565, stage3.py:795).
    """
    if _offload_optimizer(zero) == "none":
        return None
    held = getattr(zero, "single_partition_of_fp32_groups", None)
    if held is None:
        held = [getattr(zero, "grad_partitions_flat_buffer", None)]
    found = [tensor for tensor in held if tensor is not None and tensor.numel()]
    return all(tensor.is_pinned() for tensor in found) if found else None


def _offload_param(zero: Any) -> str:
    if getattr(zero, "params_in_nvme_and_cpu", False):
        return "nvme"
    return "cpu" if getattr(zero, "offload_param", False) else "none"


def _hyperparameters(group: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    found = {}
    for key in _HYPERPARAMETERS:
        value = group.get(key)
        if value is not None:
            values = value if isinstance(value, (tuple, list)) else (value,)
            found[key] = tuple(float(item) for item in values)
    return found


def _groups(engine: Any) -> Iterator[tuple[int, list[Any]]]:
    """The parameters that are trained, as the object that runs has them: (group, parameters).

    At stage 3 these are sub-groups, of which a group may have several.
    """
    zero = engine.optimizer
    if _stage(engine) == 3:
        for index, group in enumerate(zero.fp16_groups):
            yield zero.sub_group_to_group_id[index], group
        return
    for name in ("bit16_groups", "bf16_groups", "fp16_groups"):
        if hasattr(zero, name):
            yield from enumerate(getattr(zero, name))
            return
    yield from enumerate(group["params"] for group in zero.param_groups)


def _parameters(engine: Any) -> Iterator[Parameter]:
    places: dict[int, tuple[int, int]] = {}
    sizes: dict[int, int] = {}
    for group, parameters in _groups(engine):
        for parameter in parameters:
            places[id(parameter)] = (group, sizes.get(group, 0))
            sizes[group] = sizes.get(group, 0) + 1
    persistent = {id(p) for p in getattr(engine.optimizer, "persistent_parameters", ())}
    for name, parameter in engine.module.named_parameters():
        place = places.get(id(parameter))
        part = getattr(parameter, "ds_tensor", None)
        yield Parameter(
            name=name,
            shape=tuple(getattr(parameter, "ds_shape", parameter.shape)),
            trained=parameter.requires_grad,
            group=place[0] if place else None,
            index=place[1] if place else None,
            dtype=_dtype(parameter),
            resident=parameter.numel(),
            partition=None if part is None else int(part.ds_numel),
            persistent=id(parameter) in persistent,
            device=parameter.device.type if part is None else _part_device(part),
        )


def _part_device(part: Any) -> str:
    from deepspeed.runtime.swap_tensor.partitioned_param_swapper import PartitionedParamStatus

    if part.status == PartitionedParamStatus.NOT_AVAILABLE:
        return "nvme"
    return str(part.device.type)


def _partitions(engine: Any, optimizer: Any) -> Iterator[Partition]:
    for group, tensors, numel, padding in _masters(engine):
        states: dict[str, list[Any]] = {}
        for tensor in tensors:
            for key, value in optimizer.state.get(tensor, {}).items():
                if hasattr(value, "dim") and value.dim() > 0:
                    states.setdefault(key, []).append(value)
        resident = sum(tensor.numel() for tensor in tensors)
        yield Partition(
            group=group,
            numel=resident if numel is None else numel,
            padding=padding,
            resident=resident,
            dtype=_dtype(tensors[0]),
            device=_device(tensors[0], resident),
            states=tuple(_state(key, states[key]) for key in sorted(states)),
        )


def _masters(engine: Any) -> Iterator[tuple[int, list[Any], int | None, int]]:
    """Each (group, tensors of master weights, elements where these may be swapped out, padding)."""
    zero = engine.optimizer
    if _stage(engine) == 3:
        for index, flat in enumerate(zero.fp32_partitioned_groups_flat):
            numel = int(zero.fp16_partitioned_groups_flat_numel[index])
            padding = sum(zero.groups_padding[index])
            yield zero.sub_group_to_group_id[index], [flat], numel, padding
    elif hasattr(zero, "single_partition_of_fp32_groups"):
        for group, flat in enumerate(zero.single_partition_of_fp32_groups):
            yield group, [flat], None, zero.groups_padding[group]
    elif hasattr(zero, "fp32_groups_flat_partition"):
        for group, flat in enumerate(zero.fp32_groups_flat_partition):
            yield group, [flat], None, zero.group_paddings[group]
    else:
        for group, of_group in enumerate(state.innermost_optimizer(engine).param_groups):
            yield group, list(of_group["params"]), None, 0


def _state(key: str, tensors: list[Any]) -> State:
    resident = sum(tensor.numel() for tensor in tensors)
    return State(
        key=key,
        resident=resident,
        dtype=_dtype(tensors[0]),
        device=_device(tensors[0], resident),
    )


def _device(tensor: Any, resident: int) -> str:
    """DeepSpeed empties the tensors that it swaps out."""
    return str(tensor.device.type) if resident else "nvme"


def _gradient_parts(engine: Any) -> Iterator[GradientPart]:
    zero = engine.optimizer
    stage = _stage(engine)
    if stage == 0:
        return
    offloaded = _offload_optimizer(zero) != "none"
    for index, (group, tensors, _, _) in enumerate(_masters(engine)):
        swapped = 0
        if hasattr(zero, "fp32_groups_gradient_flat_partition"):
            held = [zero.fp32_groups_gradient_flat_partition[index]]
        elif offloaded:
            held = [tensor.grad for tensor in tensors if tensor.grad is not None]
        else:
            held = list(zero.averaged_gradients.get(index) or ())
        info = _swap_info(zero, tensors[0])
        if info is not None:
            held = list(info.unswapped_gradients.values())
            swapped = sum(part.length for part in info.swapped_gradients.values())
        yield GradientPart(
            group=group,
            numel=sum(tensor.numel() for tensor in held),
            swapped=swapped,
            dtype=_dtype(held[0]) if held else "",
            device=held[0].device.type if held else "nvme" if swapped else "",
        )


def _swap_info(zero: Any, flat: Any) -> Any:
    swapper = getattr(zero, "optimizer_swapper", None)
    return None if swapper is None else swapper.swap_params_info.get(flat.ds_id)


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
