"""Changed objects in packs of a limited size, and the condition under which their gaps may be taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import MessageVersion, ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.wire.messages import Objects
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.ids import COUNTER_MAX

PACK_BYTES_MAX = 300 << 10  # DOMAIN.md "Schedule": small items are packed together up to this
PACK_COUNT_MAX = 500
OBJECT_BYTES = 200  # what a change takes beside its content, about


def pair_of(replica: Replica, folder: ObjectId, numbers: CNSet) -> Pair:
    """The pair of a message to several replicas, with `numbers` as its gaps.

    Its condition is over all objects that may have replaced what had these numbers, since each receiver lacks
    something else: it subtracts what it has. Such an object is found by a number of the same origin that is
    no lower; so the condition does not grow with the folder.
    """
    knowledge, bearing = replica.state(folder).knowledge, CNSet()
    gone = knowledge.purged | knowledge.expired
    for origin in numbers.origins():
        first = ChangeNumber(origin, numbers.ranges(origin)[0][0])
        bearing |= replica.objects.entries_from(folder, first)
        bearing |= gone & CNSet.of_range(origin, first.counter, COUNTER_MAX)
    return Pair(numbers, bearing)


def required(replica: Replica, folder: ObjectId) -> CNSet:
    """All numbers that somebody must hold before a gap of this store's is one of theirs.

    Those of objects here, of tombstones that were purged, and of what was expired: another store may have it.
    """
    knowledge = replica.state(folder).knowledge
    return replica.objects.entries(folder) | knowledge.purged | knowledge.expired


def packs(
    replica: Replica, folder: ObjectId, found: Iterable[ObjectId], limit_bytes: int = PACK_BYTES_MAX
) -> Iterator[Objects]:
    """The objects in packs of at most `limit_bytes`; a larger one alone. At least one, which may be empty."""
    pack: list[tuple[ObjectId, Versions[Any]]] = []
    pack_bytes = 0
    for object_id in found:
        versions = replica.objects.get(folder, object_id)
        if versions is None:
            continue
        object_bytes = bytes_of(versions)
        if pack and (pack_bytes + object_bytes > limit_bytes or len(pack) >= PACK_COUNT_MAX):
            yield tuple(pack)
            pack, pack_bytes = [], 0
        pack.append((object_id, versions))
        pack_bytes += object_bytes
    yield tuple(pack)


def bytes_of(versions: Versions[Any]) -> int:
    """About how many bytes an object takes in a message, its contents before compression."""
    contents = {
        version.content: version.size_bytes
        for version in versions.siblings.values()
        if isinstance(version, MessageVersion)
    }
    return OBJECT_BYTES * max(1, len(versions.siblings)) + sum(contents.values())
