"""Sites on one machine: a network namespace for each node and each site, and links between the sites.

Nodes of a site are at one bridge; a link is a pair of interfaces between the bridges of two sites. Its rate
is held by tc's token buckets, and what crossed it is what its interfaces counted, with all headers. It has no
delay: not every kernel has netem.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

FRAME_BYTES: Final = 1514
_QUEUE: Final = "200ms"  # what may wait for its turn on a link, as in an ordinary router


def why_not() -> str:
    """Say why there can be no namespaces here; nothing where there can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root alone"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "ip and tc are not installed (Debian: iproute2)"
    probe = f"pillarbox-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"this system makes no network namespaces: {made.stderr.strip()}"
    _run("ip", "netns", "del", probe)
    return ""


class Link:
    """A pair of interfaces that joins two sites."""

    def __init__(self, one: str, other: str) -> None:
        """`one` and `other` are namespaces of sites."""
        self.ends = ((one, f"to-{other[-6:]}"), (other, f"to-{one[-6:]}"))

    def shape(self, bits_per_second: int) -> None:
        """Let so many bits through in each direction, from now on."""
        burst = str(max(4 * FRAME_BYTES, bits_per_second // 8 // 100))
        for namespace, device in self.ends:
            rate = ["rate", f"{bits_per_second}bit", "burst", burst, "latency", _QUEUE]
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", *rate)

    def cut(self) -> None:
        """Let nothing through; both ends go on believing that somebody may be there."""
        self._set("down")

    def heal(self) -> None:
        """Let all through again."""
        self._set("up")

    def sent_bytes(self) -> tuple[int, int]:
        """The bytes that left by the interface of each end."""
        one, other = (_counted(*end) for end in self.ends)
        return one, other

    def _set(self, state: str) -> None:
        namespace, device = self.ends[0]
        _run("ip", "-n", namespace, "link", "set", device, state)


def _counted(namespace: str, device: str) -> int:
    path = f"/sys/class/net/{device}/statistics/tx_bytes"
    return int(_run("ip", "netns", "exec", namespace, "cat", path))


class Network:
    """The namespaces of one run. Leaves none behind.

    Packets leave no larger than they cross a link, so that interfaces count each with its headers. With
    `has_large_packets` the kernel passes many at once instead, as it does with a network card that cuts them.
    """

    def __init__(self, *, has_large_packets: bool = False) -> None:
        self._has_large_packets = has_large_packets
        self._prefix = f"pillarbox-{os.getpid()}-"
        self._namespaces: list[str] = []
        self._sites: dict[str, str] = {}

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], check=False)

    def add_node(self, name: str, site: str) -> tuple[str, str]:
        """A namespace for a node at the bridge of its site; its name and address."""
        at = self._sites.get(site) or self._add_site(site)
        namespace, device = self._add(name), f"node-{name[-8:]}"
        _run("ip", "link", "add", device, "netns", at, "type", "veth", "peer", "eth0", "netns", namespace)
        _run("ip", "-n", at, "link", "set", device, "master", "bridge", "up")
        one_by_one = () if self._has_large_packets else ("gso_max_segs", "1")
        _run("ip", "-n", namespace, "link", "set", "eth0", *one_by_one, "up")
        number = len(self._namespaces)
        address = f"10.77.{number // 250}.{number % 250 + 1}"
        _run("ip", "-n", namespace, "address", "add", f"{address}/16", "dev", "eth0")
        return namespace, address

    def join(self, one: str, other: str) -> Link:
        """A link between two sites, as fast as can be until it is shaped."""
        link = Link(*(self._sites.get(site) or self._add_site(site) for site in (one, other)))
        (here, device), (there, peer) = link.ends
        _run("ip", "link", "add", device, "netns", here, "type", "veth", "peer", peer, "netns", there)
        for namespace, each in link.ends:
            _run("ip", "-n", namespace, "link", "set", each, "master", "bridge", "up")
        return link

    def _add_site(self, site: str) -> str:
        namespace = self._sites[site] = self._add(f"site-{site}")
        _run("ip", "-n", namespace, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", namespace, "link", "set", "bridge", "up")
        return namespace

    def _add(self, name: str) -> str:
        namespace = self._prefix + name
        _run("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        return namespace


def inside(namespace: str, command: Sequence[str]) -> list[str]:
    """A command as it is run in a namespace, by the process that runs it."""
    return ["ip", "netns", "exec", namespace, *command]


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
