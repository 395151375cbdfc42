"""The fixture `ds_check`: one check of a test's config, on trainings that all its checks share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_deepspeed.case import Case
from pytest_deepspeed.judged import judged
from pytest_deepspeed.lightning_case import hints, rules_broken
from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.reporting import details, trained
from pytest_deepspeed.values import modes
from pytest_deepspeed.values.finding import CHECKS, Check, Finding

if TYPE_CHECKING:
    from pytest_deepspeed.fixtures import DsRun
    from pytest_deepspeed.studies import Studies
    from pytest_deepspeed.training.evidence import Evidence
    from pytest_deepspeed.training.faults import Fault
    from pytest_deepspeed.training.trial import Trial


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What a check found in one study.

    Attributes:
        label: what to call it; empty where there is no other.
        trial: what was trained.
        findings: what is wrong with it.
        notes: what could not be said, and what is worth knowing.
        decided: whether anything could be said; where it could not, no fault can show.
    """

    label: str
    trial: Trial
    findings: Sequence[Finding]
    notes: Sequence[str]
    decided: bool = True


class DsCheck:
    """What the fixture `ds_check` gives.

    Args:
        item: the test.
        ds_run: starts worlds.
        case: makes what is checked, when the first check is asked for, with the studies that it
            may ask for.
    """

    def __init__(self, item: pytest.Item, ds_run: DsRun, case: Callable[[Studies], Case]) -> None:
        from pytest_deepspeed.studies import Studies

        self._item = item
        self._settings = item.config.stash[SETTINGS]
        self._studies = Studies(item, ds_run)
        self._make_case = case
        self._made: list[str] = []

    @functools.cached_property
    def _case(self) -> Case:
        __tracebackhide__ = True
        case = self._make_case(self._studies)
        if case.changes and "exact" in self._settings.require:
            pytest.fail("--ds-require=exact: " + "; ".join(case.changes), pytrace=False)
        self._tell("ds_adapted", case.changes)
        self._tell("ds_note", case.notes)
        return case

    def __call__(
        self,
        check: Check,
        *,
        only: tuple[str, ...] | None = None,
        wide: int | None = None,
    ) -> None:
        """Fails the test where the check finds something wrong with the test's config.

        The trap model is trained under the config as it is, and with SGD in place of its optimizer,
        or the user's own workload as it is; once in a session, whichever check asks first. What a
        known fault of DeepSpeed explains is an expected failure.

        Args:
            check: one of `pytest_deepspeed.values.finding.CHECKS`.
            only: the traits of the trap model; all that meet no known fault unless said.
            wide: rows of its wide layer; as many as swapping to NVMe needs unless said.

        Raises:
            ValueError: there is no such check.
        """
        __tracebackhide__ = True
        from pytest_deepspeed.training import faults

        if check not in CHECKS:
            raise ValueError(f"there is no check {check!r}: take one of {', '.join(CHECKS)}")
        case = self._case
        expected: list[tuple[Fault, Finding]] = []
        others: dict[Finding, list[str]] = {}
        due: dict[str, Fault] = {}
        for outcome in self._outcomes(check, only, wide):
            variant, met = outcome.trial.ds_config, faults.can_meet(outcome.trial.ds_config)
            traits = [f.trait for f in met if f.trait and outcome.trial.has(f.trait)]
            known, unknown = faults.known(outcome.findings, variant, traits)
            expected += known
            for finding in unknown:
                others.setdefault(finding, []).append(outcome.label)
            for fault in met:
                has = fault.trait is None or fault.trait in traits
                shows = outcome.decided and fault.check == check and fault.certain and has
                if case.strict and shows:
                    due[fault.id] = fault
            self._tell("ds_fault", [f"{fault.id}: {fault.what}" for fault in met])
            self._tell("ds_note", [f"{check}: {note}" for note in outcome.notes])
        more = hints(case, others) if case.lightning else []
        more = more or (faults.suspects(others, case.ds_config) if case.own else [])
        more += (
            ["", "what DeepSpeed made of it:", *self._made] if case.of_file and self._made else []
        )
        judged(f"{check} of {case.shown}", others, expected, due, more)

    def evidence(
        self, ds_config: Mapping[str, Any] | None = None, *, without: Collection[str] = ()
    ) -> Evidence:
        """What the training of the test's config, or of another one, was: for checks of your own.

        Args:
            ds_config: the test's unless given.
            without: traits that the trap model shall not have, beside those that meet a known
                fault.

        Returns:
            `pytest_deepspeed.training.evidence.Evidence`.
        """
        __tracebackhide__ = True
        config = self._case.ds_config if ds_config is None else ds_config
        trial = self._trial("parity", config, None, None)
        left_out = tuple(sorted({*trial.without, *without}))
        return self._studies.trial(dataclasses.replace(trial, without=left_out))

    def _outcomes(
        self, check: Check, only: tuple[str, ...] | None, wide: int | None
    ) -> Iterator[_Outcome]:
        __tracebackhide__ = True
        from pytest_deepspeed.training.checkpoint import check as checkpoint
        from pytest_deepspeed.training.checkpoint import check_reshard

        self._tell("ds_check", [check])
        case = self._case
        trial = self._trial(check, case.ds_config, only, wide)
        # Before the training: one that fails has its row in the summary too.
        self._tell("ds_mode", [case.shown])
        mode = modes.case_id(trial.ds_config)
        self._tell("ds_case", [] if case.shown.startswith(mode) else [mode])
        self._tell("ds_world_size", [trial.world_size])
        if check == "checkpoint":
            saved = self._studies.checkpoint(trial)
            _skip_where_nothing_was_done(saved.skipped, "resume")
            notes = [*checkpoint.notes(saved), *saved.skipped.values()]
            yield _Outcome("", trial, checkpoint.check(saved), notes)
        elif check == "reshard" and case.lightning:
            pytest.skip("Lightning loads no universal checkpoint: it resumes at one world size")
        elif check == "reshard":
            loaded = self._studies.reshard(trial)
            _skip_where_nothing_was_done(loaded.skipped, "reshard")
            notes = list(loaded.skipped.values())
            yield _Outcome("", trial, check_reshard.check(loaded), notes)
        else:
            yield from self._of_trials(check, trial)

    def _of_trials(self, check: Check, trial: Trial) -> Iterator[_Outcome]:
        __tracebackhide__ = True
        from pytest_deepspeed.training import judge

        case = self._case
        for label, variant in _variants(trial).items():
            evidence = self._studies.trial(variant)
            if variant is trial:
                self._show(evidence)
                self._show_effective(evidence)
                self._report(evidence)
            undecided = judge.undecided(check, evidence)
            findings = judge.findings(check, evidence, case.limits, case.tolerances)
            if case.lightning and check == "engagement":
                findings += rules_broken(case)
            notes = [undecided] if undecided else []
            decided = check != "parity" or bool(evidence.parity)
            yield _Outcome(label, variant, findings, notes, decided)

    def _trial(
        self,
        check: Check,
        ds_config: Mapping[str, Any],
        only: tuple[str, ...] | None,
        wide: int | None,
    ) -> Trial:
        from pytest_deepspeed.training import faults
        from pytest_deepspeed.training.trial import STEPS, Trial

        case = self._case
        trial = Trial(
            ds_config=ds_config,
            world_size=case.world_size,
            steps=case.steps or STEPS,
            seed=self._settings.seed,
            workload_from=case.workload,
            lightning=case.lightning,
            data=self._settings.data,
            uncovered=case.uncovered,
        )
        if case.own:
            return trial
        # A trait that meets a known fault is tried by itself, so that it hides no other. A training
        # that is wrong cannot be resumed rightly either.
        about = {"parity", check} if check in ("checkpoint", "reshard") else {"parity"}
        met = [f.trait for f in faults.can_meet(ds_config) if f.check in about and f.trait]
        without = () if only else tuple(sorted(set(met)))
        return dataclasses.replace(trial, without=without, only=only, wide=wide)

    def _tell(self, name: str, values: Sequence[object]) -> None:
        told = self._item.user_properties
        told.extend((name, value) for value in values if (name, value) not in told)

    def _show(self, evidence: Evidence) -> None:
        """What stands in the summary; the losses of the config's own training, whole model."""
        from pytest_deepspeed.training.memory.check import held_and_expected

        ranks = f"{self._settings.device} ranks with {self._settings.backend}"
        self._item.user_properties += [
            ("ds_steps", len(evidence.loss)),
            ("ds_loss_first", evidence.loss[0]),
            ("ds_loss_last", evidence.loss[-1]),
            ("ds_ran", f"{len(evidence.loss)} steps on {ranks}: {evidence.data}"),
        ]
        if memory := held_and_expected(evidence.memory):
            self._tell("ds_memory", memory[:1])
            self._tell("ds_memory_expected", memory[1:])

    def _report(self, evidence: Evidence) -> None:
        """What the session's reports show of it."""
        told = trained.told(
            evidence,
            config=self._case.shown,
            device=self._settings.device,
            backend=self._settings.backend,
            effective=self._made,
        )
        details.tell(self._item, "training", told)

    def _show_effective(self, evidence: Evidence) -> None:
        """What DeepSpeed made of the config: with a failure, and where ``--ds-effective`` asks."""
        from pytest_deepspeed.configs import known
        from pytest_deepspeed.configs.effective import differences, lines

        if not evidence.effective:
            return
        # Of what was given to DeepSpeed, so that what was adapted here is not called its doing.
        found = differences(evidence.trial.ds_config, evidence.effective, known.load())
        asked = self._settings.effective
        self._made = lines(found, all_defaults=asked == "all")
        if asked:
            self._tell("ds_effective", ["\n".join(self._made)])


def _variants(trial: Trial) -> dict[str, Trial]:
    """The trial, and the same with SGD, by what to call them.

    A user's own workload is trained as it is: what SGD makes of it, nobody asked for.
    """
    from pytest_deepspeed.training.trial import with_sgd

    if trial.workload_from or trial.lightning:
        return {"": trial}
    optimizer = trial.ds_config.get("optimizer") or {}
    kind = str(optimizer.get("type", "no optimizer"))
    if kind.lower() == "sgd":
        return {kind: trial}
    return {kind: trial, "SGD": dataclasses.replace(trial, ds_config=with_sgd(trial.ds_config))}


def _skip_where_nothing_was_done(skipped: Mapping[str, str], what: str) -> None:
    if what in skipped:
        pytest.skip(f"DeepSpeed cannot: {skipped[what]}")
