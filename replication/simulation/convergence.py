"""Invariants of the end: when the faults have stopped all stores become equal, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from pillarbox.replication.core import deletion, hierarchy, setting_aside
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.ground.versions import Version, Versions
from pillarbox.replication.simulation.history import History, Violation
from pillarbox.replication.simulation.invariants import Invariants
from pillarbox.store.change_number import ChangeNumber, CNSet

Shown: TypeAlias = dict[ChangeNumber, Version]
States: TypeAlias = dict[ObjectId, Versions[Any] | None]


def differences(invariants: Invariants, replicas: list[Replica]) -> Iterator[str]:
    """Differences between the stores; none when they have converged."""
    first = replicas[0]
    tree = first.tree
    shown, folders = hierarchy.places(first), _states(tree.hierarchy, first)
    for replica in replicas[1:]:
        if _is_read_alike(first, replica, folders):
            continue
        if hierarchy.places(replica) != shown or any(
            replica.folder(folder) != first.folder(folder) for folder in shown
        ):
            yield "the hierarchies differ"
    holders: dict[ObjectId, list[Replica]] = {}
    for replica in replicas:
        for folder, state in replica.record.folders.items():
            if state.is_held:
                holders.setdefault(folder, []).append(replica)
    for folder in (tree.hierarchy, *shown):
        yield from _folder_differences(invariants, folder, replicas, holders.get(folder, []))


def _is_read_alike(one: Replica, other: Replica, folders: States) -> bool:
    """True when two stores read all folders alike, by their states at the first one: at one time, and those
    of which they do not hold one and the same state as the same. So the tree is the same, too."""
    if one.wall_ms != other.wall_ms:
        return False
    apart = _apart([folders, _states(one.tree.hierarchy, other)])
    return all(one.folder(each) == other.folder(each) for each in apart)


def _states(folder: ObjectId, replica: Replica) -> States:
    """The states of all objects of a folder at a store."""
    objects = replica.objects
    return {each: objects.get(folder, each) for each in objects.ids(folder)}


def _apart(held: list[States]) -> list[ObjectId]:
    """The objects that not all of these stores hold in one and the same state: in all others nothing differs,
    and of a hierarchy of thousands of folders at hundreds of stores that is seen at a glance."""
    apart: set[ObjectId] = set()
    for other in held[1:]:
        apart.update(each for each, state in held[0].items() if other.get(each) is not state)
        apart.update(other.keys() - held[0].keys())
    return sorted(apart)


def _folder_differences(
    invariants: Invariants, folder: ObjectId, replicas: list[Replica], holders: list[Replica]
) -> Iterator[str]:
    active = [replica for replica in holders if replica.my_state(folder) is ReplicaState.ACTIVE]
    if len(active) < len(holders):
        yield f"a replica of folder {folder.counter} still leaves"
    listed = replicas[0].replica_states(folder)  # all read the same, or the hierarchies differ
    wanted = [each for each in replicas if listed.get(each.me.database, ReplicaState.REMOVED)]
    if len(wanted) > len(holders):
        yield f"a replica of folder {folder.counter} has not begun"
    known = NOTHING
    for replica in holders:
        known |= replica.state(folder).knowledge.known
    for replica in holders:
        state = replica.state(folder)
        if any(setting_aside.numbers_of(state, each) & known for each in state.set_aside):
            yield f"something of folder {folder.counter} is set aside, and another replica has it"
        if any(setting_aside.asks_for_older(replica, folder, each) for each in state.set_aside):
            yield f"something of folder {folder.counter} is set aside, and an older one is to be asked for"
    had = {replica.state(folder).knowledge.had | replica.assumed(folder) for replica in active}
    if len(had) > 1:
        yield f"what is known of folder {folder.counter} differs"
    apart = _apart([_states(folder, replica) for replica in active])
    if apart:
        yield from _context_differences(invariants, folder, active, apart)
        yield from _shown_differences(invariants, folder, active, apart)


def _shown_differences(
    invariants: Invariants, folder: ObjectId, active: list[Replica], apart: list[ObjectId]
) -> Iterator[str]:
    """Objects of which stores show different versions, unless they let them go by age."""
    everything: dict[ObjectId, Shown] = {}
    for replica in active:
        for object_id in apart:
            everything.setdefault(object_id, {}).update(_shown(replica, folder, object_id))
    for replica in active:
        aged = _aged_at(invariants, replica, folder)
        for object_id, shown in everything.items():
            here = _shown(replica, folder, object_id)
            is_same = all(shown[number] == version for number, version in here.items())
            if not is_same or not all(
                _is_aged(invariants.history, each, aged) for each in shown.keys() - here.keys()
            ):
                yield f"object {object_id.counter} of folder {folder.counter} differs"


def _context_differences(
    invariants: Invariants, folder: ObjectId, active: list[Replica], apart: list[ObjectId]
) -> Iterator[str]:
    """Objects of which one store has seen a write that another one has not, or holds a deletion that another
    one holds no more and did not purge.

    Not so a deletion that was purged where the object was gone, nor what it had replaced: what comes there
    later, without it, is complete. Nor what was let go by age, or given up, or a context without versions: it
    waits for a hole that another store closed.
    """
    history = invariants.history
    for replica in active:
        forgotten = replica.state(folder).knowledge.purged | history.given_up
        aged = _aged_at(invariants, replica, folder)
        for other in active:
            for object_id in apart:
                theirs, mine = other.objects.get(folder, object_id), replica.objects.get(folder, object_id)
                if theirs is None or theirs is mine or not theirs.siblings:
                    continue
                for number in theirs.entries():
                    is_seen = number not in history.writes or any(
                        each in forgotten for each in (number, *history.covering(number))
                    )
                    is_seen = is_seen or (mine is not None and mine.has_seen(number))
                    if not is_seen and not _is_aged(history, number, aged):
                        yield f"what was seen of {object_id.counter} of folder {folder.counter} differs"


def _aged_at(invariants: Invariants, replica: Replica, folder: ObjectId) -> CNSet:
    """The numbers that a store let go by age, or knows since all others did that had them.

    Who let them go may be lost since, and no store says so any more.
    """
    return replica.state(folder).knowledge.expired | replica.assumed(folder) | invariants.aged


def _is_aged(history: History, number: ChangeNumber, aged: CNSet) -> bool:
    """True when a store let a version go by age, or what replaced it.

    A copy that was restored may hold the older version, and nobody can give it the newer one any more.
    """
    return number in aged or any(later in aged for later in history.covering(number))


def _shown(replica: Replica, folder: ObjectId, object_id: ObjectId) -> Shown:
    """The versions of an object that are shown.

    A tombstone beside a live version is not: where the object had gone before the version came, it is purged.
    """
    versions = replica.objects.get(folder, object_id)
    siblings = versions.siblings.items() if versions else ()
    return {number: version for number, version in siblings if not version.gone}


def check_nothing_lost(invariants: Invariants, replicas: list[Replica]) -> None:
    """Every change that a living store had is there, unless it was replaced, deleted or let go by age.

    That a store which had it has it to the end is an invariant of every step. Raises Violation.
    """
    for folder in invariants.history.of_folder:
        holders = [replica for replica in replicas if replica.held(folder)]
        if holders:
            _check_folder(invariants, folder, holders)


def _check_folder(invariants: Invariants, folder: ObjectId, holders: list[Replica]) -> None:
    history, had, known, purged = invariants.history, NOTHING, NOTHING, NOTHING
    deletions = holders[0].state(holders[0].tree.hierarchy).knowledge.known  # all stores are equal by now
    hierarchy_id = holders[0].tree.hierarchy
    is_gone = folder != hierarchy_id and all(replica.folder(folder) is None for replica in holders)
    live: set[ChangeNumber] = set()
    for replica in holders:
        knowledge = replica.state(folder).knowledge
        had, known, purged = had | knowledge.had, known | knowledge.known, purged | knowledge.purged
        for object_id in replica.objects.ids(folder):
            live.update(_shown(replica, folder, object_id))
    for number in history.in_set(folder, known):
        later = [each for each in history.covering(number) if each in had]
        # What a folder held that has gone without a tombstone is shown nowhere.
        if number in live and not is_gone and invariants.is_back(number, known, deletions):
            raise Violation(
                f"{number.counter} of folder {folder.counter} was replaced or deleted, and is back"
            )
        if number in live or history.writes[number].version.gone:
            continue
        if number in history.given_up or number in invariants.aged or number in purged:
            continue
        if not later:
            raise Violation(f"{number.counter} of folder {folder.counter} is lost")


def count_tombstones(replicas: list[Replica]) -> int:
    """Count the tombstones that are still there, but for those that are kept for ever.

    A few may be left: a number below their context that only its owner had, which holds the folder no more.
    """
    return sum(
        not versions.live() and not deletion.is_kept_for_ever(versions)
        for replica in replicas
        for folder in (replica.tree.hierarchy, *hierarchy.places(replica))
        if replica.held(folder)
        for object_id in replica.objects.ids(folder)
        if (versions := replica.objects.get(folder, object_id))
    )
