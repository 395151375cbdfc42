"""What an agent tells of its node, for the controller to compare before any test."""

from __future__ import annotations

import os
import platform
import socket
import time
from importlib import metadata
from pathlib import Path

from pytest_deepspeed.processes import channel, devices

#: Seconds for another node to answer.
_PATIENCE = 3.0

#: Packages that must be the same on all nodes.
PACKAGES = ("torch", "deepspeed", "pytest", "pytest-deepspeed")


def facts() -> channel.Frame:
    """Host, machine, GPUs and versions."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "gpus": devices.granted_gpus(),
        "versions": versions,
    }


def machine() -> str:
    """Names the running system and its network: processes with the same share a loopback."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/net')}"


def interfaces() -> dict[str, str]:
    """Network interfaces by the addresses they have; no loopback and no link-local ones."""
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        address.address: name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in up
        and address.family in (socket.AF_INET, socket.AF_INET6)
        and not address.address.startswith(("127.", "169.254.", "fe80:"))
        and address.address != "::1"
    }


def addresses() -> list[str]:
    """Where other machines may reach this one, the likeliest first: IPv4, as found, then IPv6."""
    return sorted(interfaces(), key=lambda address: ":" in address)


def clocks() -> channel.Frame:
    """The clocks of this process's machine: `time.monotonic` and `time.time`, in seconds."""
    return {"monotonic": time.monotonic(), "time": time.time()}


def listen() -> socket.socket:
    """A socket on all addresses, for other nodes to try."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError:  # IPv6 may be compiled in and switched off
            pass
    return socket.create_server(("", 0))


def reach(hosts: list[str], port: int) -> tuple[dict[str, str], list[str]]:
    """Tries to connect to each host.

    Returns:
        the interface here that leads to each host that answers, and of each other why not.
    """
    own = interfaces()
    reached: dict[str, str] = {}
    failed: list[str] = []
    for host in hosts:
        try:
            with socket.create_connection((host, port), timeout=_PATIENCE) as made:
                reached[host] = own.get(made.getsockname()[0].removeprefix("::ffff:"), "")
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
            failed.append(f"{host} ({why})")
    return reached, failed
