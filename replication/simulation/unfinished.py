"""Invariant of peace: nothing is asked for, under way, kept for somebody or in doubt for ever."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pillarbox.replication.core import outbox
from pillarbox.replication.core.line import Kind
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import FolderState
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation import opening
from pillarbox.replication.wire.messages import Bundle, Class, RestSums


def unfinished(replica: Replica) -> Iterator[str]:
    """All that a store still waits for, or keeps for others.

    Not so what waits for a connector's schedule. Nor gaps, and questions which versions are deleted, that
    wait for numbers: they cost nothing, and who had these may be gone, or back at an earlier state.
    """
    if replica.waiting is not None:
        yield "a hello is not complete"
    if replica.kept_back:
        yield "messages are kept back"
    for site, copies in replica.record.passing.items():
        if _lasting(copy.bundle for copy in copies.values()) and not opening.is_shut(
            replica.organisation, replica.site, site, replica.wall_ms
        ):
            yield f"copies are kept for {site}"
    for line in outbox.open_lines(replica):
        site = line.site
        if _lasting(flight.bundle for flight in line.flights.values()):
            yield f"bundles to {site} have no receipt"
        if any(item.kind is not Kind.REST for of in Class for item in line.turns.waiting(of)):
            yield f"something waits for its turn to {site}"
    for folder, state in replica.record.folders.items():
        if state.is_held:
            for what in _of_folder(replica, folder, state):
                yield f"folder {folder.counter}: {what}"


def _lasting(bundles: Iterable[Bundle]) -> bool:
    """True when any bundle is not of a round at rest, one of which may be under way at any time."""
    return any(not isinstance(message.body, RestSums) for bundle in bundles for message in bundle.messages)


def _of_folder(replica: Replica, folder: ObjectId, state: FolderState) -> Iterator[str]:
    if state.entries or state.awaited:
        yield "something is asked for"
    if not replica.is_live(folder):
        return  # of a folder that is deleted nobody is asked any more, and what is not known of it stays so
    if state.marks:
        yield "a site did not take changes"
    if any(row.is_doubted for row in state.rows.values()):
        yield "a store is in doubt"
    if any(due_ms > replica.now_ms for due_ms in state.reconciling.values()):
        yield "it waits for the answer to a question"
    if any(until_ms > replica.now_ms for _, until_ms in state.fetched_by.values()):
        yield "a mate fetches"
