"""Deletes stay deleted by knowledge: when a tombstone may go, and what a store does that missed it."""

from __future__ import annotations

from typing import Any

from pillarbox.replication.core import hierarchy, mates, setting_aside, too_large
from pillarbox.replication.core.applying import store_or_bury, take_all
from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, FolderState, Row
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import FolderVersion, ObjectId
from pillarbox.replication.ground.versions import Sight, Versions
from pillarbox.replication.wire.messages import ReconcileAnswer, ReconcileQuestion, Statement
from pillarbox.store.change_number import ChangeNumber, CNSet


def purge(replica: Replica, folder: ObjectId) -> int:
    """Purge the tombstones that no living replica needs any more; how many.

    All other replicas of the list hold the tombstone's numbers, or were silent for long, and no number below
    its context is missing here. Their numbers are kept as purged: a store that lacks one reconciles. While
    some are left the folder is looked at again after the interval, else when something changes in it.
    """
    state, purged_count, left_count = replica.state(folder), 0, 0
    state.purge_due_ms = NEVER_MS
    for object_id in replica.objects.ids(folder):
        versions = replica.objects.get(folder, object_id)
        if versions is None or versions.live() or is_kept_for_ever(versions):
            continue
        left_count += 1
        if not is_known_to_all(replica, state, versions):
            continue
        holes = versions.holes(state.knowledge.had)
        closed = closed_holes(replica, state, holes) if holes else holes
        if not closed.covers(holes):
            continue
        if closed:
            state.knowledge.claim(closed)
            replica.report(Notice.HOLE_CLOSED, folder, closed)
        # A bare context is no deletion: its versions went by numbers that are purged already.
        if versions.siblings:
            state.knowledge.purged |= CNSet.of(versions.entries())
        replica.objects.remove(folder, object_id)
        if folder == replica.tree.hierarchy:
            hierarchy.match_rows(replica, object_id)
        replica.fired["purge"] += 1
        purged_count += 1
    if left_count > purged_count:
        state.look_for_tombstones(replica.now_ms, replica.preset.purge_interval_ms)
    return purged_count


def is_kept_for_ever(versions: Versions[Any]) -> bool:
    """True when a tombstone is a folder's.

    An unseen rename, from a copy that was restored, may bring the folder back at any time. Without the
    tombstone nobody would know then which content is deleted, and any store that holds some would give it to
    all others. And a later change by the store that deleted the folder would have seen the deletion by its
    number, without what that replaced: an old version from another such copy would stay beside it.
    """
    return any(isinstance(each, FolderVersion) and each.gone for each in versions.siblings.values())


def is_known_to_all(replica: Replica, state: FolderState, versions: Versions[Any]) -> bool:
    """True when every other replica that is not silent for long holds the tombstone's numbers."""
    numbers = CNSet.of(versions.siblings or versions.entries())
    return all(row.known.covers(numbers) or is_silent(replica, peer, row) for peer, row in state.rows.items())


def is_silent(replica: Replica, peer: bytes, row: Row) -> bool:
    """True when a replica was not heard for so long that tombstones no longer wait for it.

    At rest nothing is said of a folder, and its store is heard all the same.
    """
    is_long = replica.wall_ms - row.heard_ms >= replica.preset.silent_ms_max
    return is_long and not mates.is_heard(replica, peer)


def closed_holes(replica: Replica, state: FolderState, holes: CNSet) -> CNSet:
    """The holes that nobody will fill: no row has them, and their owner left them out or numbers anew.

    None, while another replica was not heard of yet or is asked what it has: it may have them.
    """
    if state.awaited or not all(row.is_heard() for row in state.rows.values()):
        return NOTHING
    held = CNSet()
    for row in state.rows.values():
        held |= row.had
    open_holes = holes - held
    closed = open_holes & replica.record.left_out
    for origin in open_holes.origins():
        if _is_closed(replica, state, origin) and _is_list_whole(replica, state, origin):
            closed |= open_holes.of_origin(origin)
    return closed


def _is_list_whole(replica: Replica, state: FolderState, origin: bytes) -> bool:
    """True when no store that is not on the replica list here can hold what an ended origin gave.

    One that was added where this store did not hear of it would know of that in the hierarchy. Since the
    origin's end was noticed here all stores of the tree were there for two rounds at rest, in which they
    would have differed. One that is gone for good is waited for until it is removed: that it is silent for
    long may be this store's clock.
    """
    hierarchy = replica.record.folders.get(replica.tree.hierarchy)
    if (
        hierarchy is None
        or hierarchy.awaited
        or hierarchy.entries
        or not all(mates.is_up(replica, peer) for peer in hierarchy.rows)
    ):
        state.closable_since_ms.pop(origin, None)
        return False
    since_ms = state.closable_since_ms.setdefault(origin, replica.now_ms)
    return replica.now_ms - since_ms > mates.two_rounds_ms(replica)


def _is_closed(replica: Replica, state: FolderState, origin: bytes) -> bool:
    """True when an origin gives no more numbers: its store was removed, or said something in a later
    incarnation."""
    owner = replica.record.owners.get(origin)
    if owner is None:
        return False
    database, incarnation = owner
    if replica.organisation.is_removed(database):
        return True
    if database == replica.me.database:
        return incarnation < replica.me.incarnation
    row = state.rows.get(database)
    return row is not None and incarnation < row.life.incarnation


def ask_to_reconcile(replica: Replica, folder: ObjectId) -> None:
    """Ask each store that purged what this one lacks which of the versions held here are deleted.

    First all of the store's objects must have come: the answer makes all that the store knows known here, and
    so keeps away versions that arrive later from a store which missed the delete too.
    """
    state = replica.state(folder)
    for source, first in list(state.reconciles.items()):
        if (state.knowledge.had | replica.assumed(folder)).covers(first):
            del state.reconciles[source]
            _ask(replica, folder, source)


def _ask(replica: Replica, folder: ObjectId, source: bytes) -> None:
    """Ask, but not again before the first retry's delay: each answer to a backfill request would."""
    state = replica.state(folder)
    if replica.now_ms < state.reconciling.get(source, 0):
        return
    state.reconciling[source] = replica.now_ms + replica.preset.first_retry.same_site_ms
    replica.send(source, folder, ReconcileQuestion(sights(replica, folder), state.applied))


def sights(replica: Replica, folder: ObjectId) -> dict[ObjectId, Sight]:
    """The versions of each object that is held here, by their numbers, and of those that were let go by age.

    A store that knew of these only that it had let them go would tell others, of which one holds them, that
    it has all of the deletions, and not that these are deleted.
    """
    held = {
        object_id: Sight.of(versions)
        for object_id in replica.objects.ids(folder)
        if (versions := replica.objects.get(folder, object_id))
    }
    state = replica.state(folder)
    for object_id in state.expired_objects:
        if expired := _let_go(state, object_id):
            sight = held.get(object_id, Sight({}, frozenset()))
            held[object_id] = sight._replace(numbers=sight.numbers | expired)
    return held


def _let_go(state: FolderState, object_id: ObjectId) -> frozenset[ChangeNumber]:
    """The numbers of an object that were let go by age and are not held again."""
    numbers = state.expired_objects.get(object_id, frozenset())
    return frozenset(number for number in numbers if number in state.knowledge.expired)


def answer_reconcile(
    replica: Replica, folder: ObjectId, asker: bytes, life: Any, question: ReconcileQuestion
) -> None:
    """Tell an asker which of its versions are gone: held by it, known here, and not among the versions here.

    An object that lives here in another version goes with the answer: dropped first and fetched later it
    could be lost. What was expired here is not gone. There is no answer while the asker may not know what
    a deletion of the folder cleared here: it lacks something still, and asks again.
    """
    if cleared_unseen(replica, folder, asker):
        return
    state, gone, objects = replica.state(folder), {}, []
    left_out, purged = too_large.among(replica, folder), state.knowledge.purged
    for object_id, sight in question.held.items():
        if object_id in left_out:
            continue  # the asker keeps what it has of it
        mine = replica.objects.get(folder, object_id)
        siblings = mine.siblings if mine else {}
        # What replaced the version may be what could not be applied.
        is_aside = bool(setting_aside.numbers_of(state, object_id))
        numbers = frozenset(
            number
            for number in sight.numbers
            if is_gone(state, siblings, number) and (number in purged or not is_aside)
        )
        if numbers:
            gone[object_id] = numbers
            if mine is not None:
                objects.append((object_id, mine))
    knowledge = state.knowledge
    required = replica.objects.entries(folder) | knowledge.expired
    answer = ReconcileAnswer(life, gone, tuple(objects), knowledge.purged, required, question.applied)
    replica.send(asker, folder, answer)


def cleared_unseen(replica: Replica, folder: ObjectId, store: bytes) -> CNSet:
    """The numbers that deletions of a folder cleared, while a store may not know of them; else none.

    Content goes by them with the folder alone. A store that let it go on this one's word would lack it for
    ever if this one went back to before the deletion, and nobody else had heard of that.
    """
    hierarchy_id = replica.tree.hierarchy
    read = replica.folder(folder) if folder != hierarchy_id else None
    if read is None or not read.cleared:
        return NOTHING
    versions, row = replica.objects.get(hierarchy_id, folder), replica.state(hierarchy_id).rows.get(store)
    if versions is None or row is None or row.is_doubted:
        return read.cleared
    return NOTHING if row.known.covers(CNSet.of(versions.siblings)) else read.cleared


def is_gone(state: FolderState, siblings: Any, number: ChangeNumber) -> bool:
    """True when a version that somebody holds is deleted here, or was let go by age and deleted since."""
    knowledge = state.knowledge
    return number not in siblings and (number in knowledge.known or number in knowledge.purged)


def apply_reconcile(
    replica: Replica, folder: ObjectId, source: bytes, statement: Statement, answer: ReconcileAnswer
) -> None:
    """Apply an answer whole, if it is for this life and still true; else ask again."""
    state = replica.state(folder)
    if answer.life != replica.life(folder):
        return
    state.reconciling.pop(source, None)
    if not is_still_true(replica, folder, answer):
        replica.fired["reconcile_again"] += 1
        state.reconciles[source] = answer.required
        return
    replica.fired["reconcile"] += 1
    before = {object_id: replica.objects.get(folder, object_id) for object_id in answer.gone}
    take_all(replica, folder, answer.objects)
    living = dict(answer.objects)
    for object_id, numbers in answer.gone.items():
        versions = replica.objects.get(folder, object_id)
        if versions is not None:
            left = without_gone(versions, numbers, before[object_id], living.get(object_id))
            store_or_bury(replica, folder, object_id, left)
            state.applied += 1
        expired = _let_go(state, object_id)
        aside = state.set_aside[object_id].numbers if object_id in state.set_aside else frozenset()
        if expired - aside <= numbers:  # else what replaced it was let go by age too, and nothing was deleted
            gone = expired & numbers
            # What replaced it came with the answer and could not be applied: that it is gone is not known.
            state.knowledge.claim(CNSet.of(gone - aside if object_id in living else gone))
    take_over_purged(state, answer.purged)
    state.knowledge.claim(gaps_of(state, statement) | answer.purged)
    state.knowledge.settle(replica.assumed(folder))
    replica.note_news(state)


def without_gone(
    versions: Versions[Any],
    numbers: frozenset[ChangeNumber],
    before: Versions[Any] | None,
    theirs: Versions[Any] | None,
) -> Versions[Any]:
    """An object without the versions that are gone at a source, where it is `theirs`; it was `before` here.

    Where none is left it is as it is there, so far as what went had replaced that here: a change that the
    source gave up, since nobody seemed to have it, replaces nothing. What it had not seen was deleted here by
    another change.
    """
    left = versions.without(CNSet.of(numbers))
    # Of one that was let go by age no version was here before: what is theirs stays let go.
    if left.siblings or theirs is None or before is None or not before.siblings:
        return left
    back = {number: version for number, version in theirs.siblings.items() if before.has_seen(number)}
    return Versions(versions.context, back) if back else left


def gaps_of(state: FolderState, statement: Statement) -> CNSet:
    """The numbers that a source knows: once its objects are held, all others are gaps, or gone."""
    return statement.known - state.knowledge.expired


def is_still_true(replica: Replica, folder: ObjectId, answer: ReconcileAnswer) -> bool:
    """True when nothing was applied since the question, and all objects of the source are held, or come with
    it.
    """
    state = replica.state(folder)
    carried = CNSet.of(number for _, versions in answer.objects for number in versions.entries())
    had = state.knowledge.had | carried | replica.assumed(folder)
    return answer.applied == state.applied and had.covers(answer.required)


def take_over_purged(state: FolderState, purged: CNSet) -> None:
    """The numbers that a source purged count as purged here too: others may ask this store next."""
    state.knowledge.purged |= purged
