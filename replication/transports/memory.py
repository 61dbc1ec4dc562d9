"""A transport between stores of one process, for tests and trials of several nodes without a network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from pillarbox.replication.transports.bounded_queue import BoundedQueue
from pillarbox.replication.transports.transport import (
    OUTBOX_BYTES_MAX,
    Arrivals,
    Members,
    check_frame,
    nothing,
)

Link = tuple[bytes, bytes]


class MemoryNetwork:
    """Joins the transports that it makes. A link stands while both ends run and have each other as members,
    and it is not cut."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._transports: dict[bytes, MemoryTransport] = {}
        self._cut: set[frozenset[bytes]] = set()
        self._queues: dict[Link, BoundedQueue] = {}

    def transport(self, database: bytes, outbox_bytes_max: int = OUTBOX_BYTES_MAX) -> MemoryTransport:
        """A transport of a store."""
        return MemoryTransport(self, database, outbox_bytes_max)

    def cut(self, one: bytes, other: bytes) -> None:
        """Cut the link between two stores; what is under way is lost."""
        with self._changed:
            self._cut.add(frozenset((one, other)))
            self._follow()

    def mend(self, one: bytes, other: bytes) -> None:
        """Let two stores reach each other again."""
        with self._changed:
            self._cut.discard(frozenset((one, other)))
            self._follow()

    def _follow(self) -> None:
        """Bring the queues in line with the links that stand now."""
        standing = {
            (one, other)
            for one in self._transports
            for other in self._transports
            if one != other and frozenset((one, other)) not in self._cut
            if other in self._transports[one].members and one in self._transports[other].members
        }
        for sender, receiver in self._queues.keys() ^ standing:
            is_up = (sender, receiver) in standing
            if (transport := self._transports.get(sender)) is not None:
                transport.tell(partial(_link_changed, receiver, is_up))
            if is_up:
                bytes_max = self._transports[sender].outbox_bytes_max
                self._queues[sender, receiver] = BoundedQueue(bytes_max)
            else:
                del self._queues[sender, receiver]
        self._changed.notify_all()

    # -- for its transports

    def enter(self, transport: MemoryTransport) -> None:
        with self._changed:
            self._transports[transport.database] = transport
            self._follow()

    def leave(self, transport: MemoryTransport) -> None:
        with self._changed:
            if self._transports.get(transport.database) is transport:
                del self._transports[transport.database]
            self._follow()

    def set_members(self, transport: MemoryTransport, members: Members) -> None:
        with self._changed:
            transport.members = dict(members)
            self._follow()

    def put(
        self, sender: bytes, receiver: bytes, frame: bytes, went: Callable[[], None], is_urgent: bool
    ) -> bool:
        with self._changed:
            queue = self._queues.get((sender, receiver))
            is_taken = queue is not None and queue.put(frame, went, is_urgent)
            self._changed.notify_all()
            return is_taken

    def next_call(self, transport: MemoryTransport) -> Callable[[Arrivals], None] | None:
        """The next thing a transport is to tell; blocks until there is one, None when it was closed."""
        with self._changed:
            while self._transports.get(transport.database) is transport:
                if transport.calls:
                    return transport.calls.popleft()
                for (sender, receiver), queue in self._queues.items():
                    if receiver == transport.database and len(queue):
                        frame = queue.next()
                        if queue.took():
                            self._transports[sender].tell(partial(_has_room, receiver))
                            self._changed.notify_all()
                        self._queues[sender, receiver] = self._queues.pop((sender, receiver))  # in turns
                        return partial(_frame_came, sender, frame)
                self._changed.wait()
            return None


class MemoryTransport:
    """A transport of one store (`MemoryNetwork.transport`)."""

    def __init__(self, network: MemoryNetwork, database: bytes, outbox_bytes_max: int) -> None:
        self._network = network
        self.database = database
        self.outbox_bytes_max = outbox_bytes_max
        self.members: Members = {}
        self.calls: deque[Callable[[Arrivals], None]] = deque()
        self._thread: threading.Thread | None = None

    def start(self, arrivals: Arrivals) -> None:
        self._thread = threading.Thread(target=self._run, args=(arrivals,), name="memory transport")
        self._network.enter(self)
        self._thread.start()

    def give(
        self, peer: bytes, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False
    ) -> bool:
        check_frame(frame)
        return self._network.put(self.database, peer, frame, went, is_urgent)

    def members_changed(self, members: Members) -> None:
        self._network.set_members(self, members)

    def close(self) -> None:
        self._network.leave(self)
        if self._thread is not None:
            self._thread.join()

    def tell(self, call: Callable[[Arrivals], None]) -> None:
        """Tell the node something, in turn."""
        self.calls.append(call)

    def _run(self, arrivals: Arrivals) -> None:
        while (call := self._network.next_call(self)) is not None:
            call(arrivals)


def _frame_came(peer: bytes, frame: bytes, arrivals: Arrivals) -> None:
    arrivals.frame_came(peer, frame)


def _link_changed(peer: bytes, is_up: bool, arrivals: Arrivals) -> None:
    arrivals.link_changed(peer, is_up)


def _has_room(peer: bytes, arrivals: Arrivals) -> None:
    arrivals.has_room(peer)
