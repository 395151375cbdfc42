"""Silent faults of DeepSpeed that the checks find and a user cannot mend.

A training that meets one is told apart from one with a fault of its own: the findings that the
fault explains are expected, all others count. Each is expected strictly, so that a release that
mends it is noticed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pytest_deepspeed.training.checkpoint import limits
from pytest_deepspeed.values import modes
from pytest_deepspeed.values.finding import Check, Finding

Config = Mapping[str, Any]

#: The page that says what each fault does, and what to do about it.
PAGE = "docs/known-faults.md"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One of them.

    Attributes:
        id: stable; the heading of its section of the page.
        what: what happens to a training, in one sentence.
        versions: DeepSpeed's versions that have it: from the one it was seen in to, perhaps, one
            that mends it.
        source: the upstream issue, or file and line in DeepSpeed 0.19.8.
        meets: whether a training under a config can meet it, given a model that has the trait.
        trait: of the trap model; ``None`` where any model meets it.
        check: whose findings it explains.
        names: of those findings.
        parameter: a regular expression for the whole name of the parameter that it is at; ``".*"``
            where it may be any, or none.
        also: findings of other checks that it explains, ``"engagement.optimizer_steps"``. They may
            show it, and need not.
        certain: whether every training that can meet it shows it.
        since: the first step of a training that can show it.
    """

    id: str
    what: str
    versions: str
    source: str
    meets: Callable[[Config], bool]
    trait: str | None
    check: Check
    names: frozenset[str]
    parameter: str
    also: frozenset[str] = frozenset()
    certain: bool = True
    since: int = 0

    @property
    def present(self) -> bool:
        """Whether the installed DeepSpeed has it."""
        return installed() in SpecifierSet(self.versions, prereleases=True)

    def explained(self, findings: Iterable[Finding]) -> list[Finding]:
        """Those of a training's findings that it makes; none where it does not show itself.

        It shows itself in a finding about the parameter that it is at. What else is off from that
        step on is off because of it.
        """
        names = {f"{self.check}.{name}" for name in self.names} | self.also
        own = [f for f in findings if f"{f.check}.{f.name}" in names]
        at = [f for f in own if re.fullmatch(self.parameter, f.parameter)]
        if not at:
            return []
        first = min((f.step for f in at if f.step is not None), default=0)
        return [f for f in own if f.step is None or f.step >= first]


@functools.cache
def installed() -> Version:
    """The installed DeepSpeed's version, read without importing it."""
    return Version(importlib.metadata.version("deepspeed"))


def can_meet(ds_config: Config) -> list[Fault]:
    """The faults of the installed DeepSpeed that a training under a config can meet."""
    return [fault for fault in FAULTS if fault.present and fault.meets(ds_config)]


def known(
    findings: Iterable[Finding], ds_config: Config, traits: Collection[str]
) -> tuple[list[tuple[Fault, Finding]], list[Finding]]:
    """Findings that a known fault explains, each with it, and the others.

    Args:
        findings: of one training.
        ds_config: what it ran under.
        traits: of the model that was trained.
    """
    met = [fault for fault in can_meet(ds_config) if fault.trait is None or fault.trait in traits]
    others = list(findings)
    expected: list[tuple[Fault, Finding]] = []
    for fault in met:
        explained = fault.explained(others)
        expected += [(fault, finding) for finding in explained]
        others = [finding for finding in others if finding not in explained]
    return expected, others


def suspects(findings: Iterable[Finding], ds_config: Config) -> list[str]:
    """Known faults that may lie behind findings of a user's own workload, a sentence each.

    Of the trap model it is known which trait meets a fault; of another model it can only be
    guessed, by what was found and from which step on.

    Args:
        findings: of one training, that no fault explains which every model meets.
        ds_config: what it ran under.
    """
    found = list(findings)
    return [
        f"this may be {fault.id}, a known fault of DeepSpeed: {fault.what} ({PAGE}#{fault.id})"
        for fault in can_meet(ds_config)
        if fault.trait is not None and _may_explain(fault, found)
    ]


def _may_explain(fault: Fault, findings: list[Finding]) -> bool:
    own = [f for f in findings if f.check == fault.check and f.name in fault.names]
    at = [f for f in own if f.parameter] if fault.check == "parity" else own
    steps = [f.step for f in at if f.step is not None]
    return bool(at) and min(steps, default=fault.since) >= fault.since


def summary(ds_configs: Iterable[Config]) -> list[str]:
    """Lines for the end of a session that trained under these configs; none where none is met."""
    return summary_of({fault.id for config in ds_configs for fault in can_meet(config)})


def summary_of(ids: Collection[str]) -> list[str]:
    """Lines on some of the known faults, by their ids; none for none."""
    met = [fault for fault in FAULTS if fault.id in ids]
    if not met:
        return []
    faults = f"{len(met)} known silent fault{'s' * (len(met) > 1)}"
    width = max(len(fault.id) for fault in met) + 4
    lines = [f"this DeepSpeed ({installed()}) has {faults} that these configs can meet:"]
    for fault in met:
        first = f"  {fault.id}".ljust(width)
        lines += textwrap.wrap(fault.what, 80, initial_indent=first, subsequent_indent=" " * width)
    return [*lines, f"(what each does, and what to do about it: {PAGE})"]


def _offloads_optimizer(ds_config: Config) -> bool:
    return "optimizer" in modes.offloads(ds_config)


def _accumulates(ds_config: Config) -> bool:
    steps = ds_config.get("gradient_accumulation_steps", 1)
    return isinstance(steps, int) and steps > 1


def _keeps_gradient(ds_config: Config) -> bool:
    stage = modes.stage_of(ds_config)
    return stage == 3 or (stage in (1, 2) and _offloads_optimizer(ds_config))


def _adds_up(ds_config: Config) -> bool:
    stage = modes.stage_of(ds_config)
    return _accumulates(ds_config) and (
        stage == 3 or (stage == 2 and _offloads_optimizer(ds_config))
    )


def _drops(ds_config: Config) -> bool:
    return _accumulates(ds_config) and _offloads_optimizer(ds_config) and _adds_up(ds_config)


def _steps_at_init(ds_config: Config) -> bool:
    return modes.stage_of(ds_config) == 0 and modes.dtype_of(ds_config) != "fp32"


def _loads_older_tag(ds_config: Config) -> bool:
    possible = limits.why_not(ds_config, "resume") or limits.why_not(ds_config, "without_optimizer")
    return modes.stage_of(ds_config) == 3 and possible is None


def _is_zero0_in_half(ds_config: Config) -> bool:
    return modes.stage_of(ds_config) == 0 and modes.dtype_of(ds_config) != "fp32"


def _reshards(ds_config: Config) -> bool:
    return not (limits.why_not(ds_config, "resume") or limits.why_not(ds_config, "reshard"))


def _reshards_zero3(ds_config: Config) -> bool:
    return modes.stage_of(ds_config) == 3 and _reshards(ds_config)


def _reshards_reordered(ds_config: Config) -> bool:
    zero = ds_config.get("zero_optimization")
    reordered = isinstance(zero, Mapping) and zero.get("round_robin_gradients") is True
    return reordered and modes.stage_of(ds_config) in (1, 2) and _reshards(ds_config)


def _is_zero1(ds_config: Config) -> bool:
    return modes.stage_of(ds_config) == 1


def _swaps_optimizer(ds_config: Config) -> bool:
    return modes.stage_of(ds_config) == 3 and modes.offloads(ds_config).get("optimizer") == "nvme"


def _may_start_inside_a_block(ds_config: Config) -> bool:
    zero = ds_config.get("zero_optimization", {})
    return _swaps_optimizer(ds_config) and zero.get("sub_group_size", 1e9) > 1


_TRAINING = frozenset({"loss", "grad_norm", "parameters", "moments"})

#: What of a training may come back otherwise than it was saved.
_LOADED = frozenset(
    f"{when}_{what}"
    for when in ("loaded", "latest")
    for what in ("weights", "compute", "moments", "steps", "lr", "groups", "scheduler")
)

#: All that are known, as measured with DeepSpeed 0.19.8 on two ranks.
FAULTS = (
    Fault(
        id="stale-gradient",
        what="a parameter without a gradient in a step is updated with its previous gradient again",
        versions=">=0.19.3",
        source="runtime/zero/stage3.py:2022, runtime/zero/stage_1_and_2.py (CPU offload)",
        meets=_keeps_gradient,
        trait="alternating",
        check="parity",
        names=_TRAINING,
        parameter=r"alternating\..*",
        since=1,
    ),
    Fault(
        id="gradient-adds-up",
        what="gradients of a parameter that the first micro-batch does not use add up over steps",
        versions=">=0.19.8",
        source="runtime/zero/stage3.py:2026 (only micro-batch 0 overwrites the buffer)",
        meets=_adds_up,
        trait="late_branch",
        check="parity",
        names=_TRAINING,
        parameter=r"late_branch\..*",
        since=1,
    ),
    Fault(
        id="gradient-dropped",
        what="a parameter that the last micro-batch does not use is not updated",
        versions=">=0.19.8",
        source="runtime/zero/stage3.py:2044 (offloads what gets a gradient at the boundary only)",
        meets=_drops,
        trait="early_branch",
        check="parity",
        names=_TRAINING,
        parameter=r"early_branch\..*",
    ),
    Fault(
        id="nvme-misaligned-gradient",
        what="a swapped gradient that does not start at a multiple of 1 KiB of its sub-group is"
        " applied wrongly",
        versions=">=0.19.8",
        source="runtime/swap_tensor/optimizer_utils.py:452 (aligns lengths, not offsets)",
        meets=_may_start_inside_a_block,
        trait=None,
        check="parity",
        names=_TRAINING,
        parameter=".*",
        # It depends on where in its sub-group a parameter that is large enough happens to lie.
        certain=False,
    ),
    Fault(
        id="bf16-step-at-init",
        what="the optimizer takes one step with zero gradients before the training starts",
        versions=">=0.19.8",
        source="runtime/fp16/fused_optimizer.py:130, runtime/fp16/unfused_optimizer.py:425",
        meets=_steps_at_init,
        trait=None,
        check="parity",
        names=_TRAINING | {"optimizer_steps"},
        parameter=".*",
        also=frozenset({"engagement.optimizer_steps"}),
    ),
    Fault(
        id="tag-ignored",
        what="load_checkpoint(tag=..., load_optimizer_states=False) loads the weights of `latest`",
        versions=">=0.19.3",
        source="https://github.com/deepspeedai/DeepSpeed/issues/8499 (runtime/engine.py:4614)",
        meets=_loads_older_tag,
        trait=None,
        check="checkpoint",
        names=frozenset({"tagged_weights"}),
        parameter=".*",
    ),
    Fault(
        id="masters-not-loaded",
        what="load_checkpoint(load_optimizer_states=False) leaves the fp32 master weights as they"
        " were, and the next step overwrites the loaded ones by them",
        versions=">=0.19.8",
        source="runtime/engine.py load_checkpoint, runtime/fp16/fused_optimizer.py",
        meets=_is_zero0_in_half,
        trait=None,
        check="checkpoint",
        names=frozenset({"tagged_weights"}),
        parameter=".*",
    ),
    Fault(
        id="frozen-not-consolidated",
        what="zero_to_fp32 leaves frozen parameters out of the consolidated file",
        versions=">=0.19.3",
        source="https://github.com/deepspeedai/DeepSpeed/issues/5439 (runtime/engine.py:5383)",
        meets=_is_zero1,
        trait="frozen",
        check="checkpoint",
        names=frozenset({"consolidated_keys"}),
        parameter=r"frozen\..*",
    ),
    Fault(
        id="nvme-not-restored",
        what="load_checkpoint restores no step counts, and neither weights nor moments of what is"
        " too small to swap",
        versions=">=0.19.8",
        source="runtime/engine.py:4456 (no ZeRO state is loaded where the optimizer is on NVMe)",
        meets=_swaps_optimizer,
        trait=None,
        check="checkpoint",
        names=_LOADED,
        parameter=".*",
    ),
    Fault(
        id="universal-without-frozen",
        what="a universal checkpoint brings no frozen parameter back",
        versions=">=0.19.3",
        source="runtime/engine.py:4660 (skips the module's state where load_universal is set)",
        meets=_reshards,
        trait="frozen",
        check="reshard",
        names=frozenset({"loaded_weights", "loaded_compute"}),
        parameter=r"frozen\..*",
    ),
    Fault(
        id="universal-without-buffers",
        what="a universal checkpoint brings no buffer back",
        versions=">=0.19.3",
        source="runtime/engine.py:4660 (skips the module's state where load_universal is set)",
        meets=_reshards,
        trait="buffer",
        check="reshard",
        names=frozenset({"loaded_buffers"}),
        parameter="scale",
    ),
    Fault(
        id="universal-round-robin",
        what="with round_robin_gradients a universal checkpoint has weights and moments under the"
        " names of other parameters, and safe_get_full_fp32_param reads those of others",
        versions=">=0.19.8",
        source="runtime/zero/stage_1_and_2.py:841 (offsets in another order than the flat buffer)",
        meets=_reshards_reordered,
        trait=None,
        check="reshard",
        names=_LOADED,
        parameter=".*",
        # At a world size of 1, or where all is alike, the order is the same.
        certain=False,
    ),
    Fault(
        id="universal-mixes-groups",
        what="a universal checkpoint gives every parameter group the settings of the first",
        versions=">=0.19.3",
        source="runtime/zero/stage3.py (load of a universal checkpoint)",
        meets=_reshards_zero3,
        trait="groups",
        check="reshard",
        names=frozenset({"loaded_groups", "loaded_lr"}),
        parameter=".*",
    ),
)
