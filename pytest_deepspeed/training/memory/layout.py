"""The layout of a training, from its plain model and its config, before any engine is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_deepspeed.training.memory.evidence import Layout
from pytest_deepspeed.values import modes

#: Full-size fp32 tensors that an optimizer keeps of each weight, by its name in the config.
_STATES = {"adam": 2, "adamw": 2, "lamb": 2, "lion": 1, "adagrad": 1}

#: Keys of ``zero_optimization`` that move bytes in ways which the arithmetic does not follow.
_UNKNOWN_ZERO = {
    "zero_hpz_partition_size": 1,
    "zero_quantized_weights": False,
    "zero_quantized_nontrainable_weights": False,
    "parameter_alignment": False,
    "zenflow": None,
    "contiguous_gradients": True,
}
_UNKNOWN_HALF = (
    "fp16_master_weights_and_grads",
    "bf16_master_weights_and_grads",
    "bf16_optimizer_states",
)


def layout_of(
    model: Any, groups: Sequence[Mapping[str, Any]], ds_config: Mapping[str, Any], world_size: int
) -> Layout:
    """The layout of training ``model`` under a config.

    Args:
        model: a plain module, before ``deepspeed.initialize`` and outside ``zero.Init``.
        groups: the parameter groups that its optimizer is given.
        ds_config: the config; keys that it leaves out have DeepSpeed 0.19's defaults.
        world_size: data-parallel ranks.
    """
    zero = ds_config.get("zero_optimization") or {}
    zero = zero if isinstance(zero, Mapping) else {}
    stage = modes.stage_of(ds_config) or 0
    offloads = modes.offloads(ds_config)
    aio = ds_config.get("aio") or {}
    order = list(model.parameters())
    trained = [tuple(p.numel() for p in g["params"] if p.requires_grad) for g in groups]
    optimizer = offloads.get("optimizer", "") if stage > 0 else ""
    return Layout(
        stage=stage,
        world_size=world_size,
        itemsize=4 if modes.dtype_of(ds_config) == "fp32" else 2,
        groups=tuple(group for group in trained if group),
        frozen=tuple(p.numel() for p in order if not p.requires_grad),
        order=tuple(p.numel() for p in order),
        states=_states(ds_config.get("optimizer") or {}, bool(optimizer)),
        # Stages 1 and 2 know the CPU alone: DeepSpeed takes nvme there to mean it.
        offload_optimizer="cpu" if optimizer and stage < 3 else optimizer,
        offload_param=offloads.get("param", "") if stage == 3 else "",
        partly_offloaded=bool(optimizer) and _ratio(zero) != 1,
        parameters_in_cpu=_max_in_cpu(zero) > 0,
        persistence_threshold=int(zero.get("stage3_param_persistence_threshold", 100_000)),
        persistence_total=int(zero.get("stage3_model_persistence_threshold", 2**63 - 1)),
        sub_group_size=int(zero.get("sub_group_size", 1_000_000_000)),
        bucket_size=int(zero.get("reduce_bucket_size", 500_000_000)),
        swap_from=max(2**20, int(aio.get("block_size", 2**20))),
        swap_alignment=1024 * int(aio.get("intra_op_parallelism", 1)),
        unknown=", ".join(_unknown(ds_config, zero, stage, sum(p.numel() for p in order))),
    )


def _states(optimizer: Mapping[str, Any], offloaded: bool) -> int | None:
    name = str(optimizer.get("type", "")).lower()
    params = optimizer.get("params") or {}
    if name == "sgd":
        return 1 if params.get("momentum") else 0
    if name == "lion" and offloaded:
        return 2  # DeepSpeedCPULion allocates an exp_avg_sq that it never uses
    return None if params.get("amsgrad") else _STATES.get(name)


def _ratio(zero: Mapping[str, Any]) -> float:
    return float((zero.get("offload_optimizer") or {}).get("ratio", 1.0))


def _max_in_cpu(zero: Mapping[str, Any]) -> int:
    return int((zero.get("offload_param") or {}).get("max_in_cpu", 1_000_000_000))


def _unknown(
    ds_config: Mapping[str, Any], zero: Mapping[str, Any], stage: int, total: int
) -> list[str]:
    found = [key for key, default in _UNKNOWN_ZERO.items() if zero.get(key, default) != default]
    for block in ("fp16", "bf16"):
        half = ds_config.get(block) or {}
        found += [f"{block}.{key}" for key in _UNKNOWN_HALF if half.get(key)]
    if (ds_config.get("data_types") or {}).get("grad_accum_dtype"):
        found.append("data_types.grad_accum_dtype")
    found += [key for key in ("torch_autocast", "tensor_parallel") if ds_config.get(key)]
    if str((ds_config.get("optimizer") or {}).get("type", "")).lower() == "muon":
        found.append("optimizer.type Muon")
    param = zero.get("offload_param") or {}
    if stage == 3 and param.get("device") == "nvme" and 0 < _max_in_cpu(zero) < total:
        found.append("offload_param.max_in_cpu")
    return found
