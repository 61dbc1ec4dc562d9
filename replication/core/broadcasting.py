"""Changes made here, sent to all other replicas: when, and what."""

from __future__ import annotations

from pillarbox.replication.core import cycles, outbox, too_large
from pillarbox.replication.core.packing import packs, pair_of
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, FolderState
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import Changes
from pillarbox.store.change_number import CNSet


def due_ms(replica: Replica, folder: ObjectId, state: FolderState) -> int:
    """The time at which changes made here are sent; `NEVER_MS` when there are none."""
    if state.unsent_since_ms == NEVER_MS or replica.is_held_back(folder):
        return NEVER_MS
    return cycles.next_ms(replica, folder, _delayed_ms(replica, folder, state), state.broadcast_ms)


def _delayed_ms(replica: Replica, folder: ObjectId, state: FolderState) -> int:
    """The time at which changes are sent by the delays of the preset alone."""
    preset = replica.preset
    if folder == replica.tree.hierarchy and preset.broadcast_burst_ms == 0:
        return state.broadcast_ms + preset.hierarchy_interval_ms
    if state.changed_ms - state.burst_since_ms >= preset.broadcast_burst_ms:
        return state.broadcast_ms + preset.broadcast_interval_ms
    return min(
        state.changed_ms + preset.broadcast_quiet_ms, state.unsent_since_ms + preset.broadcast_latest_ms
    )


def broadcast(replica: Replica, folder: ObjectId) -> None:
    """Send the changes that were made here and not sent yet: to the replicas of this site at once, and by the
    outbox one copy to each neighbour site.
    """
    state = replica.state(folder)
    new = CNSet.of_range(replica.me.origin, state.broadcast_to + 1, max(state.own_last, state.broadcast_to))
    new &= state.knowledge.known
    state.broadcast_to = max(state.own_last, state.broadcast_to)
    state.unsent_since_ms, state.broadcast_ms = NEVER_MS, replica.now_ms
    if not new:
        return
    outbox.mark(replica, folder, new)
    mates = replica.mates(folder)
    pair = pair_of(replica, folder, new)
    found = too_large.sendable(replica, folder, replica.objects.found(folder, new)) if mates else []
    for objects in packs(replica, folder, found) if mates else ():
        changes = Changes(objects, pair)  # one for all: a node packs it once
        for mate in mates:
            replica.send(mate, folder, changes)
