"""What an agent tells of its node."""

import os
import platform
import socket
from importlib import metadata

from pytest_deepspeed.processes import presence


def test_interfaces_have_no_loopback():
    """Protects: what another node would take for itself is not offered to it."""
    found = presence.interfaces()

    assert "lo" not in found.values()
    assert [a for a in found if a.startswith(("127.", "169.254.", "fe80:")) or a == "::1"] == []
    assert set(found.values()) <= set(dict(socket.if_nameindex()).values())


def test_addresses_have_ipv4_first():
    """Protects: the address that works nearly everywhere is tried first."""
    found = presence.addresses()

    assert sorted(found) == sorted(presence.interfaces())
    families = [":" in address for address in found]
    assert families == sorted(families)


def test_facts():
    """Protects: what must be alike on all nodes is told, and a machine is known by its network."""
    told = presence.facts()

    assert told["host"] == socket.gethostname()
    assert os.readlink("/proc/self/ns/net") in told["machine"]
    assert told["versions"] == {
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in presence.PACKAGES},
    }


def test_reach():
    """Protects: which interface leads to a host that answers, and why another does not."""
    with presence.listen() as server:
        port = server.getsockname()[1]
        hosts = [*presence.addresses(), "127.0.0.1", "no-such-host.invalid"]
        reached, failed = presence.reach(hosts, port)
    closed, refused = presence.reach(["127.0.0.1"], port)

    own = presence.interfaces()
    assert reached == {**{host: own[host] for host in own}, "127.0.0.1": ""}
    assert len(failed) == 1
    assert failed[0].startswith("no-such-host.invalid (")
    assert (closed, refused) == ({}, ["127.0.0.1 (Connection refused)"])
