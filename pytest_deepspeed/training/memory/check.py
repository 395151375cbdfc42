"""Judges the memory of a training: the ZeRO arithmetic, and limits."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_deepspeed.training.memory.arithmetic import expected, on_device
from pytest_deepspeed.training.memory.evidence import MemoryEvidence, RankMemory, Tensor
from pytest_deepspeed.training.memory.limits import Limits
from pytest_deepspeed.values.finding import Finding
from pytest_deepspeed.values.size import RANK_MEMORY, format_size

#: What a category that is not as the arithmetic says means, and what to look at.
_ADVICE = {
    "parameters": "weights are not partitioned or kept whole as configured: look at the stage,"
    " stage3_param_persistence_threshold and offload_param",
    "masters": "the optimizer does not step the partition that its stage gives this rank: look at"
    " the stage, the dtype and offload_optimizer",
    "optimizer": "optimizer states are not sharded or swapped as configured: look at the stage, the"
    " optimizer's type and offload_optimizer",
    "gradients": "gradients are not partitioned as configured, or not all there: look at the stage"
    " and offload_optimizer",
    "buckets": "the gradient bucket has another size than reduce_bucket_size",
    "nvme": "swap files do not hold the masters and states of the partitions that are large enough"
    " to swap: look at offload_optimizer and aio.block_size",
}


def check(evidence: MemoryEvidence, limits: Limits) -> list[Finding]:
    """What is wrong; empty where nothing is.

    The arithmetic is exact, to the byte, and nothing is compared that it does not know. Stages are
    never compared with each other: on a small model padding and buckets weigh more than sharding.
    """
    return [*_unequal(evidence), *_misplaced(evidence), *_over(evidence, limits)]


def _unequal(evidence: MemoryEvidence) -> Iterator[Finding]:
    """One finding for each category, at the first rank that differs."""
    for category, wanted in expected(evidence.layout).items():
        for rank in evidence.ranks:
            found = measured(rank, category)
            if found is None or found == wanted:
                continue
            yield Finding(
                check="memory",
                name=category.replace(" ", "_"),
                message=(
                    f"rank {rank.rank} holds {found:,} bytes of {category}, and the ZeRO"
                    f" arithmetic of stage {evidence.layout.stage} on"
                    f" {evidence.layout.world_size} ranks gives {wanted:,}: {_ADVICE[category]}"
                ),
            )
            break


def _misplaced(evidence: MemoryEvidence) -> Iterator[Finding]:
    """One finding for each category of which a GPU holds more or less, at the first such rank."""
    for category, wanted in on_device(evidence.layout).items():
        for rank in evidence.ranks:
            found = rank.held[category].devices.get("cuda", 0)
            if rank.device is None or found == wanted:
                continue
            yield Finding(
                check="memory",
                name=f"{category}_on_device",
                message=(
                    f"rank {rank.rank} holds {found:,} bytes of {category} on its GPU, and the ZeRO"
                    f" arithmetic of stage {evidence.layout.stage} on"
                    f" {evidence.layout.world_size} ranks gives {wanted:,}: look at"
                    " offload_optimizer and offload_param"
                ),
            )
            break


def measured(rank: RankMemory, category: str) -> int | None:
    """What a rank holds of a category; ``None`` where it was not looked at.

    Of gradients what their tensors cover: stages 1 and 2 keep views of the buckets that they
    reduced, and how much of a bucket stays with them depends on where its boundaries fell.
    """
    if category == "nvme":
        return sum(size for name, size in rank.nvme.items() if _is_state(name))
    if category == "gradients":
        return rank.held[category].used if rank.looked else None
    return rank.held[category].bytes


def held_and_expected(evidence: MemoryEvidence) -> tuple[int, int] | None:
    """Bytes of memory that the rank that holds most has, and those that the arithmetic gives.

    Both are sums over the categories that the arithmetic knows and that every rank was looked at
    for; swap files are not in memory. ``None`` where there is no such category.
    """
    wanted = {name: size for name, size in expected(evidence.layout).items() if name != "nvme"}
    found = [{name: measured(rank, name) for name in wanted} for rank in evidence.ranks]
    known = [name for name in wanted if all(rank[name] is not None for rank in found)]
    if not known or not found:
        return None
    held = max(sum(rank[name] or 0 for name in known) for rank in found)
    return held, sum(wanted[name] for name in known)


def _is_state(swap_file: str) -> bool:
    """Whether a swap file holds masters or states: not gradients, not ZeRO-3's parameters."""
    return "/optimizer/" in f"/{swap_file}" and "_gradient_" not in swap_file


def _over(evidence: MemoryEvidence, limits: Limits) -> Iterator[Finding]:
    """One finding for each limit, at the rank that takes most."""
    for name, allowed in limits.sizes.items():
        taken = [
            (size, rank) for rank in evidence.ranks if (size := _taken(rank, name)) is not None
        ]
        size, rank = max(taken, key=lambda pair: pair[0], default=(None, None))
        if rank is None and name in ("tensors", "gradients"):
            yield Finding(
                "memory",
                f"limit_{name}",
                f"{limits.sources[name]} limits {name}, which were not measured: no step was"
                " metered. Limit host instead",
            )
        elif rank is not None and size is not None and size > allowed:
            yield Finding(
                "memory",
                f"limit_{name}",
                over_limit(rank.rank, name, size, allowed, limits.sources[name])
                + "\n"
                + "\n".join(breakdown(rank)),
            )


def over_limit(rank: int, name: str, taken: int, allowed: int, source: str) -> str:
    """The first sentence on a limit that does not hold."""
    return (
        f"rank {rank}: {RANK_MEMORY[name]}: {format_size(taken)}, more than the"
        f" {format_size(allowed)} that {source} allows ({name}: {taken:,} bytes of {allowed:,})"
    )


def _taken(rank: RankMemory, name: str) -> int | None:
    if name in ("host", "device", "tensors"):
        value = getattr(rank, name)
        return None if value is None else int(value)
    if name == "nvme":
        return sum(rank.nvme.values())
    if name == "gradients" and not rank.looked:
        return None
    return rank.held[name].bytes


def breakdown(rank: RankMemory) -> list[str]:
    """What a rank holds by category, its peaks, and its largest tensors."""
    held = [f"  {name:16} {format_size(h.bytes):>11}" for name, h in rank.held.items() if h.bytes]
    peaks = {
        "peak of tensors": rank.tensors,
        "peak of host": rank.host,
        "peak of device": rank.device,
        "swap files": sum(rank.nvme.values()) or None,
    }
    lines = [f"  {name:16} {format_size(size):>11}" for name, size in peaks.items() if size]
    return ["held after the last step:", *held, *lines, *largest_lines(rank.largest)]


def largest_lines(tensors: tuple[Tensor, ...]) -> list[str]:
    """The largest tensors, a line each."""
    lines = [
        f"  {format_size(t.bytes):>11}  {t.name} ({t.category}, {t.dtype}, {t.device})"
        for t in tensors
    ]
    return ["largest tensors:", *lines] if lines else []


def table(evidence: MemoryEvidence) -> list[str]:
    """What each category holds on each rank, beside the arithmetic; at most 80 columns."""
    layout = evidence.layout
    wanted = expected(layout)
    lines = [f"{'bytes on a rank':16} {'least':>15} {'most':>15} {'arithmetic':>15}"]
    for category in [*evidence.ranks[0].held, "nvme"]:
        sizes = [measured(rank, category) for rank in evidence.ranks]
        known = [size for size in sizes if size is not None]
        if any(known) or wanted.get(category):
            right = f"{wanted[category]:,}" if category in wanted else "-"
            lines.append(f"{category:16} {min(known):>15,} {max(known):>15,} {right:>15}")
    on_gpu = [
        sum(held.devices.get("cuda", 0) for held in rank.held.values())
        for rank in evidence.ranks
        if rank.device is not None
    ]
    if on_gpu:
        lines.append(f"{'held on the GPU':16} {min(on_gpu):>15,} {max(on_gpu):>15,} {'-':>15}")
    for name, label in (
        ("tensors", "peak in a step"),
        ("host", "peak of host"),
        ("device", "peak of device"),
        ("estimate_device", "DS est. device"),
        ("estimate_host", "DS est. host"),
    ):
        sizes = [getattr(rank, name) for rank in evidence.ranks]
        known = [size for size in sizes if size is not None]
        if known:
            lines.append(f"{label:16} {min(known):>15,} {max(known):>15,} {'-':>15}")
    if layout.unknown:
        lines.append(f"no arithmetic for: {layout.unknown}"[:80])
    return lines
