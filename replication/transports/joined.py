"""Several transports as one: each link uses the one that the organisation says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from pillarbox.replication.organisation.topology import TransportName
from pillarbox.replication.transports.transport import Arrivals, Members, Transport, nothing


class JoinedTransports:
    """Implements `Transport` over others, by the `transport` of each member. A link whose transport this
    server does not have stays down, and `refused` is told so.

    What comes by another transport is taken too: whoever has not heard yet that a link was given another one
    sends by that of before, and would say in vain all that it says meanwhile.
    """

    def __init__(
        self,
        transports: Mapping[TransportName, Transport],
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._transports = dict(transports)
        self._refused = refused
        self._missing: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._used: dict[bytes, TransportName] = {}
        self._standing: set[tuple[bytes, TransportName]] = set()
        self._arrivals: Arrivals | None = None

    def start(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        started: list[Transport] = []
        try:
            for name, transport in self._transports.items():
                transport.start(_ArrivalsBy(name, self, arrivals))
                started.append(transport)
        except BaseException:
            for transport in started:
                transport.close()
            raise

    def give(
        self, peer: bytes, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False
    ) -> bool:
        name = self._used.get(peer)
        return name is not None and self._transports[name].give(peer, frame, went, is_urgent)

    def members_changed(self, members: Members) -> None:
        self._use(
            {
                peer: member.transport
                for peer, member in members.items()
                if member.transport in self._transports
            }
        )
        missing = frozenset(
            f"the link to {member.name} is to use {member.transport}, which node.toml here does not name"
            for member in members.values()
            if member.transport not in self._transports
        )
        for reason in sorted(missing - self._missing):
            self._refused(reason)
        self._missing = missing
        for name, transport in self._transports.items():
            transport.members_changed(
                {
                    peer: member._replace(is_heard_only=member.transport is not name)
                    for peer, member in members.items()
                }
            )

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()

    def _use(self, used: dict[bytes, TransportName]) -> None:
        """Send to each peer by this transport; what was taken by another one counts as lost with its link."""
        with self._lock:
            before, self._used = self._used, used
            for peer in sorted(before.keys() | used.keys()):
                name_before, name = before.get(peer), used.get(peer)
                if name is not name_before:
                    self._tell(peer, name_before, is_up=False)
                    self._tell(peer, name, is_up=True)

    def _tell(self, peer: bytes, name: TransportName | None, *, is_up: bool) -> None:
        if name is not None and (peer, name) in self._standing and self._arrivals is not None:
            self._arrivals.link_changed(peer, is_up)

    def is_used(self, peer: bytes, name: TransportName) -> bool:
        """True when frames to a peer go by a transport."""
        return self._used.get(peer) is name

    def link_changed(self, peer: bytes, name: TransportName, is_up: bool) -> None:
        """A link stands, or no longer does: the node is told of those that it sends by."""
        with self._lock:
            (self._standing.add if is_up else self._standing.discard)((peer, name))
            if self.is_used(peer, name) and self._arrivals is not None:
                self._arrivals.link_changed(peer, is_up)


class _ArrivalsBy:
    """Implements `Arrivals` for one of the transports."""

    def __init__(self, name: TransportName, joined: JoinedTransports, arrivals: Arrivals) -> None:
        self._name = name
        self._joined = joined
        self._arrivals = arrivals
        self.frame_came = arrivals.frame_came

    def link_changed(self, peer: bytes, is_up: bool) -> None:
        self._joined.link_changed(peer, self._name, is_up)

    def has_room(self, peer: bytes) -> None:
        if self._joined.is_used(peer, self._name):
            self._arrivals.has_room(peer)
