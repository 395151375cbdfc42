"""Twelve changes to a repository with one config, and the verdict that each must have, with why.

The verdicts were written before the first run. A change is two commits: what its base is, and the
change itself; the history is one line of these pairs.
"""

import dataclasses
import json

from gating import commit, git

CONFIG = {
    "train_batch_size": 16,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 0.1,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.001, "weight_decay": 0.01}},
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": 0.0, "warmup_max_lr": 0.001, "warmup_num_steps": 100},
    },
    "bf16": {"enabled": True},
    # DeepSpeed's own is 500 million elements, a gigabyte on each rank.
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 500_000},
}

PYPROJECT = """\
[tool.pytest_deepspeed]
checks = ["schema", "against"]
{sizes}
[tool.pytest_deepspeed.against]
pairs = 1
"""


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the gate must say of a change.

    Attributes:
        verdict: ``green``, ``red``, ``the same``, or ``not compared``.
        reasons: names of findings that must be among those of ``::against``.
        only: whether there must be no others.
        why: in a sentence.
    """

    verdict: str
    reasons: tuple[str, ...] = ()
    only: bool = True
    why: str = ""


@dataclasses.dataclass(frozen=True)
class ChangeOf:
    """A change to the repository: the files before, the files after, and what must be said."""

    name: str
    before: dict[str, str]
    after: dict[str, str]
    expected: Expected
    ref: str = "HEAD~1"


def files(config=None, *, sizes="", indent=2):
    """The repository's files, with a config."""
    text = json.dumps(CONFIG if config is None else config, indent=indent)
    return {"ds_config.json": text + "\n", "pyproject.toml": PYPROJECT.format(sizes=sizes)}


def config(**changes):
    """The config with other values at its top; ``None`` takes a key away."""
    return {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}


def zero(**changes):
    """The config with other values in its block of ZeRO."""
    return config(zero_optimization={**CONFIG["zero_optimization"], **changes})


def _params(block, **params):
    return {block: {**CONFIG[block], "params": {**CONFIG[block]["params"], **params}}}


_TEN_TIMES = config(**_params("optimizer", lr=0.01), **_params("scheduler", warmup_max_lr=0.01))
_TYPO = {
    {"gradient_clipping": "gradient_cliping"}.get(key, key): value for key, value in CONFIG.items()
}
_OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
_BATCH_ALONE = config(train_micro_batch_size_per_gpu=None)

CHANGES = (
    ChangeOf(
        "reformatted",
        files(),
        files(indent=4),
        Expected("the same", why="the same values in another layout"),
    ),
    ChangeOf(
        "learning rate x 10",
        files(),
        files(_TEN_TIMES),
        Expected("red", ("settings", "weights"), only=False, why="every step is ten times as long"),
    ),
    ChangeOf(
        "clipping lost by a typo",
        files(),
        files(_TYPO),
        Expected(
            "red",
            ("settings",),
            only=False,
            why="DeepSpeed ignores gradient_cliping, and clips at 1.0, its default",
        ),
    ),
    ChangeOf(
        "stage 2 to 3",
        files(),
        files(zero(stage=3)),
        Expected(
            "red",
            ("checkpoint",),
            why="it trains the same, and no checkpoint of stage 2 can be loaded at stage 3",
        ),
    ),
    ChangeOf(
        "offload added",
        files(),
        files(zero(**_OFFLOAD)),
        Expected("green", why="the same arithmetic elsewhere, and the checkpoint loads"),
    ),
    ChangeOf(
        "bucket size",
        files(),
        files(zero(reduce_bucket_size=50_000)),
        Expected("green", why="gradients are reduced in other portions, and are the same"),
    ),
    ChangeOf(
        "fp16 to bf16",
        files(config(bf16=None, fp16={"enabled": True})),
        files(),
        Expected(
            "red", ("settings",), why="other rounding and no loss scale; a CPU cannot try fp16"
        ),
    ),
    ChangeOf(
        "batch triple with the same product",
        files(),
        files(config(train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=4)),
        Expected("green", why="the same 16 samples in each step"),
    ),
    ChangeOf(
        "deprecated key renamed",
        files(zero(cpu_offload=True)),
        files(zero(**_OFFLOAD)),
        Expected("green", why="DeepSpeed reads the old key as the new one"),
    ),
    ChangeOf(
        "warm-up cut",
        files(),
        files(config(**_params("scheduler", warmup_num_steps=10))),
        Expected("red", ("settings", "weights"), only=False, why="the first steps are longer"),
    ),
    ChangeOf(
        "world size changed",
        files(_BATCH_ALONE),
        files(_BATCH_ALONE, sizes="world_sizes = [4]"),
        Expected(
            "red",
            ("checkpoint",),
            why="the same batch trains the same, and the shards are those of two ranks",
        ),
    ),
    ChangeOf(
        "base deleted",
        files(),
        files(_TEN_TIMES),
        Expected("not compared", why="there is no branch to compare with: all its own checks run"),
        ref="origin/gone",
    ),
)


def make(folder):
    """Makes the repository; returns the commit of each change, by its name."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    commits = {}
    for change in CHANGES:
        commit(folder, change.before, f"before: {change.name}")
        commits[change.name] = commit(folder, change.after, change.name)
    return commits
