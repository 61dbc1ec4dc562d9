"""Statuses: what this store has of a folder, told after changes, at rest, and when asked."""

from __future__ import annotations

from dataclasses import replace

from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, FolderState
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import Acknowledgement, StatusRequest


def due_ms(replica: Replica, state: FolderState) -> int:
    """The time of the next status to all other replicas of a folder."""
    preset = replica.preset
    at_rest_ms = state.stated_ms + preset.status_rest_ms
    if state.unstated_since_ms == NEVER_MS:
        return at_rest_ms
    return min(
        at_rest_ms,
        state.news_ms + preset.status_quiet_ms,
        state.unstated_since_ms + preset.status_latest_ms,
    )


def tell_all(replica: Replica, folder: ObjectId) -> None:
    """Send a status to all other replicas."""
    state = replica.state(folder)
    state.unstated_since_ms, state.stated_ms = NEVER_MS, replica.now_ms
    for peer in replica.peers(folder):
        tell(replica, folder, peer)


def tell(
    replica: Replica, folder: ObjectId, peer: bytes, acknowledgement: Acknowledgement | None = None
) -> None:
    """Send a status to one store. It causes no status."""
    replica.send(peer, folder, replace(replica.status(folder), acknowledgement=acknowledgement))


def ask_awaited(replica: Replica, folder: ObjectId) -> None:
    """Ask the stores that did not answer yet for their status; repeated until they do.

    One request that was lost once left a hierarchy that never came.
    """
    state = replica.state(folder)
    for peer in sorted(state.awaited):
        replica.send(peer, folder, StatusRequest())
    waits = replica.preset.first_retry.same_site_ms
    state.await_due_ms = replica.now_ms + waits if state.awaited else NEVER_MS
