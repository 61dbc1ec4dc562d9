"""Objects that a store cannot apply: set aside with the reason and tried again, while all others go on.

The numbers of such an object count as expired: had, so that nothing waits for them and nobody is asked for
them all the time, and never offered. When it is tried again they are asked for once more, and stay had: until
an answer has come nothing else is known of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, FolderState, SetAside
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.store.change_number import ChangeNumber, CNSet

REASON_CHARS_MAX: Final = 500


def set_aside(
    replica: Replica, folder: ObjectId, object_id: ObjectId, arrived: Versions[Any], reason: str
) -> None:
    """Set an object aside that arrived and was refused by the store. It is reported once."""
    state, before = replica.state(folder), replica.state(folder).set_aside.get(object_id)
    lacking = _unknown(state, arrived.entries())
    numbers = lacking | (before.numbers if before else frozenset())
    tries = before.tries if before else 0
    state.set_aside[object_id] = SetAside(
        numbers=numbers,
        reason=reason[:REASON_CHARS_MAX],
        since_ms=before.since_ms if before else replica.wall_ms,
        tries=tries,
        due_ms=replica.now_ms + _waits_ms(replica, tries),
    )
    # What the object had replaced does not come with it, and is no gap while what replaced it is not here.
    _count_as_expired(state, object_id, _unknown(state, numbers))
    if before is None:
        replica.report(Notice.SET_ASIDE, folder, CNSet.of(lacking))


def _unknown(state: FolderState, numbers: Iterable[ChangeNumber]) -> frozenset[ChangeNumber]:
    return frozenset(number for number in numbers if number not in state.knowledge.known)


def _count_as_expired(state: FolderState, object_id: ObjectId, numbers: frozenset[ChangeNumber]) -> None:
    state.knowledge.expire(CNSet.of(numbers))
    state.expired_objects[object_id] = state.expired_objects.get(object_id, frozenset()) | numbers


def numbers_of(state: FolderState, object_id: ObjectId) -> CNSet:
    """The numbers under which an object is set aside."""
    each = state.set_aside.get(object_id)
    return CNSet.of(each.numbers) & state.knowledge.expired if each else NOTHING


def in_doubt(aside: CNSet, mine: Versions[Any] | None, arrived: Versions[Any]) -> CNSet:
    """The versions of an object that arrived and may count as known by a gap alone: what replaced them is set
    aside, and the object was never here as it was with them."""
    if not aside:
        return NOTHING
    return CNSet.of(
        number
        for number in arrived.siblings
        if number.counter < aside.highest(number.origin) and not (mine and mine.has_seen(number))
    )


def above_holes(state: FolderState) -> CNSet:
    """The numbers under which objects are set aside, where numbers below them are missing here."""
    had, found = state.knowledge.had, CNSet()
    for object_id in state.set_aside:
        numbers = numbers_of(state, object_id)
        context = {origin: numbers.highest(origin) for origin in numbers.origins()}
        if Versions(context, {}).holes(had):
            found |= numbers
    return found


def look(state: FolderState, object_id: ObjectId) -> None:
    """An object is set aside no more once all of its numbers are known: it came, was replaced or deleted."""
    if object_id not in state.set_aside or numbers_of(state, object_id):
        return
    left = state.expired_objects.pop(object_id, frozenset()) - state.set_aside.pop(object_id).numbers
    if left:
        state.expired_objects[object_id] = left


def end(state: FolderState, object_id: ObjectId, numbers: frozenset[ChangeNumber]) -> None:
    """Numbers under which an object is set aside are tried no more, and stay expired."""
    each = state.set_aside.get(object_id)
    if each is None:
        return
    if each.numbers <= numbers:
        del state.set_aside[object_id]
    else:
        state.set_aside[object_id] = each._replace(numbers=each.numbers - numbers)


def due_ms(state: FolderState) -> int:
    """The time at which the next object is tried again."""
    return min((each.due_ms for each in state.set_aside.values()), default=NEVER_MS)


def retry(replica: Replica, folder: ObjectId) -> None:
    """Ask for the numbers of objects that are due; those that come are tried again."""
    state = replica.state(folder)
    for object_id, each in list(state.set_aside.items()):
        look(state, object_id)
        if each.due_ms > replica.now_ms or object_id not in state.set_aside:
            continue
        replica.fired["set_aside_retried"] += 1
        if _is_lost(state, numbers_of(state, object_id)):
            _ask_for_older(replica, folder, object_id)
        if object_id not in state.set_aside:
            continue
        tries = each.tries + 1
        due_ms = replica.now_ms + _waits_ms(replica, tries)
        state.set_aside[object_id] = state.set_aside[object_id]._replace(tries=tries, due_ms=due_ms)
        state.knowledge.retried |= numbers_of(state, object_id)


def _is_lost(state: FolderState, numbers: CNSet) -> bool:
    """True when no other replica has any of these numbers any more."""
    rows = state.rows.values()
    return bool(state.rows) and not any(
        row.is_doubted or not row.is_heard() or row.known.count_common(numbers) for row in rows
    )


def asks_for_older(replica: Replica, folder: ObjectId, object_id: ObjectId) -> bool:
    """True when an object that is set aside is lost, not here, and was not asked for by its first number."""
    state = replica.state(folder)
    return (
        object_id.origin != replica.me.origin
        and object_id in state.knowledge.known
        and object_id not in state.set_aside[object_id].numbers
        and replica.objects.get(folder, object_id) is None
        and _is_lost(state, numbers_of(state, object_id))
    )


def _ask_for_older(replica: Replica, folder: ObjectId, object_id: ObjectId) -> None:
    """All who had the version that is set aside went back to before it: what they show is an older one.

    That may count as known here, as one that was replaced, and nobody would be asked for it. The object is
    asked for by its first number, which all of its versions have seen. Once it is here, or nothing is left of
    it there either, nothing is set aside.
    """
    state, each = replica.state(folder), replica.state(folder).set_aside[object_id]
    is_answered = object_id in each.numbers and object_id in state.knowledge.known
    if asks_for_older(replica, folder, object_id):
        _count_as_expired(state, object_id, frozenset([object_id]))
        state.set_aside[object_id] = each._replace(numbers=each.numbers | {object_id})
        replica.fired["set_aside_lost"] += 1
    elif is_answered or replica.objects.get(folder, object_id) is not None:
        end(state, object_id, each.numbers)


def _waits_ms(replica: Replica, tries: int) -> int:
    """The wait before an object is tried again; it doubles each time, up to that of all requests."""
    return min(replica.preset.later_retry.same_site_ms << min(tries, 20), replica.preset.retry_ms_max)
