"""The socket over which an agent of another machine dials back: for who has the key alone."""

import concurrent.futures
import contextlib
import os
import socket
import struct
import time

import pytest

from pytest_deepspeed.processes import channel, dialing


@pytest.fixture
def exchange():
    """A controller's listening socket."""
    made = dialing.Exchange()
    yield made
    made.close()


@pytest.fixture
def accepting(exchange):
    """What the controller makes of the next caller, as a future."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(exchange.accept)


def call(exchange, data=b""):
    """A stranger who connects and says something."""
    stranger = socket.create_connection(("127.0.0.1", exchange.invitation["port"]))
    stranger.sendall(data)
    return stranger


def test_who_has_the_key_is_connected(exchange, accepting):
    """Protects: frames go both ways, with no time limit left over from the handshake."""
    agent = dialing.dial(exchange.invitation)
    controller = accepting.result(10)
    with agent, controller:
        channel.write(agent.fileno(), {"type": "hello", "node_rank": 1})
        channel.write(controller.fileno(), {"type": "start"})
        (hello,) = channel.FrameReader(controller.fileno()).read()
        (start,) = channel.FrameReader(agent.fileno()).read()

        assert hello == {"type": "hello", "node_rank": 1}
        assert start == {"type": "start"}
        for end in (agent, controller):
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == bytes(16)
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == bytes(16)
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert os.get_blocking(end.fileno())


def test_a_wrong_key(exchange, accepting):
    """Protects: a process of somebody else that found the port gets no connection."""
    said = dialing.dial({**exchange.invitation, "key": "00" * 32, "hosts": []})

    assert said == "tried 127.0.0.1 (digest sent was rejected)"
    assert accepting.result(10) is None


def test_a_false_controller(exchange):
    """Protects: an agent does not take orders from whoever listens at the port."""
    other = dialing.Exchange()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(other.accept)
        said = dialing.dial(
            {**exchange.invitation, "port": other.invitation["port"]} | {"hosts": []}
        )
        other.close()

        assert said == "tried 127.0.0.1 (digest sent was rejected)"
        assert accepting.result(10) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 64],
    ids=["silence", "http", "zeros", "ones"],
)
def test_a_stranger(exchange, accepting, data):
    """Protects: who says nothing, or garbage, holds the controller up for seconds at most."""
    began = time.monotonic()
    with call(exchange, data):
        assert accepting.result(30) is None
    assert time.monotonic() - began < 3 * dialing._PATIENCE


def test_a_stranger_of_one_byte_at_a_time(exchange, accepting, monkeypatch):
    """Protects: who always says a little, so that no read is late, is held to a limit for all."""
    monkeypatch.setattr(dialing, "_PATIENCE", 1.0)
    began = time.monotonic()
    with call(exchange, struct.pack("!i", 256)) as stranger:  # a message of so many bytes
        while not accepting.done() and time.monotonic() - began < 5:
            with contextlib.suppress(OSError):
                stranger.send(b"x")
            time.sleep(0.1)
        assert accepting.done()
        assert accepting.result() is None


def test_after_a_stranger(exchange):
    """Protects: the agent that calls next is connected."""
    with call(exchange, b"GET / HTTP/1.1\r\n\r\n"):
        assert exchange.accept() is None
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(exchange.accept)
        with dialing.dial(exchange.invitation) as agent, accepting.result(10) as controller:
            assert agent.getpeername()[1] == controller.getsockname()[1]


def test_nobody_listens(exchange):
    """Protects: an agent that cannot connect says which addresses it tried, and why not."""
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    invitation = {**exchange.invitation, "hosts": ["127.0.0.2"], "port": port}

    assert dialing.dial(invitation) == (
        "tried 127.0.0.1 ([Errno 111] Connection refused), 127.0.0.2 ([Errno 111] Connection"
        " refused)"
    )
    assert dialing.dial({**invitation, "machine": "another"}) == (
        "tried 127.0.0.2 ([Errno 111] Connection refused)"
    )
