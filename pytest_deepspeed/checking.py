"""The fixture `ds_check`: one check of a test's config, on trainings that all its checks share."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_deepspeed.limits import limits_of_item
from pytest_deepspeed.markers import config_of, where_of
from pytest_deepspeed.options import SETTINGS
from pytest_deepspeed.values import modes
from pytest_deepspeed.values.finding import CHECKS, Check, Finding

if TYPE_CHECKING:
    from pytest_deepspeed.fixtures import DsRun
    from pytest_deepspeed.training.evidence import Evidence
    from pytest_deepspeed.training.faults import Fault
    from pytest_deepspeed.training.trial import Trial

#: More findings than these are counted, not shown.
_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What a check found in one study.

    Attributes:
        label: what to call it; empty where there is no other.
        trial: what was trained.
        findings: what is wrong with it.
        notes: what could not be said, and what is worth knowing.
    """

    label: str
    trial: Trial
    findings: Sequence[Finding]
    notes: Sequence[str]


class DsCheck:
    """What the fixture `ds_check` gives."""

    def __init__(self, request: pytest.FixtureRequest, ds_run: DsRun) -> None:
        from pytest_deepspeed.studies import Studies

        self._item: pytest.Item = request.node
        self._settings = request.config.stash[SETTINGS]
        self._studies = Studies(request.node, ds_run)

    def __call__(
        self,
        check: Check,
        *,
        only: tuple[str, ...] | None = None,
        wide: int | None = None,
    ) -> None:
        """Fails the test where the check finds something wrong with the test's config.

        The trap model is trained under the config as it is, and with SGD in place of its optimizer;
        once in a session, whichever check asks first. What a known fault of DeepSpeed explains is
        an expected failure.

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
        config = self._config()
        expected: list[tuple[Fault, Finding]] = []
        others: dict[Finding, list[str]] = {}
        due: dict[str, Fault] = {}
        for outcome in self._outcomes(check, config, only, wide):
            variant, met = outcome.trial.ds_config, faults.can_meet(outcome.trial.ds_config)
            traits = [f.trait for f in met if f.trait and outcome.trial.has(f.trait)]
            known, unknown = faults.known(outcome.findings, variant, traits)
            expected += known
            for finding in unknown:
                others.setdefault(finding, []).append(outcome.label)
            for fault in met:
                has = fault.trait is None or fault.trait in traits
                if fault.check == check and fault.certain and has:
                    due[fault.id] = fault
            self._tell("ds_fault", [f"{fault.id}: {fault.what}" for fault in met])
            self._tell("ds_note", [f"{check}: {note}" for note in outcome.notes])
        _judge(f"{check} of {modes.case_id(config)}", others, expected, due)

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
        config = self._config() if ds_config is None else ds_config
        trial = self._trial("parity", config, None, None)
        left_out = tuple(sorted({*trial.without, *without}))
        return self._studies.trial(dataclasses.replace(trial, without=left_out))

    def _outcomes(
        self, check: Check, config: dict[str, Any], only: tuple[str, ...] | None, wide: int | None
    ) -> Iterator[_Outcome]:
        __tracebackhide__ = True
        from pytest_deepspeed.training.checkpoint import check as checkpoint
        from pytest_deepspeed.training.checkpoint import check_reshard

        self._tell("ds_check", [check])
        trial = self._trial(check, config, only, wide)
        # Before the training: one that fails has its row in the summary too.
        self._tell("ds_mode", [modes.case_id(config)])
        self._tell("ds_world_size", [trial.world_size])
        if check == "checkpoint":
            saved = self._studies.checkpoint(trial)
            _skip_where_nothing_was_done(saved.skipped, "resume")
            notes = [*checkpoint.notes(saved), *saved.skipped.values()]
            yield _Outcome("", trial, checkpoint.check(saved), notes)
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

        limits = limits_of_item(self._item)
        for label, variant in _variants(trial).items():
            evidence = self._studies.trial(variant)
            if variant is trial:
                self._show(evidence)
            undecided = judge.undecided(check, evidence)
            findings = judge.findings(check, evidence, limits)
            yield _Outcome(label, variant, findings, [undecided] if undecided else [])

    def _config(self) -> dict[str, Any]:
        from pytest_deepspeed.training.config import adapted

        if self._item.get_closest_marker("ds_config") is None:
            pytest.fail(
                f"{where_of(self._item)}: the fixture 'ds_check' needs a config: mark the test with"
                " @pytest.mark.ds_config(stage=2)",
                pytrace=False,
            )
        config, changes = adapted(config_of(self._item), self._settings.device)
        if changes and "exact" in self._settings.require:
            pytest.fail("--ds-require=exact: " + "; ".join(changes), pytrace=False)
        self._tell("ds_adapted", changes)
        return config

    def _trial(
        self,
        check: Check,
        ds_config: Mapping[str, Any],
        only: tuple[str, ...] | None,
        wide: int | None,
    ) -> Trial:
        from pytest_deepspeed.training import faults
        from pytest_deepspeed.training.trial import Trial

        # A trait that meets a known fault is tried by itself, so that it hides no other. A training
        # that is wrong cannot be resumed rightly either.
        about = {"parity", check} if check in ("checkpoint", "reshard") else {"parity"}
        met = [f.trait for f in faults.can_meet(ds_config) if f.check in about and f.trait]
        return Trial(
            ds_config=ds_config,
            world_size=self._settings.world_size or 2,
            without=() if only else tuple(sorted(set(met))),
            only=only,
            wide=wide,
            seed=self._settings.seed,
        )

    def _tell(self, name: str, values: Sequence[object]) -> None:
        told = self._item.user_properties
        told.extend((name, value) for value in values if (name, value) not in told)

    def _show(self, evidence: Evidence) -> None:
        """What stands in the summary; the losses of the config's own training, whole model."""
        self._item.user_properties += [
            ("ds_steps", len(evidence.loss)),
            ("ds_loss_first", evidence.loss[0]),
            ("ds_loss_last", evidence.loss[-1]),
            ("ds_data", evidence.data),
        ]


def _variants(trial: Trial) -> dict[str, Trial]:
    """The trial, and the same with SGD, by what to call them."""
    from pytest_deepspeed.training.trial import with_sgd

    optimizer = trial.ds_config.get("optimizer") or {}
    kind = str(optimizer.get("type", "no optimizer"))
    if kind.lower() == "sgd":
        return {kind: trial}
    return {kind: trial, "SGD": dataclasses.replace(trial, ds_config=with_sgd(trial.ds_config))}


def _skip_where_nothing_was_done(skipped: Mapping[str, str], what: str) -> None:
    if what in skipped:
        pytest.skip(f"DeepSpeed cannot: {skipped[what]}")


def _judge(
    what: str,
    others: Mapping[Finding, Sequence[str]],
    expected: Sequence[tuple[Fault, Finding]],
    due: Mapping[str, Fault],
) -> None:
    """Fails, expectedly or not, or returns."""
    __tracebackhide__ = True
    if others:
        lines = [f"{what}: {len(others)} finding{'s' * (len(others) > 1)}"]
        lines += [_line(*item) for item in list(others.items())[:_SHOWN]]
        if len(others) > _SHOWN:
            lines.append(f"... and {len(others) - _SHOWN} more")
        pytest.fail("\n".join(lines), pytrace=False)
    shown = {fault.id: fault for fault, _ in expected}
    if mended := [fault for fault in due if fault not in shown]:
        pytest.fail(
            f"{what}: the known fault {', '.join(mended)} of DeepSpeed does not show. This release"
            " may have mended it: narrow its versions in pytest_deepspeed/training/faults.py",
            pytrace=False,
        )
    if shown:
        pytest.xfail("; ".join(f"{fault.id}: {fault.what}" for fault in shown.values()))


def _line(finding: Finding, labels: Sequence[str]) -> str:
    """The finding, with the trainings that show it."""
    which = f" (with {' and '.join(labels)})" if any(labels) else ""
    return f"- {finding.check}.{finding.name}{which}: {finding.message}"
