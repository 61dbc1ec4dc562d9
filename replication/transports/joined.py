"""Several transports as one: each link uses the one that the organisation says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pillarbox.replication.organisation.topology import TransportName
from pillarbox.replication.transports.transport import Arrivals, Members, Transport, nothing


class JoinedTransports:
    """Implements `Transport` over others, by the `transport` of each member. A link whose transport this
    server does not have stays down, and `refused` is told so."""

    def __init__(
        self,
        transports: Mapping[TransportName, Transport],
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._transports = dict(transports)
        self._refused = refused
        self._used: dict[bytes, Transport] = {}
        self._missing: frozenset[str] = frozenset()

    def start(self, arrivals: Arrivals) -> None:
        started = []
        try:
            for transport in self._transports.values():
                transport.start(arrivals)
                started.append(transport)
        except BaseException:
            for transport in started:
                transport.close()
            raise

    def give(
        self, peer: bytes, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False
    ) -> bool:
        transport = self._used.get(peer)
        return transport is not None and transport.give(peer, frame, went, is_urgent)

    def members_changed(self, members: Members) -> None:
        self._used = {
            peer: self._transports[member.transport]
            for peer, member in members.items()
            if member.transport in self._transports
        }
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
                {peer: member for peer, member in members.items() if member.transport is name}
            )

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()
