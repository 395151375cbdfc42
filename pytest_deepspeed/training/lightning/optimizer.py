"""The optimizer that a module's `configure_optimizers` returns, in the words of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Settings of a parameter group that the arithmetic of a step depends on.
_SETTINGS = ("lr", "betas", "eps", "weight_decay", "momentum", "dampening", "nesterov")


#: What is said where it is not so: a twin that lacks it says so.
_USUAL = {"amsgrad": False, "maximize": False, "bias_correction": True}


def block_of(optimizer: Any) -> dict[str, Any]:
    """The ``optimizer`` block that would make DeepSpeed build the same.

    An optimizer that no block describes has its class as ``type``, of which there is no twin.
    """
    kind, defaults = type(optimizer).__name__, optimizer.defaults
    params = {key: plain(defaults[key]) for key in _SETTINGS if key in defaults}
    params |= {
        key: defaults[key] for key, usual in _USUAL.items() if defaults.get(key, usual) != usual
    }
    if kind in ("FusedAdam", "DeepSpeedCPUAdam"):
        kind = "AdamW" if getattr(optimizer, "adam_w_mode", True) else "Adam"
    elif kind in ("Adam", "AdamW"):
        params["torch_adam"] = True
    if kind == "Adam":  # which decouples its decay in a config, unless it is told not to
        params["adam_w_mode"] = bool(defaults.get("decoupled_weight_decay"))
    return {"type": kind, "params": params}


def groups_of(optimizer: Any) -> list[dict[str, Any]]:
    """Its parameter groups, each with the settings that the arithmetic depends on."""
    return [
        {"params": list(group["params"]), **{k: group[k] for k in _SETTINGS if k in group}}
        for group in optimizer.param_groups
    ]


def configured(module: Any) -> tuple[Any, Any]:
    """What `configure_optimizers` returns: the optimizer, and the schedule's config or ``None``.

    The schedule is a mapping as Lightning has it: ``scheduler``, ``interval``, ``frequency``.

    Raises:
        ValueError: there is not just one optimizer.
    """
    given = module.configure_optimizers()
    optimizers, schedules = _parts(given)
    if len(optimizers) != 1 or len(schedules) > 1:
        raise ValueError(
            f"configure_optimizers returned {len(optimizers)} optimizers and {len(schedules)}"
            " schedulers, and DeepSpeed takes one of each"
        )
    if not schedules:
        return optimizers[0], None
    schedule = schedules[0]
    if not isinstance(schedule, Mapping):
        schedule = {"scheduler": schedule}
    return optimizers[0], {"interval": "epoch", "frequency": 1, **schedule}


def _parts(given: Any) -> tuple[list[Any], list[Any]]:
    if isinstance(given, Mapping):
        schedule = given.get("lr_scheduler")
        return [given["optimizer"]], [] if schedule is None else [schedule]
    if isinstance(given, (list, tuple)):
        if len(given) == 2 and all(isinstance(part, (list, tuple)) for part in given):
            return list(given[0]), list(given[1])
        parts = [_parts(one) for one in given]
        return [one for some, _ in parts for one in some], [
            one for _, some in parts for one in some
        ]
    return ([] if given is None else [given]), []


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return list(value) if isinstance(value, tuple) else value
