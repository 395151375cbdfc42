"""A cluster whose nodes share no network address, no host name and no process ids.

Each node is a network, UTS, process id and mount namespace. Its eth0 is a veth pair to a bridge in
the namespace of the login node, where slurmctld runs: nothing of it is in the machine's own
network, and it is gone with the last process. The file system is shared, but for one directory.
"""

import os
import subprocess

from cluster import Cluster, which
from machine import Machine

_LOGIN = "10.0.0.254"
_LOGIN_NETWORK = f"""\
ip link add br0 type bridge
ip address add {_LOGIN}/24 dev br0
ip link set br0 up
ip link set lo up
"""
# A fixed MAC address, since the other nodes remember it when a node is started again.
_NETWORK = """\
ip link add eth0 address 02:00:00:00:00:{number:02x} type veth peer name {link} netns {login}
ip address add {address}/24 dev eth0
ip link set eth0 up
ip link set lo up
nsenter --net=/proc/{login}/ns/net ip link set {link} master br0 up
"""
_SYSTEM = """\
hostname {name}
mount --bind {folder}/{name}.hosts /etc/hosts
[ ! -e /etc/nsswitch.conf ] || mount --bind {folder}/nsswitch.conf /etc/nsswitch.conf
mount -t tmpfs none {folder}/local
"""


def missing():
    """Why this machine has no such clusters: what it lacks, and how to get it; "" where it has."""
    if which("ip") is None:
        return "ip is missing: apt-get install iproute2"
    if os.geteuid() != 0:
        return "namespaces need root: run pytest as root"
    namespaces = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run(
        [*namespaces, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "n1"],
        check=False,
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        return (
            f"this machine makes no namespace with a veth pair ({tried.stderr.strip()}):"
            " docker run --cap-add=SYS_ADMIN --cap-add=NET_ADMIN --security-opt"
            " apparmor=unconfined, or a virtual machine"
        )
    return ""


class IsolatedCluster(Cluster):
    """A `Cluster` of nodes that are apart. Needs root; see `missing`.

    The login node is ``login``, 10.0.0.254; the nodes are 10.0.0.1 and on. All resolve on all.
    """

    def __enter__(self):
        for _ in range(4):
            try:
                return super().__enter__()
            except RuntimeError:
                # A fault of util-linux 2.38: `unshare --fork` fails so once in some ten times.
                logs = list(self.folder.glob("*.log"))
                if not any("sigprocmask unblock failed" in log.read_text() for log in logs):
                    raise
                for log in logs:
                    log.unlink()
        return super().__enter__()

    @property
    def local(self):
        """A directory that each node has for itself, in memory."""
        return self.folder / "local"

    def login(self, cwd=None):
        namespaces = ["nsenter", f"--target={self._controller.pid}", "--net", "--uts", "--mount"]
        return [*namespaces, *super().login(cwd)]

    def address(self, node):
        """The one address that a node can be reached at by the others."""
        return f"10.0.0.{self.names.index(node) + 1}"

    def set_hosts(self, node, **addresses):
        """Writes /etc/hosts of a node (or of ``login``), also while it runs.

        Names are as they should be except those given: ``n2=None`` does not resolve, and
        ``n1="127.0.1.1"`` on n1 is how Debian's installer leaves a machine.
        """
        names = {"localhost": "127.0.0.1", "login": _LOGIN}
        names |= {name: self.address(name) for name in self.names} | addresses
        lines = (f"{address} {name}\n" for name, address in names.items() if address)
        self.folder.joinpath(f"{node}.hosts").write_text("".join(lines))

    def cut_off(self, node):
        """Pulls the node's plug from the network: what others send to it is lost without a word."""
        login = f"--net=/proc/{self._controller.pid}/ns/net"
        subprocess.run(
            ["nsenter", login, "ip", "link", "set", self._links[node], "down"], check=True
        )

    def _addresses(self):
        nodes = ((name, self.address(name), 6818) for name in self.names)
        return [("login", _LOGIN, 6817), *nodes]

    def _write(self):
        super()._write()
        self._links = {}
        self._started = 0
        self.local.mkdir()
        for name in ("login", *self.names):
            self.set_hosts(name)
        # No DNS, which would take its time to say that it cannot be reached.
        sources = "passwd: files\ngroup: files\nhosts: files\n"
        self.folder.joinpath("nsswitch.conf").write_text(sources)

    def _machine(self, name):
        kind = self._kind(name)
        apart = ["unshare", "--net", "sh", "-ec"]
        inside = ["unshare", "--mount", "--uts"]
        if name == "controller":
            name, network = "login", _LOGIN_NETWORK
        else:
            # Another name each time: the kernel removes the pair of a lost node when it likes.
            self._started += 1
            self._links[name] = f"veth{self._started}"
            network = _NETWORK.format(
                number=self.names.index(name) + 1,
                link=self._links[name],
                login=self._controller.pid,
                address=self.address(name),
            )
            inside += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        system = _SYSTEM.format(name=name, folder=self.folder)
        prefix = [*apart, f'{network}exec "$@"', "sh"]
        prefix += [*inside, "sh", "-ec", f'{system}exec "$@"', "sh"]
        made = Machine(self.folder / f"{name}.log", self.env, prefix, kind)
        if name == "login":
            made.wait()
        return made
