"""Which check looks at what of the evidence of a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_deepspeed.training import checks
from pytest_deepspeed.training.engagement import check as engagement
from pytest_deepspeed.training.evidence import Evidence
from pytest_deepspeed.training.memory import check as memory
from pytest_deepspeed.training.memory.limits import Limits
from pytest_deepspeed.training.parity import check as parity
from pytest_deepspeed.values.finding import Check, Finding

#: The checks that share one training.
OF_A_TRIAL: tuple[Check, ...] = ("loss", "ranks", "parity", "engagement", "memory")


def findings(
    check: Check,
    evidence: Evidence,
    limits: Limits,
    tolerances: Mapping[str, float] | None = None,
) -> list[Finding]:
    """What one check finds wrong with a trial; empty where nothing is.

    Args:
        check: one of `OF_A_TRIAL`.
        evidence: of the trial.
        limits: on the memory of a rank.
        tolerances: of the check `parity`, by name, in place of the defaults.
    """
    match check:
        case "loss":
            return list(_loss(evidence))
        case "ranks":
            return list(_ranks(evidence))
        case "parity":
            return [f for twin in evidence.parity for f in parity.check(twin, tolerances or {})]
        case "engagement":
            config, groups = dict(evidence.trial.ds_config), evidence.groups
            if evidence.trial.lightning:
                # The module brings its optimizer, and a schedule that the check of parity follows.
                config.pop("optimizer", None)
                groups = tuple({k: v for k, v in g.items() if k != "lr"} for g in groups)
            return engagement.check(
                config,
                [rank.engagement for rank in evidence.ranks],
                steps=evidence.trial.steps + 1,
                groups=groups,
            )
        case "memory":
            return memory.check(evidence.memory, limits)
    raise ValueError(f"not a check of a trial: {check}")


def undecided(check: Check, evidence: Evidence) -> str | None:
    """Why a check cannot say anything of a trial, or not all; ``None`` where it can."""
    if check in ("loss", "parity") and not evidence.parity:
        return evidence.uncovered
    if check == "parity":
        return parity.doubtful(evidence.parity[0])
    if check == "loss" and not checks.decidable(evidence.parity[-1].twin_loss):
        steps = len(evidence.loss)
        return f"not decidable in {steps} steps: plain torch does not learn either"
    return None


def _loss(evidence: Evidence) -> Iterator[Finding]:
    twin = evidence.parity[-1].twin_loss if evidence.parity else evidence.loss
    if message := checks.loss_follows(evidence.loss, twin):
        yield Finding("loss", "falls", message)


def _ranks(evidence: Evidence) -> Iterator[Finding]:
    norms = zip(*(rank.grad_norm for rank in evidence.ranks), strict=True)
    for step, of_ranks in enumerate(norms):
        if message := checks.ranks_agree(f"the gradient norm of step {step}", of_ranks):
            yield Finding("ranks", "grad_norm", message, step=step)
            break
    weights = zip(*(rank.digests for rank in evidence.ranks), strict=True)
    for step, by_rank in enumerate(weights):
        first = by_rank[0]
        for rank, digests in enumerate(by_rank):
            differing = [n for n in first or () if digests and digests[n] != (first or {})[n]]
            if differing:
                yield Finding(
                    "ranks",
                    "weights",
                    f"after step {step} rank {rank} has another {differing[0]} than rank 0"
                    f" ({len(differing)} of {len(first or ())} weights differ): data-parallel ranks"
                    " drift apart where a gradient or an updated weight does not reach them all",
                    parameter=differing[0],
                    step=step,
                )
                return
