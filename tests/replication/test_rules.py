"""Each rule of knowledge is needed: replaced by its naive form, it is seen to fail.

A naive form is a function that patches production code: what one would build who had not seen it fail.
Settings are chosen so that what the rule is about happens often; without the form the same seeds show
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pillarbox.replication.core import (
    applying,
    backfill,
    deletion,
    hello,
    hierarchy,
    state,
)
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground import records
from pillarbox.replication.ground.knowledge import Knowledge
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.simulation import faults, operations
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.scenario import Scenario, Settings
from pillarbox.store.change_number import CNSet

Patch = Callable[[pytest.MonkeyPatch], None]
SEEDS_MAX = 400

PLAIN = Settings()
AGING = Settings(faults=(*faults.FAULTS, *[faults.expire] * 24))
LISTY = Settings(
    operations=(*operations.OPERATIONS, operations.Weighted(40, operations.change_replicas)),
)
RESTORY = Settings(faults=(*faults.FAULTS, *[faults.back_up] * 12, *[faults.restore] * 12))
PURGING = Settings(
    faults=(*faults.FAULTS, *[faults.purge] * 12, *[faults.restore] * 6, *[faults.back_up] * 6)
)
PUT_BACK = Settings(faults=(*faults.FAULTS, *[faults.back_up] * 12, *[faults.put_back] * 12))


FOLDERY = Settings(
    operations=(
        *operations.OPERATIONS,
        operations.Weighted(20, operations.move_folder),
        operations.Weighted(12, operations.delete_folder),
    ),
    faults=(
        *faults.FAULTS,
        *[faults.purge] * 6,
        *[faults.restore] * 6,
        *[faults.back_up] * 6,
        *[faults.cut] * 4,
    ),
)


def folder_tombstones_go(patch: pytest.MonkeyPatch) -> None:
    """Deletion of folders: a tombstone goes although content went with its folder."""
    patch.setattr(deletion, "is_kept_for_ever", lambda versions: False)


def gaps_without_condition(patch: pytest.MonkeyPatch) -> None:
    """K1: a message's range is taken as had."""

    def tell(replica: Replica, folder: Any, source: bytes, pair: Any) -> None:
        knowledge = replica.state(folder).knowledge
        knowledge.claim(pair.gaps - knowledge.expired)

    patch.setattr(applying, "tell_gaps", tell)


def found_by_last_number(patch: pytest.MonkeyPatch) -> None:
    """K1: objects are found by the numbers of their versions, not by any entry of their contexts."""
    patch.setattr(Versions, "entries", lambda self: frozenset(self.siblings))


def last_number_wins(patch: pytest.MonkeyPatch) -> None:
    """K2: of concurrent versions the highest number is kept."""
    merged = Versions.merged

    def merge(self: Any, other: Any, had: CNSet) -> Any:
        both = merged(self, other, had)
        last = max(both.siblings, default=None, key=lambda number: (number.counter, number.origin))
        return Versions(both.context, {last: both.siblings[last]} if last else {})

    patch.setattr(Versions, "merged", merge)


def tombstones_go_at_once(patch: pytest.MonkeyPatch) -> None:
    """K3a, K3b: a tombstone is purged whoever has not seen it, and leaves nothing behind."""
    purge = deletion.purge

    def forgetting(replica: Replica, folder: Any) -> int:
        before = replica.state(folder).knowledge.purged
        count = purge(replica, folder)
        replica.state(folder).knowledge.purged = before
        return count

    patch.setattr(deletion, "is_known_to_all", lambda *_: True)
    patch.setattr(deletion, "purge", forgetting)


def never_reconciles(patch: pytest.MonkeyPatch) -> None:
    """K3c: a store that missed a purged delete only asks for what is missing."""
    patch.setattr(deletion, "is_known_to_all", lambda *_: True)
    patch.setattr(deletion, "ask_to_reconcile", lambda *_: None)


def reconciled_later(patch: pytest.MonkeyPatch) -> None:
    """K3c amendment: an answer is applied although something arrived since the question."""
    patch.setattr(deletion, "is_known_to_all", lambda *_: True)
    patch.setattr(deletion, "is_still_true", lambda *_: True)


def purged_not_taken_over(patch: pytest.MonkeyPatch) -> None:
    """K3b amendment: who reconciled does not remember what was purged."""
    patch.setattr(deletion, "is_known_to_all", lambda *_: True)
    patch.setattr(deletion, "take_over_purged", lambda *_: None)


def holes_stay_open(patch: pytest.MonkeyPatch) -> None:
    """K3a amendment: a hole that nobody can fill keeps tombstones for ever."""
    patch.setattr(deletion, "closed_holes", lambda *_: CNSet())


def own_numbers_of_an_earlier_life(patch: pytest.MonkeyPatch) -> None:
    """K4 amendment: a replica that begins again claims what it wrote before it dropped its content."""
    begin = hierarchy.begin

    def claiming(replica: Replica, folder: Any) -> None:
        begin(replica, folder)
        begun = replica.state(folder)
        own = CNSet.full(replica.me.origin, begun.own_last)
        begun.knowledge.claim(own - replica.record.left_out)

    patch.setattr(hierarchy, "begin", claiming)


def knowledge_before_objects(patch: pytest.MonkeyPatch) -> None:
    """K5: what is known becomes durable before the objects it speaks of."""
    commit = Machine.commit

    def committing(self: Machine) -> None:
        objects = self.disk.objects
        later = getattr(self, "later", objects)
        commit(self)
        self.later, self.disk = self.disk.objects, replace(self.disk, objects=later)  # type: ignore[attr-defined]

    patch.setattr(Machine, "commit", committing)


def expired_numbers_are_offered(patch: pytest.MonkeyPatch) -> None:
    """K7: what was let go by age counts as known."""

    def expire(self: Knowledge, numbers: CNSet) -> None:
        self.known |= numbers

    patch.setattr(Knowledge, "expire", expire)


def expired_by_all_is_asked_for(patch: pytest.MonkeyPatch) -> None:
    """K7: a number that all others expired is still waited for."""
    patch.setattr(Replica, "assumed", lambda self, folder: CNSet())


def cleared_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Deletion of folders: what was cleared is known from tombstones only."""
    read = records.Folder.read

    def forgetting(versions: Any, now_ms: int) -> Any:
        folder = read(versions, now_ms)
        return replace(folder, cleared=CNSet()) if folder.is_live else folder

    patch.setattr(records.Folder, "read", forgetting)


def rows_without_lives(patch: pytest.MonkeyPatch) -> None:
    """Rows: what an earlier life said is united with what a later one says."""

    def told(self: Any, statement: Any, now_ms: int) -> Any:
        united = replace(self, life=statement.life)
        return _told(united, statement, now_ms)

    _told = state.Row.told
    patch.setattr(state.Row, "told", told)


def held_beside_the_list(patch: pytest.MonkeyPatch) -> None:
    """K10 amendment: a store that no list names keeps its content."""
    follow = hierarchy._follow_list

    def following(replica: Replica, folder: Any) -> None:
        read = replica.folder(folder)
        if read and replica.my_state(folder, read) is records.ReplicaState.REMOVED:
            return
        follow(replica, folder)

    patch.setattr(hierarchy, "_follow_list", following)


def no_revival(patch: pytest.MonkeyPatch) -> None:
    """K10: lists that were changed in two places may leave no active replica."""

    def states(self: Replica, folder: Any, read: Any = None) -> Any:
        if folder == self.tree.hierarchy:
            return _states(self, folder, read)
        read = read or self.folder(folder)
        return {
            store: entry.value
            for store, entry in (read.replicas if read else {}).items()
            if not self.organisation.is_removed(store)
        }

    _states = Replica.replica_states
    patch.setattr(Replica, "replica_states", states)


def no_hello(patch: pytest.MonkeyPatch) -> None:
    """Identity: a store that starts goes on with its numbering as it remembers it."""

    def begin(replica: Replica, start: Any) -> None:
        _begin(replica, start)
        if start is hello.Start.AGAIN and replica.waiting is not None:
            hello._complete(replica, replica.waiting)
            replica.is_doubtful = False

    _begin = hello.begin
    patch.setattr(hello, "begin", begin)
    patch.setattr(hello, "heard", lambda *_: None)


def asks_once(patch: pytest.MonkeyPatch) -> None:
    """Backfill: a request is made once; what is lost is never asked for again."""
    waiting = backfill._waiting

    def never(replica: Replica, folder_state: Any, entry: Any) -> Any:
        return replace(waiting(replica, folder_state, entry), due_ms=state.NEVER_MS)

    patch.setattr(backfill, "_waiting", never)


def circles_stay(patch: pytest.MonkeyPatch) -> None:
    """K8: folders stand where their parent entries say."""

    def places(replica: Replica) -> Any:
        read = {folder: replica.folder(folder) for folder in replica.objects.ids(replica.tree.hierarchy)}
        return {folder: each.parent.value for folder, each in read.items() if each and each.is_live}

    patch.setattr(hierarchy, "places", places)


# The form, the settings under which it shows soon, and the first seed known to show it.
NAIVE: dict[Patch, tuple[Settings, int]] = {
    gaps_without_condition: (PLAIN, 0),
    found_by_last_number: (PLAIN, 1),
    last_number_wins: (PLAIN, 5),
    tombstones_go_at_once: (PURGING, 0),
    never_reconciles: (PURGING, 0),
    reconciled_later: (PURGING, 44),
    purged_not_taken_over: (PURGING, 7),
    own_numbers_of_an_earlier_life: (LISTY, 0),
    knowledge_before_objects: (PLAIN, 0),
    expired_numbers_are_offered: (AGING, 1),
    expired_by_all_is_asked_for: (AGING, 14),
    cleared_is_forgotten: (PLAIN, 12),
    rows_without_lives: (LISTY, 0),
    folder_tombstones_go: (FOLDERY, 6),
    held_beside_the_list: (RESTORY, 3),
    no_revival: (LISTY, 14),
    asks_once: (PLAIN, 1),
    circles_stay: (FOLDERY, 0),
    no_hello: (PUT_BACK, 0),
}


QUICK = (gaps_without_condition, found_by_last_number, expired_numbers_are_offered)


def test_holes_that_nobody_fills_keep_no_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    def left() -> int:
        return sum(Scenario(seed, PLAIN).run().rules["tombstone_left"] for seed in range(4, 8))

    with_the_rule = left()
    holes_stay_open(monkeypatch)
    assert with_the_rule * 5 < left()


def shown(form: Patch, monkeypatch: pytest.MonkeyPatch, seeds_max: int) -> str:
    """The first violation under a naive form, from the first seed known to show one."""
    settings, first = NAIVE[form]
    assert not Scenario(first, settings).run().violation
    form(monkeypatch)
    for seed in range(first, first + seeds_max):
        if violation := Scenario(seed, settings).run().violation:
            return violation
    return ""


@pytest.mark.parametrize("form", QUICK, ids=lambda form: form.__name__)
def test_the_rule_is_needed(form: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(form, monkeypatch, 8)


@pytest.mark.slow
@pytest.mark.parametrize("form", NAIVE, ids=lambda form: form.__name__)
def test_the_rule_is_needed_in_the_campaign(form: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(form, monkeypatch, SEEDS_MAX)
