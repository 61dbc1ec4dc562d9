"""Objects that arrive: merged with what is held, and counted as had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pillarbox.replication.core import conflicts, identity, setting_aside
from pillarbox.replication.core.objects import NotApplied
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import FolderState
from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.wire.messages import Objects
from pillarbox.store.change_number import ChangeNumber, CNSet


def take_all(replica: Replica, folder: ObjectId, objects: Objects) -> None:
    """Apply objects that arrived; idempotent, in any order."""
    for object_id, versions in objects:
        take(replica, folder, object_id, versions)


def take(replica: Replica, folder: ObjectId, object_id: ObjectId, arrived: Versions[Any]) -> None:
    """Merge one object and claim the numbers that it carries.

    A version that was had and is gone here is refused, and an expired one that is refused stays expired. What
    comes once more changes nothing, and is no news.
    """
    state, mine = replica.state(folder), replica.objects.get(folder, object_id)
    knowledge, entries = state.knowledge, arrived.entries()
    if mine is None and is_all_new(state, entries):  # as nearly always in a backfill
        result, claimed = arrived, list(entries)
    else:
        if mine is not None and not identity.check_numbers(replica, folder, mine, arrived):
            return
        result, claimed = merged(replica, folder, object_id, mine, arrived)
        if not result.siblings:
            ask_no_more(state, object_id, arrived)
        if all(number in knowledge.known for number in claimed):
            is_kept = result.siblings or is_bare_kept(replica, folder, result)
            if (result if is_kept else None) == mine:
                return  # it came once more
    before = knowledge.known, knowledge.expired, knowledge.retried
    knowledge.claim_each(claimed)
    try:
        store_or_bury(replica, folder, object_id, result)
    except NotApplied as error:
        knowledge.known, knowledge.expired, knowledge.retried = before
        setting_aside.set_aside(replica, folder, object_id, arrived, str(error))
        return
    setting_aside.look(state, object_id)
    ask_for_the_rest(replica, state, object_id, result)
    conflicts.notice(replica, folder, object_id, mine, result)
    replica.fired["sibling"] += len(result.siblings) > 1 and len(result.live()) > 1
    state.applied += 1
    replica.note_news(state)
    for version in arrived.siblings.values():
        replica.witness(folder, version)


def is_all_new(state: FolderState, entries: Iterable[ChangeNumber]) -> bool:
    """True when a replica that expired nothing has none of these numbers: nothing is merged or refused."""
    known = state.knowledge.known
    if state.knowledge.expired or state.expired_objects:
        return False
    return not any(map(known.__contains__, entries))


def merged(
    replica: Replica,
    folder: ObjectId,
    object_id: ObjectId,
    mine: Versions[Any] | None,
    arrived: Versions[Any],
) -> tuple[Versions[Any], list[ChangeNumber]]:
    """The state of an object with one that arrived, and the numbers that are known by it."""
    state = replica.state(folder)
    knowledge, known = state.knowledge, state.knowledge.had
    if knowledge.expired:
        aside = setting_aside.numbers_of(state, object_id)
        known = knowledge.known if is_held_again(state, mine, arrived, aside) else known
        known -= setting_aside.in_doubt(aside, mine, arrived) - knowledge.purged
    result = received(arrived, known) if mine is None else mine.merged(arrived, known)
    claimed = [
        number
        for number in arrived.entries()
        if not stays_expired(state, is_refused(arrived, result, number), number)
    ]
    claimed += no_longer_expired(state, object_id, arrived, result)
    replica.fired["refused"] += bool(arrived.siblings) and not result.siblings
    replica.fired["held_again"] += any(number in knowledge.expired for number in result.siblings)
    return result, claimed


def is_held_again(
    state: FolderState, mine: Versions[Any] | None, arrived: Versions[Any], aside: CNSet
) -> bool:
    """True when an object is held, or begins to be: then so are those of its versions that were expired here.
    So it does with a version that was only set `aside`.

    Refused by themselves they would be missing beside a context that covers them, which says that they were
    replaced: stores that have them would let them go.
    """
    return mine is not None or bool(received(arrived, state.knowledge.had - aside).siblings)


def received(arrived: Versions[Any], had: CNSet) -> Versions[Any]:
    """An object that is absent here, as it is stored."""
    return arrived.received(had)


def is_refused(arrived: Versions[Any], result: Versions[Any], number: ChangeNumber) -> bool:
    """True when a number that is carried is nothing of what is stored.

    Where nothing is stored that goes for numbers of the context too: what replaced them is not held here.
    """
    return not result.siblings or (number in arrived.siblings and number not in result.siblings)


def stays_expired(state: FolderState, is_refused: bool, number: ChangeNumber) -> bool:
    """True when a number that is carried is not claimed, since it was let go by age here and is refused."""
    return is_refused and number in state.knowledge.expired


def no_longer_expired(
    state: FolderState, object_id: ObjectId, arrived: Versions[Any], result: Versions[Any]
) -> list[ChangeNumber]:
    """The expired numbers of an object that is held again in a state that replaced them.

    Left among the expired, a version that was replaced would be no deleted one where somebody reconciles.
    """
    expired = state.expired_objects.get(object_id, frozenset())
    replaced = [
        number
        for number in sorted(expired)
        if result.siblings and result.has_seen(number) and number not in arrived.siblings
    ]
    if replaced:
        state.expired_objects[object_id] = expired.difference(replaced)
    return replaced


def ask_no_more(state: FolderState, object_id: ObjectId, arrived: Versions[Any]) -> None:
    """Numbers that were expired, and asked for once more, stay expired when they arrive in an object of which
    nothing is kept: what replaced them was let go by age too. Asked for again, they would be refused for
    ever.
    """
    expired = state.expired_objects.get(object_id, frozenset())
    refused = frozenset(
        number for number in expired if number in arrived.siblings or arrived.has_seen(number)
    )
    state.knowledge.retried -= CNSet.of(refused)
    setting_aside.end(state, object_id, refused)


def ask_for_the_rest(
    replica: Replica, state: FolderState, object_id: ObjectId, versions: Versions[Any]
) -> None:
    """An object that is held again is held whole: what was let go of it by age is asked for once more.

    A version that was changed beside the one which arrived, and had been let go alone, would be missing here
    for good: no store sends it again by itself, and all others show a conflict.
    """
    expired = state.expired_objects.get(object_id) if versions.live() else None
    if expired:
        again = CNSet.of(expired) & state.knowledge.expired - setting_aside.numbers_of(state, object_id)
        state.knowledge.retried |= again
        replica.fired["rest_asked_for"] += bool(again)


def store_or_bury(replica: Replica, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
    """Store an object's new state; one without versions goes, unless its context has a hole.

    Until the hole is filled its bare context stays, since it tells a late version from a new object.
    """
    if versions.siblings or is_bare_kept(replica, folder, versions):
        replica.objects.put(folder, object_id, versions)
        replica.fired["bare_context"] += not versions.siblings
    else:
        replica.objects.remove(folder, object_id)


def is_bare_kept(replica: Replica, folder: ObjectId, versions: Versions[Any]) -> bool:
    """True when an object without versions is kept for its context."""
    return bool(versions.holes(replica.state(folder).knowledge.had))


def tell_gaps(replica: Replica, folder: ObjectId, source: bytes, pair: Pair) -> None:
    """Take the gaps that a source gave on condition, now or later."""
    knowledge = replica.state(folder).knowledge
    knowledge.tell(source, pair, replica.assumed(folder))
    replica.fired["gaps_waited"] += knowledge.pairs_count > 0
