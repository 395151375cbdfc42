"""Runs base and head in fresh worlds, in turns, and puts together what they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_deepspeed.training import train
from pytest_deepspeed.training.evidence import Evidence
from pytest_deepspeed.training.pair import histories
from pytest_deepspeed.training.pair.evidence import Continued, PairEvidence
from pytest_deepspeed.training.pair.resume import continued
from pytest_deepspeed.training.pair.trials import in_single
from pytest_deepspeed.training.parity.evidence import ParityEvidence
from pytest_deepspeed.training.trial import Trial
from pytest_deepspeed.values import modes, plain

#: ``run(function, world_size=n, **kwargs)``; see `checkpoint.equivalence.Run`.
Run = Callable[..., list[Any]]


class BaseFailed(Exception):
    """The base does not train here; the text is what its ranks said."""


def paired(
    run: Run, base: Trial, head: Trial, directory: Path, *, pairs: int, failed: type[Exception]
) -> PairEvidence:
    """Trains base and head, in turns, and lets the head go on from the base's checkpoint.

    Args:
        run: starts a world.
        base: of `trials.trials`.
        head: likewise.
        directory: an empty one.
        pairs: how often both are trained.
        failed: what `run` raises where ranks fail.

    Raises:
        BaseFailed: the base does not train.
    """
    files = {side: str(directory / f"{side}.pt") for side in ("base", "head")}
    rounds = []
    for number in range(pairs):
        keep = files if number == 0 else dict.fromkeys(files, "")
        try:
            of_base = _train(run, "base", base, keep["base"])
        except failed as error:
            raise BaseFailed(str(error)) from None
        rounds.append((of_base, _train(run, "head", head, keep["head"])))
    written = _beside(run, files)
    single, doubt, notes = _in_single(run, base, head, directory, failed)
    if single is None and _in_fp32(base, head):
        doubt = _doubt(rounds[0][0])
    return PairEvidence(
        base=rounds[0][0],
        head=rounds[0][1],
        written=written,
        single=single,
        doubt=doubt,
        step_times=tuple((one.step_time, other.step_time) for one, other in rounds),
        checkpoint=_continued(run, base, head, directory, failed),
        notes=notes,
    )


def _train(run: Run, side: str, trial: Trial, keep: str) -> Evidence:
    given = {"trial": trial, "keep": keep, "phase": f"training {side}"}
    values = run(train.run, world_size=trial.world_size, **given)
    return plain.load(Evidence, values[0])


def _beside(run: Run, files: dict[str, str]) -> ParityEvidence:
    (text,) = run(histories.beside, world_size=1, init_process_group=False, **files)
    return plain.load(ParityEvidence, text)


def _in_single(
    run: Run, base: Trial, head: Trial, directory: Path, failed: type[Exception]
) -> tuple[ParityEvidence | None, ParityEvidence | None, tuple[str, ...]]:
    """Both in fp32, and the doubt of the user's own workload there; what could not be tried."""
    if _in_fp32(base, head):
        return None, None, ()
    files = {side: str(directory / f"{side}_fp32.pt") for side in ("base", "head")}
    try:
        of_base = _train(run, "base", in_single(base), files["base"])
        _train(run, "head", in_single(head), files["head"])
    except failed as error:
        text = str(error).strip().splitlines()[0]
        return None, None, (f"in fp32, where more is seen, they do not train both: {text}",)
    return _beside(run, files), _doubt(of_base), ()


def _in_fp32(base: Trial, head: Trial) -> bool:
    return all(modes.dtype_of(trial.ds_config) == "fp32" for trial in (base, head))


def _doubt(evidence: Evidence) -> ParityEvidence | None:
    return evidence.parity[-1].doubt if evidence.parity else None


def _continued(
    run: Run, base: Trial, head: Trial, directory: Path, failed: type[Exception]
) -> Continued:
    home = directory / "run"
    home.mkdir()
    try:
        return continued(run, base, head, home)
    except failed as error:
        return Continued(refusal=str(error).strip())
