"""Seeding: a replica takes what another store held at an earlier time, from a snapshot of that store.

The store of the snapshot answers as it would have answered then, a backfill request first and, where it had
purged what is not had here, the question which objects are deleted. So what is true of answers that come late
is true of these: nothing that was deleted comes back, and no gap is taken too early. But what it states of
itself is old: it changes no row, and nothing is sent to the store that it is a copy of.
"""

from __future__ import annotations

from typing import Final

from pillarbox.replication.core import applying, deletion, hierarchy
from pillarbox.replication.core.preset import MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    Changes,
    Message,
    ReconcileAnswer,
    ReconcileQuestion,
    Status,
)
from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import Refused

QUIET_MS: Final = MINUTE_MS
"""Others are asked for nothing so long after the last part of a seed: whoever brings it may have gone."""
_SNAPSHOT: Final = b"a snapshot"  # no store: in its place stands the source of gaps


def refuse_unfit(replica: Replica, offer: Message) -> None:
    """Refuse the store of a snapshot of which nothing may be taken. Raises Refused."""
    if replica.organisation.is_removed(offer.sender.database):
        raise Refused(
            "the snapshot is of a server that was removed from the organisation",
            hint="use a snapshot of a server that is in it, or `pillarbox recovery merge`",
        )
    if offer.sender.origin in replica.record.quarantined:
        raise Refused(
            "the snapshot is of one of two copies of a server that numbered their changes alike",
            hint="use a snapshot of another server",
        )


def request(replica: Replica, folder: ObjectId) -> Message:
    """Begin to seed a replica that this store holds: ask for all that is not had. From now on the others are
    not asked for it, until the seed is complete or does not go on.

    Raises Refused where this store holds no replica of the folder.
    """
    hierarchy.even_out(replica, set(replica.written))  # the list may have been changed just now
    state = replica.held(folder)
    if state is None:
        raise Refused("this server holds no replica of the folder", hint="add one: `pillarbox replica add`")
    state.seeds_until_ms = replica.now_ms + QUIET_MS
    replica.fired["seed"] += 1
    return replica.message(_SNAPSHOT, folder, BackfillRequest(NOTHING, state.knowledge.settled))


def take(replica: Replica, message: Message) -> Message | None:
    """Take one message of the store of a snapshot; what it is to be asked next, None for nothing.

    Raises as `refuse_unfit`.
    """
    refuse_unfit(replica, message)
    folder, body = message.folder, message.body
    if isinstance(body, Status) and body.numberings is not None:
        replica.learn_numberings(body.numberings)
    state = replica.held(folder)
    if state is None:
        return None
    state.seeds_until_ms = replica.now_ms + QUIET_MS
    question = None
    match body:
        case Changes(answer=answer) if answer is not None:
            applying.take_all(replica, folder, body.objects)
            if answer.life == replica.life(folder):
                applying.tell_gaps(replica, folder, _SNAPSHOT, body.pair)
            if answer.is_last:
                question = _question(replica, folder, answer.purged, body.pair.required)
        case ReconcileAnswer():
            deletion.apply_reconcile(replica, folder, _SNAPSHOT, message.statement, body)
            first = state.reconciles.pop(_SNAPSHOT, None)
            question = None if first is None else _question(replica, folder, body.purged, first)
    hierarchy.even_out(replica, [folder])
    if question is None and not (isinstance(body, Changes) and body.answer and not body.answer.is_last):
        state.seeds_until_ms = 0
    return question


def _question(replica: Replica, folder: ObjectId, purged: CNSet, required: CNSet) -> Message | None:
    """The question which objects are deleted, once all objects of the snapshot are held; None where nothing
    was purged there that is not had here."""
    state = replica.state(folder)
    had = state.knowledge.had | replica.assumed(folder)
    if not purged or not had.covers(required - purged):
        return None
    return replica.message(
        _SNAPSHOT, folder, ReconcileQuestion(deletion.sights(replica, folder), state.applied)
    )
