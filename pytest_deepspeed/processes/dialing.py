"""A connection between controller and agent that is faster than srun's pipes.

A frame of more than a packet takes 44 ms through srun (Slurm 22.05, `benchmarks.nodes`), over a
socket under one. So the controller listens while agents start, and each dials back. Each proves to
the other that it has the session's key, which it was given over srun's pipe, by the handshake of
`multiprocessing.connection` (an HMAC of a random challenge). An agent that cannot connect stays on
the pipes.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import socket
import struct
import threading
from multiprocessing import connection
from typing import Any

from pytest_deepspeed.processes import channel, presence

#: Seconds for one address to answer, and for each step of the handshake.
_PATIENCE = 3.0


class Exchange:
    """The controller's listening socket.

    Attributes:
        listener: the socket, for a selector.
    """

    def __init__(self) -> None:
        self.listener = presence.listen()
        self._key = secrets.token_bytes(32)

    @property
    def invitation(self) -> channel.Frame:
        """What an agent needs to dial: goes over the pipe, which nobody else reads."""
        return {
            "hosts": presence.addresses(),
            "port": self.listener.getsockname()[1],
            "key": self._key.hex(),
            "machine": presence.machine(),
        }

    def accept(self) -> socket.socket | None:
        """The connection of somebody who has the key; ``None`` for a stranger."""
        caller, _ = self.listener.accept()
        _be_patient(caller)
        # Each read has its time limit; this is that of all, for a caller of one byte at a time.
        limit = threading.Timer(_PATIENCE, caller.shutdown, [socket.SHUT_RDWR])
        limit.start()
        line = connection.Connection(os.dup(caller.fileno()))
        try:
            connection.deliver_challenge(line, self._key)
            connection.answer_challenge(line, self._key)
        except (OSError, EOFError, ValueError, multiprocessing.AuthenticationError):
            caller.close()
            return None
        finally:
            limit.cancel()
            line.close()
        _tune(caller)
        return caller

    def close(self) -> None:
        """Stops listening."""
        self.listener.close()


def dial(invitation: channel.Frame) -> socket.socket | str:
    """A connection to the controller, or why there is none."""
    hosts = invitation["hosts"]
    if invitation["machine"] == presence.machine():
        hosts = ["127.0.0.1", *hosts]
    failed: list[str] = []
    for host in hosts:
        try:
            return _dial(host, int(invitation["port"]), bytes.fromhex(invitation["key"]))
        except (OSError, EOFError, ValueError, multiprocessing.AuthenticationError) as error:
            failed.append(f"{host} ({error or type(error).__name__})")
    return "tried " + ", ".join(failed)


def _dial(host: str, port: int, key: bytes) -> socket.socket:
    made = socket.create_connection((host, port), timeout=_PATIENCE)
    _be_patient(made)
    line = connection.Connection(os.dup(made.fileno()))
    try:
        connection.answer_challenge(line, key)
        connection.deliver_challenge(line, key)
    except BaseException:
        made.close()
        raise
    finally:
        line.close()
    _tune(made)
    return made


def _be_patient(made: socket.socket) -> None:
    """Blocking, but not for ever: a stranger may connect and say nothing."""
    made.setblocking(True)
    seconds = int(_PATIENCE)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        made.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def _tune(made: socket.socket) -> None:
    """No delay, no time limit, and a dead machine is noticed in 20 s."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        made.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 0, 0))
    settings: dict[Any, int] = {
        socket.TCP_NODELAY: 1,
        socket.TCP_KEEPIDLE: 5,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 3,
        socket.TCP_USER_TIMEOUT: 20_000,
    }
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in settings.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
