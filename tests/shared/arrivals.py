"""The node's side of a transport, for tests: keeps what it is told, and can be made to block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue

from pillarbox.replication.transports.transport import nothing

WAIT_S = 20
"""Longer than anything here takes; a test that waits as long has failed."""


class RecordedArrivals:
    """What a transport told, in order of telling."""

    def __init__(self) -> None:
        self.frames: Queue[tuple[bytes, bytes]] = Queue()
        self.links: Queue[tuple[bytes, bool]] = Queue()
        self.rooms: Queue[bytes] = Queue()
        self.entered: Queue[bytes] = Queue()
        self.gate = threading.Event()
        self.gate.set()
        self.settles = True
        self.unsettled: list[Callable[[], None]] = []

    def frame_came(self, peer: bytes, frame: bytes, settled: Callable[[], None] = nothing) -> None:
        self.entered.put(peer)
        assert self.gate.wait(WAIT_S)
        self.frames.put((peer, frame))
        if self.settles:
            settled()
        else:
            self.unsettled.append(settled)

    def link_changed(self, peer: bytes, is_up: bool) -> None:
        self.links.put((peer, is_up))

    def has_room(self, peer: bytes) -> None:
        self.rooms.put(peer)

    def next_frame(self) -> tuple[bytes, bytes]:
        return self.frames.get(timeout=WAIT_S)

    def next_link(self) -> tuple[bytes, bool]:
        return self.links.get(timeout=WAIT_S)

    def next_room(self) -> bytes:
        return self.rooms.get(timeout=WAIT_S)
