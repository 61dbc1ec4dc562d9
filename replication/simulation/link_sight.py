"""Transports that see links fall and come back: some machines are told of stores that cannot be reached."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from pillarbox.replication.simulation.machine import Machine

TOLD_SHARE = 0.5  # of the machines; the others see by receipts alone
LATEST_MS = 20_000  # by which a transport sees that a connection stands no more, or stands again

At = Callable[[int, Callable[[], None]], None]
Tell = Callable[[Machine, bytes, bool], None]
IsReachable = Callable[[bytes, bytes], bool]


class LinkSight:
    """Lets machines look at their connections, each some time after something changed.

    It has a random source of its own, so that a run is the same but for what follows from it.
    """

    def __init__(self, rng: random.Random, at: At, tell: Tell, is_reachable: IsReachable) -> None:
        self._rng, self._at, self._tell, self._is_reachable = rng, at, tell, is_reachable
        self._sees: dict[bytes, bool] = {}

    def changed(self, machines: Iterable[Machine], time_ms: int) -> None:
        """Something changes at a time: machines that see links look soon after."""
        for machine in machines:
            if self._sees.setdefault(machine.database, self._rng.random() < TOLD_SHARE):
                look_ms = time_ms + self._rng.randint(0, LATEST_MS)
                self._at(look_ms, lambda machine=machine: self._look(machine))  # type: ignore[misc]

    def _look(self, machine: Machine) -> None:
        replica = machine.replicator.replica
        for other in replica.organisation.others(machine.database):
            is_up = self._is_reachable(machine.database, other)
            if is_up == (other in replica.unreachable):
                self._tell(machine, other, is_up)
