"""Deliveries that wait: one of the threads that brought them makes them all, in one transaction.

Many threads that each prepare and commit a message spend half of their time on taking the interpreter from
each other. Here one works, the one that leads, and the others sleep until their message is durable.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.errors import PillarboxError


class Delivery:
    """A message for mailboxes (GUIDs), and what came of it: `items` or `error` once it is done."""

    def __init__(self, actor: Actor, mailboxes: Sequence[bytes], raw: bytes, received_ms: int) -> None:
        self.actor = actor
        self.mailboxes = mailboxes
        self.raw = raw
        self.received_ms = received_ms
        self.items: list[ItemRecord] | None = None
        self.error: Exception | None = None
        self.is_done = False
        self.is_next = False
        self.is_leader = False
        self._turn = threading.Lock()
        self._turn.acquire()

    def wait(self) -> None:
        """Return when it is done, or its thread is to lead."""
        self._turn.acquire()

    def wake(self) -> None:
        """Let its thread go on."""
        self._turn.release()

    def done(self) -> None:
        """Let its thread have what came of it."""
        self.is_done = True
        self.wake()

    def outcome(self) -> list[ItemRecord]:
        """The messages delivered. Raises what kept it from that."""
        if self.error is not None:
            raise self.error
        if self.items is None:
            raise PillarboxError(
                "the thread that made this delivery was interrupted",
                hint="look whether the message is there before you deliver it again",
            )
        return self.items


class DeliveryQueue:
    """The deliveries to one database that wait. At most one thread leads: it takes and makes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Delivery] = []
        self._is_led = False

    def leads(self, delivery: Delivery) -> bool:
        """Add a delivery; False once another thread has made it, True when this one is to lead."""
        with self._lock:
            self._waiting.append(delivery)
            if not self._is_led:
                self._is_led = delivery.is_leader = True
                return True
        try:
            delivery.wait()
        except BaseException:
            self._leave(delivery)
            raise
        delivery.is_leader = not delivery.is_done
        return delivery.is_leader

    def __len__(self) -> int:
        """How many wait and are not taken."""
        return len(self._waiting)

    def take(self, taken: list[Delivery]) -> list[Delivery]:
        """All that wait, which are also added to `taken`.

        For who leads: to make them, to let each know (`done`) and to hand the lead on.
        """
        with self._lock:
            came = self._waiting
            taken += came  # at once: were its thread interrupted here, they would wait for ever
            self._waiting = []
        return came

    def hand_on(self, delivery: Delivery) -> None:
        """Let the first of those that came meanwhile lead; `delivery` is that of who led."""
        with self._lock:
            if delivery in self._waiting:  # its thread was interrupted before it took any
                self._waiting.remove(delivery)
            self._appoint()

    def _appoint(self) -> None:
        self._is_led = bool(self._waiting)
        if self._is_led:
            self._waiting[0].is_next = True
            self._waiting[0].wake()

    def _leave(self, delivery: Delivery) -> None:
        """Its thread was interrupted. Once it was taken it is made nevertheless."""
        with self._lock:
            if delivery in self._waiting:
                self._waiting.remove(delivery)
                if delivery.is_next:
                    self._appoint()
