"""Changes made here, sent to all other replicas: when, and what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, FolderState
from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import MessageVersion, ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.wire.messages import Changes, Objects
from pillarbox.store.change_number import CNSet

PACK_BYTES_MAX = 300 << 10  # DOMAIN.md "Schedule": small items are packed together up to this
PACK_COUNT_MAX = 500
OBJECT_BYTES = 200  # what a change takes beside its content, about


def due_ms(replica: Replica, folder: ObjectId, state: FolderState) -> int:
    """The time at which changes made here are sent; `NEVER_MS` when there are none."""
    if state.unsent_since_ms == NEVER_MS:
        return NEVER_MS
    preset = replica.preset
    if folder == replica.tree.hierarchy and preset.broadcast_burst_ms == 0:
        return state.broadcast_ms + preset.hierarchy_interval_ms
    if state.changed_ms - state.burst_since_ms >= preset.broadcast_burst_ms:
        return state.broadcast_ms + preset.broadcast_interval_ms
    return min(
        state.changed_ms + preset.broadcast_quiet_ms, state.unsent_since_ms + preset.broadcast_latest_ms
    )


def broadcast(replica: Replica, folder: ObjectId) -> None:
    """Send the changes that were made here and not sent yet to all other replicas.

    The pair's condition is over all objects, since each receiver lacks something else: it subtracts what it
    has.
    """
    state = replica.state(folder)
    new = CNSet.of_range(replica.me.origin, state.broadcast_to + 1, max(state.own_last, state.broadcast_to))
    new &= state.knowledge.known
    state.broadcast_to = max(state.own_last, state.broadcast_to)
    if replica.now_ms - state.broadcast_ms > 2 * replica.preset.broadcast_interval_ms:
        state.burst_since_ms = state.unsent_since_ms
    state.unsent_since_ms, state.broadcast_ms = NEVER_MS, replica.now_ms
    if not new:
        return
    pair = Pair(new, required(replica, folder))
    found = replica.objects.found(folder, new)
    for objects in packs(replica, folder, found):
        for peer in replica.peers(folder):
            replica.send(peer, folder, Changes(objects, pair))


def required(replica: Replica, folder: ObjectId) -> CNSet:
    """All numbers that somebody must hold before a gap of this store's is one of theirs.

    Those of objects here, of tombstones that were purged, and of what was expired: another store may have it.
    """
    knowledge = replica.state(folder).knowledge
    return replica.objects.entries(folder) | knowledge.purged | knowledge.expired


def packs(replica: Replica, folder: ObjectId, found: list[ObjectId]) -> Iterator[Objects]:
    """The objects in packs of at most `PACK_BYTES_MAX`; a larger one alone. At least one, which may be
    empty."""
    pack: list[tuple[ObjectId, Versions[Any]]] = []
    pack_bytes = 0
    for object_id in found:
        versions = replica.objects.get(folder, object_id)
        if versions is None:
            continue
        object_bytes = bytes_of(versions)
        if pack and (pack_bytes + object_bytes > PACK_BYTES_MAX or len(pack) >= PACK_COUNT_MAX):
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
