"""PL3xx: what a ``LightningModule`` does that DeepSpeed makes nothing of."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pytest_deepspeed.configs.lightning.script import UNREAD, Script, Strategy, method, own_nodes
from pytest_deepspeed.configs.problem import Found
from pytest_deepspeed.configs.rule import script_rule

_FILE = "pytorch_lightning/strategies/deepspeed.py"
_HOOKS = ("configure_model", "configure_sharded_model")
#: Modules of torch.nn that hold others, and have no weights of their own.
_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")
_WITH_WEIGHTS = (
    *("Linear", "Bilinear", "Conv", "LazyLinear", "LazyConv", "Embedding", "LSTM", "GRU", "RNN"),
    *("Transformer", "MultiheadAttention", "LayerNorm", "BatchNorm"),
)
#: The only ones that DeepSpeed takes from a script where the optimizer is offloaded.
_ON_HOST = ("DeepSpeedCPUAdam", "DeepSpeedCPULion")


@script_rule(
    "PL301",
    "deprecated-hook",
    "error",
    source="pytorch_lightning/trainer/configuration_validator.py"
    " (__verify_configure_model_configuration)",
)
def deprecated_hook(script: Script) -> Iterator[Found]:
    """The model is configured in a hook that is deprecated."""
    for class_ in script.modules:
        hook = method(class_, "configure_sharded_model")
        if hook is None:
            continue
        if method(class_, "configure_model") is not None:
            does = "Lightning stops: configure_model is there beside it"
            yield Found(script.at(hook), f"configure_sharded_model is deprecated, and {does}", "")
        else:
            yield Found(
                script.at(hook),
                "configure_sharded_model is deprecated: Lightning builds what is in it without the"
                " trainer's precision and device",
                "name it configure_model",
            )


@script_rule(
    "PL302",
    "hook-shards-nothing",
    "error",
    source="pytorch_lightning/trainer/call.py (_call_configure_model),"
    " deepspeed/runtime/zero/partition_parameters.py (Init)",
)
def hook_shards_nothing(script: Script) -> Iterator[Found]:
    """The hook for the model builds no part of it at stage 3, and only puts together what is."""
    if all(strategy.stage != 3 for strategy in script.strategies):
        return
    for class_ in script.modules:
        for hook in filter(None, (method(class_, name) for name in _HOOKS)):
            calls = [node for node in own_nodes(hook) if isinstance(node, ast.Call)]
            if all(_builds_nothing(script, call) for call in calls):
                built = " and ".join(_built_in_init(script, class_)[:3])
                where = f" ({built})" if built else ""
                yield Found(
                    script.at(hook),
                    f"{hook.name} builds no weights: zero.Init shards what is built in it, and here"
                    f" all were built before{where}, whole on each rank",
                    "build the layers in configure_model",
                )


@script_rule(
    "PL303",
    "built-in-init",
    "warning",
    source="pytorch_lightning/trainer/call.py (_call_configure_model)",
)
def built_in_init(script: Script) -> Iterator[Found]:
    """At stage 3 the model is built in ``__init__``, whole on each rank."""
    if not script.strategies or any(strategy.stage != 3 for strategy in script.strategies):
        return
    for class_ in script.modules:
        init = method(class_, "__init__")
        if init is None or any(method(class_, name) for name in _HOOKS):
            continue
        if built := _built_in_init(script, class_):
            yield Found(
                script.at(init),
                f"each rank builds the whole model ({', '.join(built[:3])}) before DeepSpeed shards"
                " it: zero.Init is on in configure_model alone",
                "build the layers in configure_model, where the model is large",
            )


@script_rule(
    "PL304",
    "optimizer-not-on-host",
    "error",
    source="deepspeed/runtime/engine.py:2342 (_configure_optimizer)",
)
def optimizer_not_on_host(script: Script) -> Iterator[Found]:
    """The optimizer is offloaded, and is none that runs on the host."""
    offloading = [
        strategy.offloads("optimizer") in ("cpu", "nvme") and not _takes_any(strategy)
        for strategy in script.strategies
    ]
    if not offloading or not all(offloading):
        return
    for call, name in _optimizers(script):
        last = name.rpartition(".")[2]
        own = name.startswith("torch.optim.") and ".lr_scheduler" not in name
        if (own or name.startswith("deepspeed.ops.")) and last not in _ON_HOST:
            yield Found(
                script.at(call),
                f"deepspeed.initialize stops with a ZeRORuntimeException: {last} is none of the"
                " optimizers that run on the host, where offload_optimizer puts its state",
                "use deepspeed.ops.adam.DeepSpeedCPUAdam",
            )


@script_rule(
    "PL305",
    "optimizer-on-host-alone",
    "error",
    source="deepspeed/ops/adam/cpu_adam.py:148 (DeepSpeedCPUAdam.step)",
)
def optimizer_on_host_alone(script: Script) -> Iterator[Found]:
    """The optimizer runs on the host, and its weights stay on the GPU."""
    staying = [
        not strategy.open
        and strategy.offloads("optimizer") is None
        and strategy.arguments.get("offload_optimizer") is not UNREAD
        for strategy in script.strategies
    ]
    if not staying or not all(staying):
        return
    for call, name in _optimizers(script):
        last = name.rpartition(".")[2]
        if last in _ON_HOST:
            yield Found(
                script.at(call),
                f"{last} stops at its first step: it takes weights on the host alone, and without"
                " offload_optimizer they are on the GPU",
                "add offload_optimizer=True, or use deepspeed.ops.adam.FusedAdam",
            )


@script_rule("PL306", "own-gradient-clipping", "error", source=f"{_FILE} (init_deepspeed)")
def own_gradient_clipping(script: Script) -> Iterator[Found]:
    """The model clips gradients itself, which has no effect."""
    for class_ in script.modules if script.strategies else ():
        hook = method(class_, "configure_gradient_clipping")
        if hook is not None:
            yield Found(
                script.at(hook),
                "DeepSpeed clips by its own config: what configure_gradient_clipping does to"
                " gradients has no effect",
                "write Trainer(gradient_clip_val=...)",
            )


@script_rule("PL307", "several-optimizers", "error", source=f"{_FILE} (_init_optimizers)")
def several_optimizers(script: Script) -> Iterator[Found]:
    """The model has more than one optimizer."""
    for class_ in script.modules if script.strategies else ():
        hook = method(class_, "configure_optimizers")
        for node in own_nodes(hook) if hook is not None else ():
            if isinstance(node, ast.Return) and (number := _returned(node.value)) > 1:
                yield Found(
                    script.at(node),
                    f"Lightning stops: there are {number} optimizers, and DeepSpeed takes one",
                    "return one, with groups of parameters where they differ",
                )


@script_rule(
    "PL308",
    "nested-call",
    "warning",
    source="pytorch_lightning/strategies/strategy.py (_ForwardRedirection) and"
    " deepspeed/runtime/zero/parameter_offload.py:304 (_start_of_forward_hook)",
)
def nested_call(script: Script) -> Iterator[Found]:
    """At stage 3 ``training_step`` calls the module that it is a method of."""
    if not any(strategy.stage == 3 for strategy in script.strategies):
        return
    for class_ in script.modules:
        step = method(class_, "training_step")
        own = step.args.args[0].arg if step is not None and step.args.args else ""
        for node in own_nodes(step) if step is not None else ():
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id == own:
                yield Found(
                    script.at(node),
                    f"Lightning has called the module already, and {own}(...) within it makes"
                    " DeepSpeed forget in which order it gathers parameters, in each step: it"
                    " prefetches none",
                    f"call a layer: {own}.net(...)",
                )


def _returned(value: ast.expr | None) -> int:
    """How many optimizers are returned, at least."""
    match value:
        case ast.Tuple(elts=[ast.List(elts=optimizers), ast.List()]):
            return len(optimizers)
        case ast.List(elts=[ast.List(elts=optimizers), _]):
            return len(optimizers)
        case ast.List(elts=optimizers):
            return len(optimizers)
    return 1


def _builds_nothing(script: Script, call: ast.Call) -> bool:
    name = script.names.dotted(call.func)
    if name.startswith("torch.nn."):
        return name.rpartition(".")[2] in _CONTAINERS
    match call.func:
        case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
            return True
    return name in ("print", "super")


def _built_in_init(script: Script, class_: ast.ClassDef) -> list[str]:
    """The names of the modules with weights that ``__init__`` builds."""
    init = method(class_, "__init__")
    found = []
    for node in own_nodes(init) if init is not None else ():
        if isinstance(node, ast.Call):
            name = script.names.dotted(node.func)
            own = script.classes.get(name)
            last = name.rpartition(".")[2]
            of_torch = name.startswith("torch.nn.") and last.startswith(_WITH_WEIGHTS)
            if of_torch or (own is not None and script.derives(own, "Module")):
                found.append(last)
    return list(dict.fromkeys(found))


def _optimizers(script: Script) -> Iterator[tuple[ast.Call, str]]:
    """The calls in ``configure_optimizers``, with their full names."""
    for class_ in script.modules:
        hook = method(class_, "configure_optimizers")
        for node in own_nodes(hook) if hook is not None else ():
            if isinstance(node, ast.Call):
                yield node, script.names.dotted(node.func)


def _takes_any(strategy: Strategy) -> bool:
    """Whether DeepSpeed takes any optimizer of the script, or none."""
    data = strategy.document.data
    return data.get("zero_force_ds_cpu_optimizer") is False or "optimizer" in data
