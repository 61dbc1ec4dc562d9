"""The time that changes take from the store that made them to this one, for the administrator."""

from __future__ import annotations

from typing import Final

from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import Message, Objects

_WEIGHT: Final = 8  # of what was known before, against one more message


def note(replica: Replica, message: Message, objects: Objects) -> None:
    """Count a broadcast in: the mean age of the changes in it that its sender made.

    By the two stores' clocks; one that is ahead makes them look younger, at the least new.
    """
    origin = message.sender.origin
    ages_ms = [
        max(0, replica.wall_ms - version.changed.time_ms)
        for _, versions in objects
        for number, version in versions.siblings.items()
        if number.origin == origin
    ]
    if ages_ms:
        mean_ms, key = sum(ages_ms) // len(ages_ms), (message.folder, message.sender.database)
        before_ms = replica.transit_ms.get(key, mean_ms)
        replica.transit_ms[key] = before_ms + (mean_ms - before_ms) // _WEIGHT


def average_ms(replica: Replica, folder: ObjectId, source: bytes) -> int | None:
    """The average time of late that changes of a folder took from a store, None when none came since the
    start."""
    return replica.transit_ms.get((folder, source))
