"""This pytest process as a rank: for a debugger, and under ``torchrun -m pytest_deepspeed``.

No agent and no fork, so that ``--pdb`` and ``breakpoint()`` have the terminal. The price is that
tests of one session share the process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator

import pytest

from pytest_deepspeed.markers import where_of, world_of
from pytest_deepspeed.processes import builds, devices, gpu, ops, preload, rendezvous, seeds
from pytest_deepspeed.requirements import lacks_gpus
from pytest_deepspeed.values import role
from pytest_deepspeed.values.world import World, spread, torchrun_environment, under_torchrun


class InProcess:
    """Runs marked tests here, in a process group of what torchrun has started, or of this alone."""

    @classmethod
    def take_over(cls, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Lets this process run the ranked tests among ``items``.

        Raises:
            pytest.UsageError: one needs more ranks than there are, with the command that has them.
        """
        _check(items)
        config.pluginmanager.register(cls(), "pytest_deepspeed_inprocess")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test whose ranks would meet on one GPU with NCCL is skipped."""
        world = world_of(item)
        if world is None or world.backend != "nccl" or not world.init_process_group:
            return
        ranks = int(os.environ["LOCAL_WORLD_SIZE"])
        if text := devices.too_few_gpus(ranks, [""], [devices.granted_gpus()], one=False):
            lacks_gpus(item, text)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Makes this process a rank for the time of one item."""
        world = world_of(item)
        if world is None:
            return (yield)
        with _as_rank(world):
            return (yield)


def _check(items: list[pytest.Item]) -> None:
    there = int(os.environ.get("WORLD_SIZE", "1")) if under_torchrun() else 1
    for item in items:
        world = world_of(item)
        if world is not None and world.world_size != there:
            hint = (
                f"start it with torchrun --nproc_per_node={world.world_size}"
                if under_torchrun()
                else "a debugger has one terminal; add --ds-world-size=1"
            )
            raise pytest.UsageError(
                f"{where_of(item)} needs {world.world_size} ranks and this process is one of"
                f" {there}: {hint}"
            )


@contextlib.contextmanager
def _as_rank(world: World) -> Iterator[None]:
    before = dict(os.environ)
    alone = not under_torchrun()
    preload.prepare_environment(world.device)
    with contextlib.ExitStack() as stack:
        if alone:
            server = stack.enter_context(rendezvous.listen())
            port = server.getsockname()[1]
            (place,) = spread(1, [""])
            os.environ.update(torchrun_environment(0, 1, place, "127.0.0.1", port, "in-process"))
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        os.environ["LOCAL_SIZE"] = os.environ["LOCAL_WORLD_SIZE"]
        previous = role.current()
        role.become("rank")
        try:
            with process_group(world, alone):
                yield
        finally:
            role.become(previous)
            os.environ.clear()
            os.environ.update(before)


@contextlib.contextmanager
def process_group(world: World, alone: bool) -> Iterator[None]:
    """A seeded process in a process group of what torchrun has started, or ``alone``."""
    preload.preload()
    preload.preload_engines()
    preload.settle_compatible_ops()
    remove_hook = ops.install_hook(builds.obtain)
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    seeds.seed(world.seed)
    if world.device == "cuda":
        gpu.take(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    if world.init_process_group and alone:
        dist.init_process_group(world.backend, store=HashStore(), rank=0, world_size=1)
    elif world.init_process_group:
        dist.init_process_group(world.backend)
    try:
        yield
    finally:
        remove_hook()
        if dist.is_initialized():
            dist.destroy_process_group()
