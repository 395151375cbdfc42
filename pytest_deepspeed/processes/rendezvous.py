"""A place to meet that nobody else can take.

The agent binds port 0 and listens; a process that it forks inherits the socket and serves the store
on it. The port is never free in between, so no other program can get it (bind, close, and bind
again later is the race of DeepSpeed #3975). No rank serves it, since the store must outlive each of
them: with rank 0 as the server, 5 % of empty tests on 2 ranks and a third of those that end with
`new_group` failed on a busy machine, because it had ended while a peer was still reading.
"""

from __future__ import annotations

import datetime
import signal
import socket
from typing import Any, NoReturn

_LOOPBACK = "127.0.0.1"


def listen() -> socket.socket:
    """A listening socket on a port of this machine's loopback that is ours from now on."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.bind((_LOOPBACK, 0))
    server.listen(1024)
    return server


def serve(server: socket.socket) -> NoReturn:
    """Serves a `torch.distributed.TCPStore` on ``server`` until this process is killed."""
    from torch._C._distributed_c10d import TCPStore

    addr, port = server.getsockname()
    _store = TCPStore(
        addr, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
    )
    while True:
        signal.pause()


def join_store(world_size: int, addr: str, port: int, timeout: float) -> Any:
    """This rank's end of the world's `torch.distributed.TCPStore`.

    Args:
        timeout: seconds that a get or a wait on the store may take.
    """
    from torch._C._distributed_c10d import TCPStore

    wait = datetime.timedelta(seconds=timeout)
    return TCPStore(addr, port, world_size, is_master=False, timeout=wait, wait_for_workers=False)


def form_process_group(
    store: Any, backend: str, rank: int, world_size: int, timeout: float, device: Any = None
) -> None:
    """Forms the default process group over ``store``.

    Args:
        timeout: seconds after which a collective gives up; longer than the test's budget, so that
            a hang is reported with the stacks of all ranks and not by the first of them.
    """
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore

    dist.init_process_group(
        backend,
        store=PrefixStore("pytest_deepspeed", store),
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=timeout),
        device_id=device if backend == "nccl" else None,
    )
