"""PL4xx: arguments of ``Trainer`` that do not go with DeepSpeed, and the data it is given."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator

from pytest_deepspeed.configs.lightning.script import Script, method, own_nodes
from pytest_deepspeed.configs.problem import Found
from pytest_deepspeed.configs.rule import script_rule

_LIGHTNING = ("pytorch_lightning.", "lightning.pytorch.", "lightning.")
_PRECISIONS = (
    *("32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"),
    *(32, 16, "32", "16", "bf16"),
)


@script_rule(
    "PL401",
    "unknown-argument",
    "error",
    source="pytorch_lightning/trainer/trainer.py and strategies/deepspeed.py (__init__)",
)
def unknown_argument(script: Script) -> Iterator[Found]:
    """An argument of the trainer or the strategy that the installed Lightning does not have."""
    known = [(call, "Trainer", script.lightning.trainer) for call in script.trainers]
    known += [
        (each.node, "DeepSpeedStrategy", script.lightning.strategy)
        for each in script.strategies
        if isinstance(each.node, ast.Call) and _of_lightning(script, each.node)
    ]
    for call, name, parameters in known:
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in parameters:
                continue
            near = difflib.get_close_matches(keyword.arg, parameters, n=1)
            yield Found(
                script.at(keyword),
                f"{name} has no argument {keyword.arg}: it stops with a TypeError",
                f"did you mean {near[0]}?" if near else "take it away",
            )


@script_rule(
    "PL402",
    "not-on-cuda",
    "error",
    source="pytorch_lightning/strategies/deepspeed.py (setup_environment)",
)
def not_on_cuda(script: Script) -> Iterator[Found]:
    """Lightning's DeepSpeed strategy is to train on something else than CUDA."""
    for strategy in script.strategies:
        own = not isinstance(strategy.node, ast.Call) or _of_lightning(script, strategy.node)
        keyword = script.keyword(strategy.trainer, "accelerator") if strategy.trainer else None
        value = script.names.value(keyword.value) if keyword else None
        if own and keyword and value in ("cpu", "mps", "tpu", "hpu"):
            yield Found(
                script.at(keyword),
                f'Lightning refuses DeepSpeed on "{value}": its strategy is for CUDA alone',
                'write accelerator="gpu"',
            )


@script_rule(
    "PL403",
    "precision",
    "error",
    source="pytorch_lightning/plugins/precision/deepspeed.py (__init__)",
)
def precision(script: Script) -> Iterator[Found]:
    """The trainer has a precision that DeepSpeed does not train in."""
    for strategy in script.strategies:
        keyword = script.keyword(strategy.trainer, "precision") if strategy.trainer else None
        value = script.names.value(keyword.value) if keyword else None
        if keyword and isinstance(value, (str, int)) and value not in _PRECISIONS:
            yield Found(
                script.at(keyword),
                f"Lightning stops with a ValueError: precision={value!r} is none that DeepSpeed"
                " trains in",
                f"write one of {', '.join(map(str, _PRECISIONS[:5]))}",
            )


@script_rule(
    "PL404",
    "clipping-by-value",
    "error",
    source="pytorch_lightning/strategies/deepspeed.py (init_deepspeed)",
)
def clipping_by_value(script: Script) -> Iterator[Found]:
    """Gradients are to be clipped by their values."""
    for strategy in script.strategies:
        trainer = strategy.trainer
        keyword = script.keyword(trainer, "gradient_clip_algorithm") if trainer else None
        if keyword and script.names.value(keyword.value) == "value":
            yield Found(
                script.at(keyword),
                "Lightning stops with a MisconfigurationException: DeepSpeed clips by norm alone",
                'write gradient_clip_algorithm="norm"',
            )


@script_rule(
    "PL405",
    "accumulation-scheduler",
    "error",
    source="pytorch_lightning/callbacks/gradient_accumulation_scheduler.py (on_train_start)",
)
def accumulation_scheduler(script: Script) -> Iterator[Found]:
    """Accumulation is to change between epochs."""
    for call in script.calls if script.strategies else ():
        name = script.names.dotted(call.func)
        if name.endswith(".GradientAccumulationScheduler") and name.startswith(_LIGHTNING):
            yield Found(
                script.at(call),
                "Lightning stops when the training starts: with DeepSpeed, accumulation cannot"
                " change between epochs",
                "write Trainer(accumulate_grad_batches=...), a number",
            )


@script_rule(
    "PL406",
    "shuffled-all-the-same",
    "warning",
    source="pytorch_lightning/trainer/connectors/data_connector.py (_process_dataloader)",
)
def shuffled_all_the_same(script: Script) -> Iterator[Found]:
    """The training data is not to be shuffled, and on several ranks it is."""
    keeps = any(
        script.argument(trainer, "use_distributed_sampler", True) is not True
        or script.keyword(trainer, "overfit_batches")
        for trainer in script.trainers
    )
    if not script.strategies or keeps:
        return
    for call in _training_loaders(script):
        keyword = script.keyword(call, "shuffle")
        if keyword and script.names.value(keyword.value) is False:
            yield Found(
                script.at(keyword),
                "on more than one rank Lightning puts in a DistributedSampler that shuffles the"
                " training data, whatever shuffle says",
                "write Trainer(use_distributed_sampler=False), and give a"
                " DistributedSampler(shuffle=False), where the order matters",
            )


@script_rule(
    "PL407",
    "accumulated-twice",
    "error",
    source="pytorch_lightning/loops/optimization/automatic.py (_training_step)",
)
def accumulated_twice(script: Script) -> Iterator[Found]:
    """Gradients are accumulated, and the loss is divided for it twice."""
    reads = any(
        isinstance(node, ast.Attribute) and node.attr == "accumulate_grad_batches"
        for node in ast.walk(script.tree)
    )
    for strategy in script.strategies:
        trainer = strategy.trainer
        keyword = script.keyword(trainer, "accumulate_grad_batches") if trainer else None
        value = script.names.value(keyword.value) if keyword else None
        # A script that reads the number may well multiply by it.
        if keyword and type(value) is int and value > 1 and not reads:
            yield Found(
                script.at(keyword),
                f"Lightning divides the loss by {value}, and DeepSpeed divides it by {value} again:"
                f" gradients are {value} times too small",
                "return loss * self.trainer.accumulate_grad_batches from training_step",
            )


def _training_loaders(script: Script) -> Iterator[ast.Call]:
    """The calls of ``DataLoader`` that plainly give what is trained on."""
    nodes: list[ast.AST] = []
    for call in script.calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "fit":
            nodes += call.args[1:2]
            nodes += [k.value for k in call.keywords if k.arg == "train_dataloaders"]
    for class_ in script.classes.values():
        hook = method(class_, "train_dataloader")
        if hook is not None:
            nodes += [n.value for n in own_nodes(hook) if isinstance(n, ast.Return) and n.value]
    for node in nodes:
        value = script.names.followed(node)
        if isinstance(value, ast.Call):
            name = script.names.dotted(value.func)
            if name.startswith("torch.utils.data.") and name.endswith(".DataLoader"):
                yield value


def _of_lightning(script: Script, call: ast.Call) -> bool:
    return script.names.dotted(call.func).startswith(_LIGHTNING)
