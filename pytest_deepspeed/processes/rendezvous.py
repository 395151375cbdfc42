"""A place to meet that nobody else can take.

The agent binds port 0 and listens, and hands the socket to a process of its own that serves a store
on it. The port is never free in between, so no other program can get it (bind, close, and bind
again later is the race of DeepSpeed #3975). No rank serves it, since the store must outlive each of
them: with rank 0 as the server, 5 % of empty tests on 2 ranks and a third of those that end with
`new_group` failed on a busy machine, because it had ended while a peer was still reading. Nor does
the agent: a store has threads.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import socket
from typing import Any, NoReturn

from pytest_deepspeed.processes import containment

LOOPBACK = "127.0.0.1"

_LOOPBACK_IPV6 = "::1"


def listen(address: str = LOOPBACK) -> socket.socket:
    """A listening socket on a port of an address of this machine that is ours from now on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.bind((address, 0))
    server.listen(1024)
    return server


@functools.cache
def loopback() -> str:
    """`LOOPBACK`, or ``::1`` where this machine, or its container, has IPv6 alone."""
    with contextlib.suppress(OSError), listen(LOOPBACK):
        return LOOPBACK
    return _LOOPBACK_IPV6


def interface_to(address: str) -> str:
    """The interface that gloo must be told of for a rendezvous there; empty where it finds it.

    On its own it takes the address that the host's name stands for, and then 127.0.0.1.
    """
    return "lo" if address == _LOOPBACK_IPV6 else ""


class StoreServer:
    """The process that serves the stores of an agent's worlds, one after the other."""

    def __init__(self) -> None:
        self._pid = 0
        self._socket: socket.socket | None = None

    def open(self, address: str) -> tuple[str, int]:
        """Opens a fresh store; returns the address and port where it can be reached at once.

        Connections wait in the socket's backlog until the process has taken it over.

        Args:
            address: of this machine, the one that all ranks of the world can reach.
        """
        with listen(address) as server:
            port: int = server.getsockname()[1]
            try:
                self._send(server)
            except OSError:  # it was killed: a test may do that to any process of its user
                self.close()
                self._send(server)
        return address, port

    def _send(self, server: socket.socket) -> None:
        if self._socket is None:
            self._start()
        assert self._socket is not None
        socket.send_fds(self._socket, [b"open"], [server.fileno()])

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        agent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.setsid()
                containment.die_with_parent(agent)
                self._socket.close()
                _serve(theirs)
            finally:
                os._exit(1)
        theirs.close()

    def drop(self) -> None:
        """Ends the store of a world that has ended."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(b"drop")

    def close(self) -> None:
        """Ends the process."""
        if self._socket is not None:
            containment.kill(self._pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._socket.close()
            self._socket = None


def _serve(commands: socket.socket) -> NoReturn:
    from torch._C._distributed_c10d import TCPStore

    store = None
    while True:
        message, fds, *_ = socket.recv_fds(commands, 16, 1)
        if not message:
            os._exit(0)
        del store  # with its thread and its port
        store = None
        if fds:
            server = socket.socket(fileno=fds[0])
            addr, port = server.getsockname()[:2]
            store = TCPStore(
                addr, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
            )


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
        # Alone a rank has no peer, and to split a group off a bound one fails (DeepSpeed #8248).
        device_id=device if backend == "nccl" and world_size > 1 else None,
    )
