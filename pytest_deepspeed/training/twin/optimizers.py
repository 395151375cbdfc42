"""The optimizer of a config, in plain torch and in DeepSpeed's parameterization."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pytest_deepspeed.training.twin import rules

#: DeepSpeed takes its own names in any case, and SGD as torch spells it.
NAMES = ("SGD", "Adam", "AdamW", "Lion", "Lamb", "Muon")

#: Keys of Adam that choose an implementation, not an arithmetic.
_IMPLEMENTATION = ("torch_adam", "foreach", "fp32_optimizer_states", "bias_correction")

#: Of deepspeed/ops/lion/fused_lion.py and cpu_lion.py; the paper's second beta is 0.99.
_LION = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.0}

#: Of deepspeed/ops/lamb/fused_lamb.py.
_LAMB = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "eps_inside_sqrt": False,
    "weight_decay": 0.0,
    "max_coeff": 10.0,
    "min_coeff": 0.01,
}

#: Of deepspeed/runtime/zero/muon/original_muon.py: for matrices, and for all else.
_MUON = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0}
_MUON_ADAM = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}


def uncovered(block: Mapping[str, Any] | None) -> str | None:
    """Why there is no twin of a config's ``optimizer`` block; ``None`` where there is."""
    if not block or not block.get("type"):
        return "the config names no optimizer"
    name = str(block["type"]).lower()
    params = block.get("params") or {}
    if name not in [known.lower() for known in NAMES]:
        return f"the twin has no optimizer {block['type']!r}: it has {', '.join(NAMES)}"
    if params.get("bias_correction", True) is not True:
        return f"the twin has no {block['type']} without bias_correction"
    if params.get("fp32_optimizer_states", True) is not True:
        return "the twin keeps moments in fp32 only, and fp32_optimizer_states is false"
    if params.get("amsgrad"):
        return f"the twin has no {block['type']} with amsgrad"
    if name == "muon" and params.get("per_head_muon"):
        return "the twin has no Muon with per_head_muon"
    if name == "muon" and params.get("ns_method", "gram") != "gram":
        return "the twin iterates Muon in fp32, where DeepSpeed's ns_method 'standard' does in bf16"
    if name == "muon" and _has_fp16():
        return "the twin iterates Muon in fp32, where DeepSpeed on this CPU does in AVX512-FP16"
    return None


@functools.cache
def _has_fp16() -> bool:
    """Whether DeepSpeed's CPU accelerator computes in fp16, in which Muon iterates where it can.

    Source: ``is_fp16_supported`` of deepspeed/accelerator/cpu_accelerator.py asks oneDNN, and that
    the processor; ``ns_compute_dtype`` of deepspeed/runtime/zero/muon/original_muon.py.
    """
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def optimizer(block: Mapping[str, Any], names: Mapping[Any, str], groups: list[Any]) -> Any:
    """The optimizer of a config's ``optimizer`` block: `param_groups`, `state` and `step()`.

    Args:
        block: ``{"type": ..., "params": {...}}``, one that is not `uncovered`.
        names: the name of each parameter. Muon trains matrices that no name calls an embedding.
        groups: parameter groups; what they set takes the place of the block's params.
    """
    import torch

    name = str(block["type"]).lower()
    params = dict(block.get("params") or {})
    if name == "sgd":
        return torch.optim.SGD(groups, **params)
    if name in ("adam", "adamw"):
        return _adam(groups, params, always_decoupled=name == "adamw")
    if name == "muon":
        return _muon(names, groups, params)
    defaults, rule = (_LION, rules.lion) if name == "lion" else (_LAMB, rules.lamb)
    chosen = {key: value for key, value in params.items() if key in defaults}
    return rules.ByRule(groups, defaults | chosen, rule)


def _adam(groups: list[Any], params: dict[str, Any], *, always_decoupled: bool) -> Any:
    """``"Adam"`` decouples its decay unless ``adam_w_mode`` is false; ``"AdamW"`` always does.

    (deepspeed/runtime/config.py, ADAM_W_MODE_DEFAULT.) DeepSpeed's own implementations decay by 0
    unless told otherwise; torch's AdamW, which ``torch_adam`` asks for, by 0.01.
    """
    import torch

    decoupled = params.pop("adam_w_mode", True) or always_decoupled
    if not params.get("torch_adam"):
        params.setdefault("weight_decay", 0.0)
    for key in _IMPLEMENTATION:
        params.pop(key, None)
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups, **params)


def _muon(names: Mapping[Any, str], groups: list[Any], params: dict[str, Any]) -> rules.ByRule:
    """Each group becomes one of matrices and one of the rest, as in `DeepSpeedEngine`.

    ``muon_lr`` and ``adam_lr`` come before ``lr``, and a group's own settings before both.
    """
    decoupled = params.get("adam_w_mode", True)
    halves = (
        (True, _MUON, "muon_lr", {"rule": rules.muon}),
        (False, _MUON_ADAM, "adam_lr", {"rule": rules.adamw, "decoupled": decoupled}),
    )
    split = []
    for group in groups:
        for matrices, defaults, own_lr, extra in halves:
            some = [p for p in group["params"] if _is_for_muon(p, names[p]) is matrices]
            chosen = {**params, "lr": params.get(own_lr, params.get("lr", defaults["lr"]))} | group
            settings = {key: chosen.get(key, value) for key, value in defaults.items()}
            if some:
                split.append({**settings, **extra, "params": some})
    return rules.ByRule(split, {}, rules.muon)


def _is_for_muon(parameter: Any, name: str) -> bool:
    """By the rule of `deepspeed.initialize` (`set_optimizer_flags`)."""
    return parameter.ndim >= 2 and not any(word in name.lower() for word in ("embed", "lm_head"))
