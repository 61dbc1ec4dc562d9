"""Answers to backfill requests, a page at a time."""

from __future__ import annotations

from dataclasses import replace

from pillarbox.replication.core import deletion, too_large
from pillarbox.replication.core.effects import Answer
from pillarbox.replication.core.packing import PACK_COUNT_MAX, packs, required
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import NOTHING, Pair
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import AnswerTo, BackfillRequest, Changes, Life, Message
from pillarbox.store.change_number import CNSet


def begin(replica: Replica, folder: ObjectId, asker: bytes, life: Life, request: BackfillRequest) -> None:
    """Take a request on: the node asks for its pages as the link takes them."""
    needed = request.needed & replica.state(folder).knowledge.known
    replica.effects.append(Answer(asker, folder, life, needed, request.had, needed))


def next_page(replica: Replica, answer: Answer) -> tuple[Message, Answer | None]:
    """The next message of an answer, and what is left of it.

    Each page states what is true when it is made, so changes made meanwhile do no harm. The last one gives
    the gaps, once for all pages, since what they require is read from the whole folder.
    """
    folder, knowledge = answer.folder, replica.state(answer.folder).knowledge
    limit = PACK_COUNT_MAX + 1 + len(too_large.among(replica, folder))
    found = too_large.sendable(replica, folder, replica.objects.found(folder, answer.left, limit))
    objects = next(packs(replica, folder, found))
    is_last = len(objects) == len(found)
    pair = _pair(replica, answer) if is_last else Pair(NOTHING, NOTHING)
    purged = knowledge.purged - answer.had
    if purged:
        purged -= deletion.cleared_unseen(replica, folder, answer.asker)
    changes = Changes(objects, pair, AnswerTo(answer.life, purged, is_last))
    sent = CNSet.of(number for _, versions in objects for number in versions.entries())
    left = None if is_last else replace(answer, left=answer.left - sent)
    return replica.message(answer.asker, folder, changes), left


def _pair(replica: Replica, answer: Answer) -> Pair:
    """The gaps among what was asked for. Their condition is over all that the asker lacks, not over what the
    answer carries: other sources may carry the rest.
    """
    known = replica.state(answer.folder).knowledge.known
    return Pair((answer.needed & known) - answer.had, conditions(replica, answer))


def conditions(replica: Replica, answer: Answer) -> CNSet:
    """The numbers that the asker must hold before it takes the gaps of an answer."""
    return required(replica, answer.folder) - answer.had
