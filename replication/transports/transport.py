"""The interface between a node and its transports.

A frame is opaque bytes, a store is named by its database GUID. A transport promises little: frames may be
lost and doubled, and come late or out of order, since receipts and backfill make up for it. It does promise
that a frame comes whole and unchanged from the member that it is said to come from, and that what waits is
bounded on both sides: `give` refuses beyond the outbox's bound, and a node that does not come back from
`frame_came` stops the sender.

Frames of one peer come in the order in which they were given as long as nothing goes wrong, but for urgent
ones: a status that comes before its changes is true and makes its receiver ask for what is on its way. Where
a store between the two is full, a frame that it refused comes behind later ones which it took.

A frame is settled once the store that it came to needs it no more: what it says is durable there, or it was
refused. A transport that stores frames keeps each until then, so that a node that is killed before gets it
again.

Beside frames and links there is one more call, `has_room`: a sender that was refused is told once when it is
worth trying again, so that nobody needs to ask in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol, TypeAlias

from pillarbox.replication.organisation.topology import TransportName
from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX

OUTBOX_BYTES_MAX: Final = 4 << 20
"""Bytes that wait in the outbox of one peer, unless a transport is made with another bound."""


class Member(NamedTuple):
    """A store that this one may exchange frames with.

    `addresses` are those on which it listens ("host:port"), none for one that only dials. `fingerprints` are
    SHA-256 of its certificates (DER): during a renewal two are good. `transport` is the one that the link
    to it uses. `sites` are the sites of this store and of that one. Of one that `is_heard_only` frames are
    taken, and nothing is begun to reach it: its link uses another transport, and it may not know that yet.
    """

    database: bytes
    name: str
    addresses: tuple[str, ...] = ()
    fingerprints: frozenset[bytes] = frozenset()
    transport: TransportName = TransportName.DIRECT
    sites: tuple[str, str] = ("", "")
    is_heard_only: bool = False


Members: TypeAlias = Mapping[bytes, Member]
"""The stores that a transport links to, by database GUID. Any other is refused, whatever it shows. A store's
own entry is passed over."""


def nothing() -> None:
    """Stands for `settled` of a frame that no transport keeps, and for `went` where nobody asks."""


class Arrivals(Protocol):
    """The node's side. Calls come one at a time from a thread of the transport, which is not the one that
    sends: while one of them blocks, the transport reads no more than its bounds allow and goes on sending.
    """

    def frame_came(self, peer: bytes, frame: bytes, settled: Callable[[], None] = nothing) -> None:
        """Take a frame of a member; returns when there is room for the next one.

        The node calls `settled` once the frame is settled: before or after this returns, from any thread, and
        not at all where it lets go of the frame.
        """
        ...

    def link_changed(self, peer: bytes, is_up: bool) -> None:
        """A link to a member stands, or no longer does.

        Told once at each change, before any frame that came over the link; a link begins as down. What was
        taken for a link that went down and has not arrived is lost.
        """
        ...

    def has_room(self, peer: bytes) -> None:
        """The outbox of a peer, which had refused a frame while the link was up, has room again."""
        ...


class Transport(Protocol):
    """Moves frames between this store and members. Every method may be called from any thread."""

    def start(self, arrivals: Arrivals) -> None:
        """Begin. Called once. Raises PillarboxError where it cannot, as for an address that is taken."""
        ...

    def give(
        self, peer: bytes, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False
    ) -> bool:
        """Take a frame into the outbox of a peer; never blocks. One that is urgent may pass others there.

        `went` is called once the frame has left: the connection has taken it, or it lies where the peer
        fetches it. It is called from any thread, must not block, and is not called for what is lost with its
        link.

        True says that it was taken, never that it arrives. False: the outbox is full (`has_room` follows), or
        there is no link. An empty outbox takes a frame of any size up to FRAME_BYTES_MAX, beyond which this
        raises ValueError.
        """
        ...

    def members_changed(self, members: Members) -> None:
        """Link to these members from now on, and hear them; links to others are closed. Before the first call
        there are none."""
        ...

    def close(self) -> None:
        """Stop. Waits for a call of `arrivals` that is under way, and makes none after it has returned, not
        even for links that go down: the node lets go of what blocks in `frame_came` before. Closing twice is
        harmless."""
        ...


def check_frame(frame: bytes) -> None:
    """Refuse a frame that no transport may carry: ValueError for one that is empty or too long."""
    if not 0 < len(frame) <= FRAME_BYTES_MAX:
        raise ValueError(f"a frame has 1 to {FRAME_BYTES_MAX} bytes, not {len(frame)}")
