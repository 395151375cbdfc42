"""``ds_config.json::against``: the training of a config beside that of what it was."""

from __future__ import annotations

import dataclasses
import difflib
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_deepspeed import against, collector
from pytest_deepspeed.changes.change import Base, Change
from pytest_deepspeed.config_items import ProblemsFound, TrainedItem
from pytest_deepspeed.configs.document import Document
from pytest_deepspeed.configs.gate import Against
from pytest_deepspeed.configs.project import FileSettings
from pytest_deepspeed.errors import DsConfigWarning
from pytest_deepspeed.options import SETTINGS, TRAP, Settings
from pytest_deepspeed.reporting import details
from pytest_deepspeed.values.size import format_size

if TYPE_CHECKING:
    from pytest_deepspeed.case import Case
    from pytest_deepspeed.training.pair.evidence import PairEvidence
    from pytest_deepspeed.training.trial import Trial
    from pytest_deepspeed.values.finding import Finding

#: Three in four steps have to be slower by so much for a warning.
_SLOWER = 1.25

#: How a change is accepted.
_ACCEPT = """\
If it is meant, say why in pyproject.toml:

[[tool.pytest_deepspeed.accepted]]
config = "{config}"
change = "{change}"
reason = "..."
"""


class AgainstItem(TrainedItem):
    """What has become of the training of a config."""

    def __init__(self, *, change: Change, document: Document, **kwargs: Any) -> None:
        super().__init__(check="against", document=document, **kwargs)
        self._change = change
        self._document = document
        plan = self.config.stash[against.PLAN]
        assert plan is not None
        self._base = plan.base

    def runtest(self) -> None:
        """Fails where it is another training, and nobody has said that this is meant."""
        __tracebackhide__ = True
        self.tell("ds_check", "against")
        self.tell("ds_mode", self.shown_path)
        self.tell("ds_world_size", self._world_size)
        base = self._change.base
        assert base is not None
        if self._change.kind == "text":
            self._end("the same", "only the layout of the file has changed")
            return
        self._compare(base)

    def _compare(self, base: Base) -> None:
        __tracebackhide__ = True
        from pytest_deepspeed.fixtures import DsRun, need_controller
        from pytest_deepspeed.studies import Studies
        from pytest_deepspeed.training.pair import check
        from pytest_deepspeed.training.pair.run import BaseFailed

        need_controller(self, "the check 'against'")
        limits = self._limits
        was, now = self._cases(base)
        self._adapted(now)
        try:
            trials = self._trials(base, was, now)
            pair = Studies(self, DsRun(self)).pair(*trials, pairs=limits.pairs)
        except BaseFailed as error:
            first = str(error).strip().splitlines()[0]
            self._end("not compared", f"the base does not train here: {first}")
            return
        findings = check.check(
            pair,
            check.Thresholds(limits.tolerances, limits.memory, limits.step_time),
            written=(base.document.data, self._document.data),
            samples=(
                _samples(base.document.data, base.settings, was.world_size),
                _samples(self._document.data, self._own, now.world_size),
            ),
        )
        self._judge(pair, findings)

    @property
    def _limits(self) -> Against:
        project = collector.project_of(self.config)
        return project.against if project else Against()

    @property
    def _reason(self) -> str:
        """Why the change is meant, where somebody has said so."""
        project = collector.project_of(self.config)
        accepted = project.accepted if project else ()
        return next((one.reason for one in accepted if one.change == self._change.digest), "")

    def _cases(self, base: Base) -> tuple[Case, Case]:
        """Of what the config was, and of what it is."""
        settings: Settings = self.config.stash[SETTINGS]
        sizes = base.settings.world_sizes or (2,)
        same = self._world_size if self._world_size in sizes else sizes[0]
        # Given on the command line it holds for both; in an ini file each side has its own.
        world_size = base.world_size or settings.world_size or same
        was = self.case_of(base.document.data, base.settings, world_size)
        workload = base.workload
        if workload in ("", TRAP):
            workload = ""
        return dataclasses.replace(was, workload=workload), self._case()

    def _adapted(self, case: Case) -> None:
        settings: Settings = self.config.stash[SETTINGS]
        if case.changes and "exact" in settings.require:
            pytest.fail("--ds-require=exact: " + "; ".join(case.changes), pytrace=False)
        for name, values in (("ds_adapted", case.changes), ("ds_note", case.notes)):
            for value in values:
                self.tell(name, value)

    def _trials(self, base: Base, was: Case, now: Case) -> tuple[Trial, Trial]:
        from pytest_deepspeed.training.pair.trials import trials

        code = str(against.base_tree(self.config)) if base.code else ""
        of_base = dataclasses.replace(self._trial(was), code=code)
        return trials(of_base, self._trial(now))

    def _trial(self, case: Case) -> Trial:
        from pytest_deepspeed.training.trial import STEPS, Trial

        settings: Settings = self.config.stash[SETTINGS]
        return Trial(
            ds_config=case.ds_config,
            world_size=case.world_size,
            steps=case.steps or STEPS,
            seed=settings.seed,
            workload_from=case.workload,
            data=settings.data,
        )

    def _judge(self, pair: PairEvidence, findings: list[Finding]) -> None:
        __tracebackhide__ = True
        reason = self._reason
        costs = costs_of(pair)
        self._warn_of_time(pair)
        verdict = "green" if not findings else "accepted" if reason else "red"
        told = told_of(pair, findings)
        diff = self._diff()
        details.tell(
            self,
            "against",
            {
                "config": self.shown_path,
                "base": self._base,
                **told,
                "config_diff": diff,
                "reasons": list(self._change.reasons),
                "accepted": reason if findings else "",
                "digest": self._change.digest,
                "costs": costs,
                "verdict": verdict,
            },
        )
        first = f"{findings[0].message}" if findings else "it trains the same"
        if verdict == "accepted":
            self._end(verdict, f"{first}. Accepted: {reason}")
        elif verdict == "green":
            self._end(verdict, "; ".join([first, *costs]))
        else:
            self._end(verdict, first)
            raise ProblemsFound("\n".join(self._lines(findings, costs, diff, told)))

    def _warn_of_time(self, pair: PairEvidence) -> None:
        """A step that takes longer is no other training; machines are noisy, too."""
        from pytest_deepspeed.training.pair import check

        ratio = check.step_time_ratio(pair)
        if ratio and ratio.low > _SLOWER:
            text = f"against {self._base}: a step takes {ratio.median:.2f} times as long"
            warnings.warn_explicit(DsConfigWarning(text), None, str(self.path), 1)

    def _end(self, verdict: str, said: str) -> None:
        self.tell("ds_against", verdict)
        self.tell("ds_against_said", said)

    def _diff(self) -> str:
        """What has changed in the file, as text; what else has changed stands in the reasons."""
        base = self._change.base
        assert base is not None
        before, after = (document.text.splitlines() for document in (base.document, self._document))
        was = f"{base.path} in {self._base}"
        return "\n".join(
            difflib.unified_diff(before, after, was, self.shown_path, n=1, lineterm="")
        )

    def _lines(
        self, findings: list[Finding], costs: list[str], diff: str, told: Mapping[str, Any]
    ) -> list[str]:
        """What a person needs who sees it for the first time."""
        lines = [f"{self.shown_path} against {self._base}: another training"]
        for finding in findings:
            lines += _item(f"{finding.name}: {finding.message}")
        lines += ["what has changed:", *_listed(self._change.reasons), *diff.splitlines()]
        if made := told["effective_diff"]:
            lines += ["what DeepSpeed makes of it:", *_listed(made)]
        lines += [*_listed(costs), *_listed(told["notes"])]
        accept = _ACCEPT.format(config=self.shown_path, change=self._change.digest)
        return [*lines, "", *accept.splitlines()]


def told_of(pair: PairEvidence, findings: list[Finding]) -> dict[str, Any]:
    """What the reports show of a pair, as plain data."""
    from pytest_deepspeed.training.pair import check, effective

    ratio = check.step_time_ratio(pair)
    return {
        "loss": list(pair.head.loss),
        "base_loss": list(pair.base.loss),
        "step_time": [list(head) for _, head in pair.step_times],
        "base_step_time": [list(base) for base, _ in pair.step_times],
        "step_time_ratio": dataclasses.asdict(ratio) if ratio else None,
        "memory": {name: list(sizes) for name, sizes in check.held(pair).items()},
        "peaks": {name: list(sizes) for name, sizes in check.peaks(pair).items()},
        "optimizer": list(check.optimizers(pair)),
        "effective_diff": effective.differences(pair.base.effective, pair.head.effective),
        "findings": [{"name": one.name, "message": one.message} for one in findings],
        "notes": list(pair.notes),
        "checkpoint": check.checkpoint_sentence(pair.checkpoint),
    }


def costs_of(pair: PairEvidence) -> list[str]:
    """What the change does to checkpoint, memory and time: a sentence each."""
    from pytest_deepspeed.training.pair import check

    found = [check.checkpoint_sentence(pair.checkpoint)]
    for name, (was, now) in check.peaks(pair).items():
        change = f"{now / was - 1:+.0%}" if was else "new"
        text = f"peak of {name} on a rank {format_size(now)}, was {format_size(was)} ({change})"
        found.append(text)
    if ratio := check.step_time_ratio(pair):
        found.append(
            f"a step takes {ratio.median:.2f} times as long (half of the steps {ratio.low:.2f} to"
            f" {ratio.high:.2f})"
        )
    return found


def _samples(ds_config: Mapping[str, Any], settings: FileSettings, world_size: int) -> int | None:
    """Of one optimizer step, on the cluster that the config is meant for, or else here."""
    ranks = settings.target_world_sizes[0] if settings.target_world_sizes else world_size
    total, micro, accumulation = (
        ds_config.get(key)
        for key in (
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
        )
    )
    if isinstance(total, int):
        return total
    if not isinstance(micro, int) or not isinstance(accumulation, int | None):
        return None
    return micro * (accumulation or 1) * ranks


def _item(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        78,
        initial_indent="- ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _listed(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in _item(text)]
