"""What is checked: a config with all that is said of it, from a marker or from a config file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_deepspeed import workloads
from pytest_deepspeed.limits import limits_of_item
from pytest_deepspeed.markers import config_of, where_of
from pytest_deepspeed.options import SETTINGS, Settings
from pytest_deepspeed.values import modes

if TYPE_CHECKING:
    from pytest_deepspeed.training.memory.limits import Limits

_SUITE = Path(__file__).with_name("suite")


@dataclasses.dataclass(frozen=True)
class Case:
    """One config and the world that it is checked on.

    Attributes:
        ds_config: one that this machine can run.
        shown: what to call it: the case id, or the path of a file.
        changes: what was changed in it so that it runs here, a sentence each.
        notes: what else is worth knowing of how it runs here.
        world_size: ranks.
        limits: on the memory of a rank.
        steps: optimizer steps of a training; ``None`` for the default.
        tolerances: of the check `parity`, by name, in place of the defaults.
        workload: where the user's own workload comes from; empty for the trap model.
        lightning: the user's own Lightning code, where that is what is trained; else empty.
        uncovered: why that can have no twin; empty where it can.
        strategy_config: of the Lightning strategy, as its author made it.
        strict: whether a known fault of DeepSpeed that does not show is a failure.
        of_file: whether it is a user's config file: a failure shows what DeepSpeed made of it.
    """

    ds_config: Mapping[str, Any]
    shown: str
    changes: tuple[str, ...]
    world_size: int
    limits: Limits
    steps: int | None = None
    notes: tuple[str, ...] = ()
    tolerances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    workload: str = ""
    lightning: str = ""
    uncovered: str = ""
    strategy_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    strict: bool = True
    of_file: bool = False

    @property
    def own(self) -> bool:
        """Whether what is trained is the user's own, not the trap model."""
        return bool(self.workload or self.lightning)


def case_of_marker(item: pytest.Item) -> Case:
    """What the ``ds_config`` marker of a test describes.

    Fails the test where it has none.
    """
    __tracebackhide__ = True
    from pytest_deepspeed.training.config import adapted

    settings: Settings = item.config.stash[SETTINGS]
    if item.get_closest_marker("ds_config") is None:
        pytest.fail(
            f"{where_of(item)}: the fixture 'ds_check' needs a config: mark the test with"
            " @pytest.mark.ds_config(stage=2)",
            pytrace=False,
        )
    config, changes = adapted(config_of(item), settings.device)
    return Case(
        ds_config=config,
        shown=modes.case_id(config),
        changes=tuple(changes),
        world_size=settings.world_size or 2,
        limits=limits_of_item(item),
        # The reference suite is about DeepSpeed on this machine, whatever the project trains.
        workload="" if item.path.is_relative_to(_SUITE) else workloads.reference(item),
    )
