"""PL2xx: arguments of a ``DeepSpeedStrategy`` that do not do what they seem to."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator

from pytest_deepspeed.configs.lightning import arguments
from pytest_deepspeed.configs.lightning.script import UNREAD, Script, Strategy, method
from pytest_deepspeed.configs.problem import Found
from pytest_deepspeed.configs.rule import script_rule

#: Of Lightning 2.6, where all is about.
_FILE = "pytorch_lightning/strategies/deepspeed.py"
_CREATED = f"{_FILE} (_create_default_config)"

_OF_OPTIMIZER = ("offload_optimizer_device", "optimizer_buffer_count")
_OF_PARAMETERS = (
    *("offload_params_device", "params_buffer_count", "params_buffer_size", "max_in_cpu"),
)
_OF_EITHER = ("nvme_path", "pin_memory")


@script_rule("PL201", "nvme-path-names-a-variable", "error", source=_CREATED)
def nvme_path_names_a_variable(script: Script) -> Iterator[Found]:
    """The directory for swap files is the name of a variable, in quotes."""
    seen = set()
    for strategy in script.strategies:
        for path, spans in strategy.document.spans.items():
            if path[-1:] != ("nvme_path",) or spans.value_start in seen:
                continue
            seen.add(spans.value_start)
            name = script.text[spans.value_start : spans.value_end].strip("\"'")
            variable = script.names.variables.get(name)
            if variable is not None:
                line = script.at(variable)[0]
                yield Found(
                    script.position(spans.key_start),
                    f"nvme_path is the text {json.dumps(name)}, not the variable {name} of line"
                    f" {line}: DeepSpeed makes a directory of that very name where the ranks are"
                    " started, and swaps there",
                    f"write nvme_path={name}, without quotes",
                )


@script_rule("PL202", "offload-not-switched-on", "error", source=_CREATED)
def offload_not_switched_on(script: Script) -> Iterator[Found]:
    """Something is said of an offload that is not switched on."""
    for strategy in _made_of_arguments(script):
        optimizer, parameters = (
            strategy.arguments.get(name) for name in ("offload_optimizer", "offload_parameters")
        )
        ignored: dict[str, str] = {}
        if optimizer is False:
            ignored |= dict.fromkeys(_OF_OPTIMIZER, "offload_optimizer=True")
        if parameters is False:
            ignored |= dict.fromkeys(_OF_PARAMETERS, "offload_parameters=True")
        if optimizer is False and parameters is False:
            either = "offload_optimizer=True or offload_parameters=True"
            ignored |= dict.fromkeys(_OF_EITHER, either)
        for name in ignored.keys() & strategy.given.keys():
            yield Found(
                _at(script, strategy, name),
                f"Lightning ignores {name} without {ignored[name]}: nothing is offloaded by it",
                f"add {ignored[name].partition(' or ')[0]}, or take {name} away",
            )


@script_rule("PL203", "argument-beside-config", "error", source=f"{_FILE} (__init__)")
def argument_beside_config(script: Script) -> Iterator[Found]:
    """Arguments are given beside a config, which replaces them all."""
    for strategy in script.strategies:
        if not _has_config(script, strategy):
            continue
        for name in strategy.given:
            if name not in arguments.BESIDE_CONFIG and name in script.lightning.strategy:
                yield Found(
                    _at(script, strategy, name),
                    f"Lightning ignores {name} where config is given, as all its own defaults",
                    "write it into the config",
                )


@script_rule("PL204", "zero-switched-off", "error", source=_CREATED)
def zero_switched_off(script: Script) -> Iterator[Found]:
    """ZeRO is switched off, and something is said of it."""
    for strategy in _made_of_arguments(script):
        if strategy.arguments.get("zero_optimization") is not False:
            continue
        on = {**strategy.arguments, "zero_optimization": True}
        on |= {"offload_optimizer": True, "offload_parameters": True}
        for name in strategy.given:
            if any(path[0].startswith("zero_") for path in arguments.paths(on, name)):
                yield Found(
                    _at(script, strategy, name),
                    f"Lightning ignores {name} with zero_optimization=False",
                    "take one of the two away",
                )


@script_rule(
    "PL205",
    "remote-device",
    "error",
    source=f"{_FILE} (model_sharded_context),"
    " deepspeed/runtime/zero/partition_parameters.py:1160, :1226",
)
def remote_device(script: Script) -> Iterator[Found]:
    """The device to build the model on is ignored, or refused."""
    for strategy in _made_of_arguments(script):
        device = strategy.arguments.get("remote_device")
        stage, parameters = strategy.stage, strategy.arguments.get("offload_parameters")
        offload = strategy.arguments.get("offload_params_device")
        if device in (None, UNREAD) or "remote_device" not in strategy.given:
            continue
        at = _at(script, strategy, "remote_device")
        if parameters is False and device == "nvme":
            yield Found(
                at,
                'zero.Init stops with an AssertionError: remote_device="nvme" needs'
                " offload_parameters",
                'add offload_parameters=True and offload_params_device="nvme"',
            )
        elif isinstance(stage, int) and stage != 3:
            does = f"Lightning ignores remote_device at stage {stage}: zero.Init is on at 3 alone"
            yield Found(at, does, "write stage=3, or take it away")
        elif stage == 3 and parameters is True and offload not in (device, UNREAD):
            yield Found(
                at,
                f'DeepSpeed ignores remote_device="{device}": zero.Init takes'
                f' offload_params_device, which is "{offload}"',
                f'write offload_params_device="{device}", or take remote_device away',
            )


@script_rule(
    "PL206",
    "accumulation-in-config",
    "error",
    source=f"{_FILE} (_format_batch_size_and_grad_accum_config)",
)
def accumulation_in_config(script: Script) -> Iterator[Found]:
    """The config says how many batches are accumulated, which is the trainer's to say."""
    for strategy in script.strategies:
        spans = strategy.places.get(("gradient_accumulation_steps",))
        if spans is not None:
            yield Found(
                script.position(spans.key_start),
                "Lightning stops with a MisconfigurationException: it sets"
                " gradient_accumulation_steps itself",
                "take it away, and write Trainer(accumulate_grad_batches=...)",
            )


@script_rule(
    "PL207",
    "batch-size-in-config",
    "warning",
    source=f"{_FILE} (_format_batch_size_and_grad_accum_config),"
    " deepspeed/runtime/config.py (_batch_assertion)",
)
def batch_size_in_config(script: Script) -> Iterator[Found]:
    """The config has a batch size for all ranks, beside the two that Lightning sets."""
    for strategy in script.strategies:
        spans = strategy.places.get(("train_batch_size",))
        if spans is not None:
            yield Found(
                script.position(spans.key_start),
                "Lightning adds the DataLoader's batch size and the trainer's accumulation:"
                " DeepSpeed stops unless they and the number of ranks make train_batch_size",
                "take it away",
            )


@script_rule(
    "PL208", "optimizer-in-config", "error", source=f"{_FILE} (_initialize_deepspeed_train)"
)
def optimizer_in_config(script: Script) -> Iterator[Found]:
    """The config has an optimizer, and the model too."""
    hooks = [method(class_, "configure_optimizers") for class_ in script.modules]
    lines = [hook.lineno for hook in hooks if hook is not None]
    for strategy in script.strategies:
        spans = strategy.places.get(("optimizer",))
        if spans is not None and lines:
            yield Found(
                script.position(spans.key_start),
                f"Lightning does not call configure_optimizers (line {lines[0]}) where the config"
                " has an optimizer",
                "keep one of the two",
            )


def _made_of_arguments(script: Script) -> Iterator[Strategy]:
    """The strategies without a config, whose arguments are all seen."""
    for strategy in script.strategies:
        none = strategy.arguments.get("config") is None
        if none and not strategy.open and isinstance(strategy.node, ast.Call):
            yield strategy


def _has_config(script: Script, strategy: Strategy) -> bool:
    node = strategy.given.get("config")
    if node is None:
        return False
    followed = script.names.followed(node)
    return isinstance(followed, ast.Dict) or script.names.value(node) not in (None, UNREAD)


def _at(script: Script, strategy: Strategy, name: str) -> tuple[int, int]:
    """The place of an argument: its name, or its value where it has none."""
    keywords = strategy.node.keywords if isinstance(strategy.node, ast.Call) else []
    named = (keyword for keyword in keywords if keyword.arg == name)
    node = next(named, strategy.given[name])
    return script.position(script.offset(node))
