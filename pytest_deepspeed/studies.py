"""Runs what the checks of a config need, on fresh worlds: once in a session for all that ask.

A *study* is a training, or several that belong together, of one config; it comes back as plain
data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_deepspeed import sharing
from pytest_deepspeed.errors import RanksFailed
from pytest_deepspeed.markers import where_of
from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.requirements import need_nvme, too_few_gpus
from pytest_deepspeed.training import nvme, train
from pytest_deepspeed.training.checkpoint import equivalence, phases
from pytest_deepspeed.training.checkpoint.evidence import CheckpointEvidence, ReshardEvidence
from pytest_deepspeed.training.checkpoint.rounding import cut
from pytest_deepspeed.training.evidence import Evidence
from pytest_deepspeed.training.lightning import describe
from pytest_deepspeed.training.lightning import phases as lightning
from pytest_deepspeed.training.lightning.describe import Described
from pytest_deepspeed.training.pair.evidence import PairEvidence
from pytest_deepspeed.training.pair.run import paired
from pytest_deepspeed.values import plain

if TYPE_CHECKING:
    from pytest_deepspeed.fixtures import DsRun
    from pytest_deepspeed.training.trial import Trial

T = TypeVar("T")

#: The studies that this process has read already, by key.
_READ = pytest.StashKey[dict[str, Any]]()


class Studies:
    """The studies that one test asks for.

    Args:
        item: the test, of the controller.
        run: starts worlds.
    """

    def __init__(self, item: pytest.Item, run: DsRun) -> None:
        self._item = item
        self._run = run
        self._settings = item.config.stash[SETTINGS]

    def trial(self, trial: Trial) -> Evidence:
        """The training of a trial, beside its twin."""
        __tracebackhide__ = True

        def make(home: Path) -> Evidence:
            __tracebackhide__ = True
            with self._on_disk(trial, home) as ready:
                values = self._run(train.run, world_size=trial.world_size, trial=ready)
            return plain.load(Evidence, values[0])

        return self._once("trial", trial, Evidence, make)

    def described(self, target: str, world_size: int) -> Described:
        """What a user's Lightning code trains."""
        __tracebackhide__ = True
        given: dict[str, Any] = {
            "target": target,
            "data": self._settings.data,
            "seed": self._settings.seed,
        }

        def make(_: Path) -> Described:
            __tracebackhide__ = True
            values = self._run(describe.describe, world_size=world_size, **given)
            return plain.load(Described, values[0])

        text = f"{given}{world_size}".encode()
        key = f"described-{hashlib.sha256(text).hexdigest()[:16]}"
        return self._kept(key, Described, make)

    def checkpoint(self, trial: Trial) -> CheckpointEvidence:
        """A training that is saved and loaded in fresh processes."""
        __tracebackhide__ = True

        def make(home: Path) -> CheckpointEvidence:
            __tracebackhide__ = True
            with self._on_disk(trial, home) as ready, _removed(home / "run") as directory:
                if trial.lightning:
                    return lightning.equivalence(self._run, ready, directory)
                return equivalence.equivalence(
                    self._run,
                    ready.ds_config,
                    ready.workload,
                    directory,
                    world_size=trial.world_size,
                )

        return self._once("checkpoint", trial, CheckpointEvidence, make)

    def reshard(self, trial: Trial) -> ReshardEvidence:
        """A training that is saved, and loaded at other world sizes and stages."""
        __tracebackhide__ = True

        def make(home: Path) -> ReshardEvidence:
            __tracebackhide__ = True
            with self._on_disk(trial, home) as ready, _removed(home / "run") as directory:
                given: dict[str, Any] = {
                    "ds_config": dict(ready.ds_config),
                    "workload": ready.workload,
                    "directory": str(directory),
                }
                saved = self._run(
                    phases.save,
                    world_size=trial.world_size,
                    at=cut(trial.ds_config, equivalence.MORE),
                    more=equivalence.MORE,
                    **given,
                )
                return equivalence.resharding(
                    self._run, saved=tuple(saved), lacking=self._lacking, **given
                )

        return self._once("reshard", trial, ReshardEvidence, make)

    def pair(self, base: Trial, head: Trial, *, pairs: int) -> PairEvidence:
        """Base and head side by side, trained so many times.

        Raises:
            BaseFailed: the base does not train.
        """
        __tracebackhide__ = True

        def make(home: Path) -> PairEvidence:
            __tracebackhide__ = True
            on_disk = self._on_disk(base, home), self._on_disk(head, home)
            with on_disk[0] as first, on_disk[1] as second, _removed(home / "run") as directory:
                return paired(self._run, first, second, directory, pairs=pairs, failed=RanksFailed)

        return self._kept(f"pair-{base.key}-{head.key}-{pairs}", PairEvidence, make)

    def _lacking(self, world_size: int) -> str:
        return too_few_gpus(self._settings, world_size)

    def _once(self, kind: str, trial: Trial, cls: type[T], make: Callable[[Path], T]) -> T:
        __tracebackhide__ = True
        return self._kept(f"{kind}-{trial.key}", cls, make)

    def _kept(self, key: str, cls: type[T], make: Callable[[Path], T]) -> T:
        __tracebackhide__ = True
        read = self._item.config.stash.setdefault(_READ, {})

        def text(home: Path) -> str:
            __tracebackhide__ = True
            return plain.dump(make(home))

        if key not in read:
            try:
                found = sharing.once(self._item.config, key, where_of(self._item), text)
            except RanksFailed as error:
                raise pytest.fail.Exception(str(error), pytrace=False) from None
            read[key] = plain.load(cls, found)
        study: T = read[key]
        return study

    @contextlib.contextmanager
    def _on_disk(self, trial: Trial, home: Path) -> Iterator[Trial]:
        """The trial with a directory of its own to swap to, which is removed after it.

        The config's own ``nvme_path`` is left alone: DeepSpeed empties what another job may use.
        """
        if not nvme.asked(trial.ds_config):
            yield trial
            return
        base = self._settings.nvme_path or home
        need_nvme(self._settings, base)
        path = Path(tempfile.mkdtemp(prefix="ds_nvme_", dir=base))
        try:
            yield dataclasses.replace(trial, ds_config=nvme.swapping_to(trial.ds_config, path))
        finally:
            self._run.remove(path)


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
