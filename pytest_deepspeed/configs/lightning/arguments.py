"""The DeepSpeed config that Lightning makes of the arguments of a ``DeepSpeedStrategy``.

As `DeepSpeedStrategy._create_default_config` and `_format_config` of Lightning 2.6 do
(``pytorch_lightning/strategies/deepspeed.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_deepspeed.configs.lightning.names import UNREAD

_ZERO = "zero_optimization"
_OPTIMIZER, _PARAM = (_ZERO, "offload_optimizer"), (_ZERO, "offload_param")

#: Arguments that are copied into ``zero_optimization`` under their names.
_OF_ZERO = (
    *("stage", "contiguous_gradients", "overlap_comm", "allgather_partitions", "reduce_scatter"),
    *("allgather_bucket_size", "reduce_bucket_size", "sub_group_size"),
)
_OF_ACTIVATIONS = (
    *("partition_activations", "cpu_checkpointing", "contiguous_memory_optimization"),
    "synchronize_checkpoint_boundary",
)
_OF_AIO = ("block_size", "queue_depth", "single_submit", "overlap_events", "thread_count")

#: The blocks that are there only if an argument says so.
SWITCHED = (_OPTIMIZER, _PARAM)
_SWITCHES = {"offload_optimizer": _OPTIMIZER, "offload_parameters": _PARAM}

#: Where an argument goes; the blocks of the offloads stand for their switches.
PATHS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "zero_allow_untested_optimizer": (("zero_allow_untested_optimizer",),),
    "offload_optimizer": (_OPTIMIZER,),
    "offload_parameters": (_PARAM,),
    "offload_optimizer_device": ((*_OPTIMIZER, "device"),),
    "optimizer_buffer_count": ((*_OPTIMIZER, "buffer_count"),),
    "offload_params_device": ((*_PARAM, "device"),),
    "params_buffer_count": ((*_PARAM, "buffer_count"),),
    "params_buffer_size": ((*_PARAM, "buffer_size"),),
    "max_in_cpu": ((*_PARAM, "max_in_cpu"),),
    "nvme_path": ((*_OPTIMIZER, "nvme_path"), (*_PARAM, "nvme_path")),
    "pin_memory": ((*_OPTIMIZER, "pin_memory"), (*_PARAM, "pin_memory")),
    "logging_batch_size_per_gpu": (("train_micro_batch_size_per_gpu",),),
    **{name: ((_ZERO, name),) for name in _OF_ZERO},
    **{name: (("activation_checkpointing", name),) for name in _OF_ACTIVATIONS},
    **{name: (("aio", name),) for name in _OF_AIO},
}

#: Arguments that Lightning also reads where a config is given.
BESIDE_CONFIG = (
    *("config", "accelerator", "remote_device", "logging_level", "parallel_devices"),
    *("cluster_environment", "loss_scale", "initial_scale_power", "loss_scale_window"),
    *("hysteresis", "min_loss_scale", "load_full_weights", "precision_plugin"),
    *("process_group_backend", "timeout", "exclude_frozen_parameters"),
)

_SCALING = ("loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis")
_FP16, _BF16 = (16, "16", "16-mixed", "16-true"), ("bf16", "bf16-mixed", "bf16-true")


def paths(arguments: Mapping[str, Any], name: str) -> tuple[tuple[str, ...], ...]:
    """The parts of the config that an argument makes, beside the others; none if it is ignored."""
    if name == "logging_batch_size_per_gpu" and arguments[name] == "auto":
        return ()
    on = {path: arguments.get(argument) for argument, path in _SWITCHES.items()}
    zero = arguments.get(_ZERO, True)
    return tuple(
        path
        for path in PATHS.get(name, ())
        if (zero or not path[0].startswith("zero_"))
        and all(on[switch] is True for switch in on if path[: len(switch)] == switch)
    )


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What ``_create_default_config`` makes; what is `UNREAD` is left out.

    Args:
        arguments: all that there are, defaults included.
    """
    made: dict[str, Any] = {}
    for name, value in arguments.items():
        for path in paths(arguments, name):
            block = made
            for key in path[:-1]:
                block = block.setdefault(key, {})
            if name in _SWITCHES:
                block.setdefault(path[-1], {})
            elif value is not UNREAD:
                block[path[-1]] = value
    return made


def formatted(
    made: dict[str, Any], arguments: Mapping[str, Any], trainer: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``_format_config`` adds from the trainer; of a batch size that is not given, 1.

    Args:
        made: the config, which is changed.
        arguments: of the strategy, defaults included.
        trainer: those of the trainer's that are read.
    """
    made.setdefault("gradient_accumulation_steps", trainer.get("accumulate_grad_batches") or 1)
    if "train_batch_size" not in made:
        # Lightning takes that of the DataLoader, which the text of a script seldom tells.
        made.setdefault("train_micro_batch_size_per_gpu", 1)
    made.setdefault("gradient_clipping", trainer.get("gradient_clip_val") or 0.0)
    precision = trainer.get("precision")
    if precision in _FP16 and "fp16" not in made:
        scaling = {name: arguments.get(name, UNREAD) for name in (*_SCALING, "min_loss_scale")}
        read = {name: value for name, value in scaling.items() if value is not UNREAD}
        made["fp16"] = {"enabled": True, **read}
    elif precision in _BF16 and "bf16" not in made:
        made["bf16"] = {"enabled": True}
    return {key: value for key, value in made.items() if value is not UNREAD}
