"""The other ways to run a body on two ranks: ``python -m benchmarks.contenders fork|…``.

Each runs `all_reduce` in two fresh processes that form a fresh gloo group, per request.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks import on_request

WORLD_SIZE = 2


def all_reduce() -> None:
    """What every contender and the ranked test run, imports included."""
    import deepspeed  # noqa: F401 (what a test of DeepSpeed code imports)
    import torch
    from torch import distributed

    total = torch.ones(1)
    distributed.all_reduce(total)
    assert total.item() == WORLD_SIZE


def join_and_run(rank: int, store: str) -> None:
    """Becomes a rank of a group that meets at the file ``store``, and runs the body."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD_SIZE
    )
    all_reduce()


def join_run_and_leave(rank: int, store: str) -> None:
    """The same in a process that ends as Python does: gloo's threads must be gone by then."""
    join_and_run(rank, store)
    from torch import distributed

    distributed.destroy_process_group()


def by_fork(store: str) -> None:
    """The floor: no session, no supervision, no report, no pytest around the body."""
    ranks = []
    for rank in range(WORLD_SIZE):
        pid = os.fork()
        if pid == 0:
            _run_and_exit(rank, store)
        ranks.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in ranks]
    if any(statuses):
        raise RuntimeError(f"a rank failed: {statuses}")


def _run_and_exit(rank: int, store: str) -> None:
    status = 1
    try:
        join_and_run(rank, store)
        status = 0
    except BaseException:  # noqa: BLE001 (whatever it is, this process must not return)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def by_start(method: str, store: str) -> None:
    """PyTorch's own way: `torch.multiprocessing.start_processes` with a start method."""
    from torch.multiprocessing.spawn import start_processes

    start_processes(  # type: ignore[no-untyped-call]
        join_run_and_leave, args=(store,), nprocs=WORLD_SIZE, start_method=method
    )


def prepare(method: str) -> None:
    """Has imported what the one who starts the ranks has imported, before the first request."""
    if method == "fork":
        # The heap of an agent in a long suite: forking and exiting cost by what is mapped, and how.
        import pytest_deepspeed.processes.agent  # noqa: F401 (with pytest, as in an agent)
        from pytest_deepspeed.processes import hugepages, preload

        preload.prepare_environment("cpu")
        preload.preload()
        preload.preload_engines()
        gc.collect()
        gc.freeze()
        hugepages.collapse()
    else:
        import torch.multiprocessing  # noqa: F401

        # Python 3.11 means to preload `__main__` and does not; later ones do.
        multiprocessing.set_forkserver_preload([])


def main(method: str) -> None:
    """Serves requests."""
    prepare(method)
    with tempfile.TemporaryDirectory() as directory:
        for number, _ in enumerate(on_request.requests()):
            store = str(Path(directory, f"store{number}"))
            if method == "fork":
                by_fork(store)
            else:
                by_start(method, store)


if __name__ == "__main__":
    main(sys.argv[1])
