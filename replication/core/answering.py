"""Answers to backfill requests, a page at a time.

What is on its way over a link already is not put into another answer to the same site: who asked again since
a slow link has not brought it yet, or asks for what a site-mate is sent, would have it cross once more. It
asks again later, so nothing is lost by that. That is looked at for each page: requests of several mates may
have waited here for the hierarchy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pillarbox.replication.core import deletion, outbox, too_large
from pillarbox.replication.core.effects import Answer, AnswerKey
from pillarbox.replication.core.line import RECEIPT_MS, TAKEN_MS_MAX
from pillarbox.replication.core.packing import PACK_BYTES_MAX, PACK_COUNT_MAX, bytes_of, packs, required
from pillarbox.replication.core.preset import SECOND_MS
from pillarbox.replication.core.replica import Asked, Page, Replica
from pillarbox.replication.ground.knowledge import NOTHING, Pair
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import (
    AnswerTo,
    BackfillRequest,
    Changes,
    Message,
    Objects,
    Statement,
    StatusRequest,
)
from pillarbox.store.change_number import CNSet

REPEATED_MS: Final = 100_000
"""A request that comes within so long after a later one may have been on its way since before that."""


def begin(
    replica: Replica, folder: ObjectId, asker: bytes, statement: Statement, request: BackfillRequest
) -> None:
    """Take a request on: its pages take their turns on the line to the asker. While content is stopped none
    is: who still lacks something after that asks again.

    An asker that may not know of a deletion of the folder is asked what it has of the hierarchy: at rest
    nothing else would tell.
    """
    key = AnswerKey(asker, folder)
    if _came_late(replica, key, statement, request):
        replica.fired["request_late"] += 1
        return
    if deletion.cleared_unseen(replica, folder, asker):
        replica.send(asker, replica.tree.hierarchy, StatusRequest())
    is_stopped = folder != replica.tree.hierarchy and replica.is_content_stopped()
    if is_stopped or not request.needed:
        outbox.withdraw(replica, key)
        return
    needed = request.needed & replica.state(folder).knowledge.known
    if needed:
        coming = _on_its_way(replica, folder, asker) & needed
        replica.fired["answer_on_its_way"] += bool(coming)
        needed -= coming
    row = replica.state(folder).rows.get(asker)
    claimed = row.known if row else None
    outbox.answer(replica, Answer(asker, folder, statement.life, needed, request.had, needed, claimed))


def _came_late(replica: Replica, key: AnswerKey, statement: Statement, request: BackfillRequest) -> bool:
    """True when a request came twice over links, or after a later one: its answer would cross for nothing.

    One that came before a later one has nothing that is not asked for by that, or was had by then. An asker
    asks once more in vain later than anything is late. What it has once let go by age it may lack again.
    """
    if replica.organisation.servers[key.asker].site == replica.site or replica.is_held_back(key.folder):
        return False
    before = replica.asked_of_me.get(key)
    if before and before.until_ms > replica.now_ms and before.life == statement.life:
        lacks, had = request.needed - before.request.needed, before.request.had
        is_withdrawal = not request.needed and request.had == had
        if not is_withdrawal and had.covers(request.had) and (had - statement.expired).covers(lacks):
            return True
    replica.asked_of_me[key] = Asked(statement.life, request, replica.now_ms + REPEATED_MS)
    return False


def forget_asked(replica: Replica, asker: bytes) -> None:
    """Forget what a store asked for that begins anew, or to which a link was cut: its answers may be lost."""
    for key in [key for key in replica.asked_of_me if key.asker == asker]:
        del replica.asked_of_me[key]


def forget_late(replica: Replica) -> None:
    """Forget the requests of which none can come late any more."""
    asked, now_ms = replica.asked_of_me, replica.now_ms
    for key in [key for key, each in asked.items() if each.until_ms <= now_ms]:
        del asked[key]


def _on_its_way(replica: Replica, folder: ObjectId, asker: bytes) -> CNSet:
    """The numbers of a folder that go to the site of a store already, in an answer or by the outbox."""
    site = replica.organisation.servers[asker].site
    if site == replica.site:
        return NOTHING
    return outbox.on_its_way(replica, folder, site) | _in_pages(replica, folder, site)


def _in_pages(replica: Replica, folder: ObjectId, site: str) -> CNSet:
    """The numbers of a folder that go to another site in pages of answers."""
    coming = NOTHING
    if site != replica.site:
        for key in list(replica.pages):
            _forget_arrived(replica, key)
        servers = replica.organisation.servers
        for (asker, of_folder), pages in replica.pages.items():
            if of_folder == folder and servers[asker].site == site:
                for page in pages:
                    coming |= page.numbers
    return coming


def _forget_arrived(replica: Replica, key: AnswerKey) -> None:
    pages = [page for page in replica.pages.pop(key, ()) if page.until_ms > replica.now_ms]
    if pages:
        replica.pages[key] = pages


def page_taken(replica: Replica, key: AnswerKey, packed_bytes: int) -> None:
    """The link has taken the last page of an answer, and the next one takes its turn. Each page so far may be
    on its way as long again as that took, over other links."""
    pages = replica.pages.get(key, [])
    if pages:
        outbox.line_of(replica, key).note_packed(pages[-1].content_bytes, packed_bytes)
    if pages and pages[0].until_ms <= replica.now_ms:
        _forget_arrived(replica, key)
        pages = replica.pages.get(key, [])
    for count in reversed(range(len(pages))):
        page = pages[count]
        until_ms = replica.now_ms + max(RECEIPT_MS, replica.now_ms - page.made_ms)
        if page.until_ms <= until_ms:  # and so have all before it: they were taken before
            break
        pages[count] = page._replace(until_ms=until_ms)
    outbox.page_taken(replica, key)


def next_page(replica: Replica, answer: Answer) -> tuple[Message, Answer | None]:
    """The next message of an answer, and what is left of it.

    Each page states what is true when it is made, so changes made meanwhile do no harm. The last one gives
    the gaps, once for all pages, since what they require is read from the whole folder.
    """
    folder, knowledge = answer.folder, replica.state(answer.folder).knowledge
    wanted = answer.left - _had_meanwhile(replica, answer)
    server = replica.organisation.servers.get(answer.asker)  # none where a snapshot is read for another store
    coming = _in_pages(replica, folder, server.site) & wanted if server else NOTHING
    replica.fired["answer_on_its_way"] += bool(coming)
    wanted -= coming
    objects, is_last = _next_objects(replica, answer, wanted)
    pair = _pair(replica, answer) if is_last else Pair(NOTHING, NOTHING)
    purged = knowledge.purged - answer.had
    if purged:
        purged -= deletion.cleared_unseen(replica, folder, answer.asker)
    changes = Changes(objects, pair, AnswerTo(answer.life, purged, is_last))
    sent = CNSet.of(number for _, versions in objects for number in versions.entries())
    content_bytes = sum(bytes_of(versions) for _, versions in objects)
    _note_page(replica, answer.key, sent & wanted, content_bytes)
    left = None if is_last else replace(answer, left=wanted - sent, page_count=len(objects))
    return replica.message(answer.asker, folder, changes), left


def _note_page(replica: Replica, key: AnswerKey, numbers: CNSet, content_bytes: int) -> None:
    """Note a page that the link is to take, an empty one, too. Those of one second are noted as one: over a
    fast link hundreds are believed to be on their way, and each next page looks at them all."""
    pages, made_ms = replica.pages.setdefault(key, []), replica.now_ms
    if pages and made_ms - pages[-1].made_ms < SECOND_MS:
        before = pages.pop()
        numbers, made_ms = before.numbers | numbers, before.made_ms
    pages.append(Page(numbers, made_ms, replica.now_ms + TAKEN_MS_MAX, content_bytes))


def _next_objects(replica: Replica, answer: Answer, wanted: CNSet) -> tuple[Objects, bool]:
    """The objects of the next page, and whether it is the last one."""
    taken: list[ObjectId] = []
    found = _found(replica, answer, wanted, taken)
    room_bytes = int(PACK_BYTES_MAX / outbox.line_of(replica, answer.key).packed_part)
    objects = next(packs(replica, answer.folder, found, room_bytes))
    return objects, len(objects) == len(taken)


def _found(replica: Replica, answer: Answer, wanted: CNSet, taken: list[ObjectId]) -> Iterator[ObjectId]:
    """The objects that are wanted, each noted as `taken`. Not many more are found than a page holds of late,
    since finding them costs as much as sending them."""
    folder, count = answer.folder, answer.page_count
    aside = too_large.among(replica, folder)
    while True:
        count = min(2 * count, PACK_COUNT_MAX + 1)
        hits = replica.objects.found(folder, wanted, count + len(aside))
        for object_id in too_large.sendable(replica, folder, hits)[len(taken) :]:
            taken.append(object_id)
            yield object_id
        if len(hits) < count + len(aside) or count > PACK_COUNT_MAX:
            return


def _had_meanwhile(replica: Replica, answer: Answer) -> CNSet:
    """The numbers that the asker has said to know since it asked: they came by another way."""
    row = replica.state(answer.folder).rows.get(answer.asker)
    if row is None or answer.claimed is None or row.life != answer.life or row.is_doubted:
        return NOTHING
    return row.known - answer.claimed


def _pair(replica: Replica, answer: Answer) -> Pair:
    """The gaps among what was asked for. Their condition is over all that the asker lacks, not over what the
    answer carries: other sources may carry the rest.
    """
    known = replica.state(answer.folder).knowledge.known
    return Pair((answer.needed & known) - answer.had, conditions(replica, answer))


def conditions(replica: Replica, answer: Answer) -> CNSet:
    """The numbers that the asker must hold before it takes the gaps of an answer."""
    return required(replica, answer.folder) - answer.had
