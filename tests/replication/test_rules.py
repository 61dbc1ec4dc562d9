"""Each rule of knowledge is needed: replaced by its naive form, it is seen to fail.

A naive form is a function that patches production code: what one would build who had not seen it fail.
By seeds: settings are chosen so that what the rule is about happens often; without the form the same seeds
show nothing. By a schedule, where seeds show it rarely: it holds with the rule and not with the form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from driven_stores import ACTOR, TREE, Post, new_guids

from pillarbox.replication.core import (
    applying,
    backfill,
    deletion,
    expiry,
    hello,
    hierarchy,
    leaving,
    state,
    status,
    writing,
)
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS, PROMPT
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.ground import records
from pillarbox.replication.ground.knowledge import NOTHING, Knowledge
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.simulation import faults, operations
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.objects import DictObjects
from pillarbox.replication.simulation.scenario import Scenario, Settings
from pillarbox.replication.wire.messages import (
    Acknowledgement,
    BackfillRequest,
    Changes,
    Message,
    ReconcileAnswer,
    ReconcileQuestion,
    Statement,
)
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


def sent_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """K1 amendment: what a call wants said leaves before the call is durable."""

    def call(self: Machine, work: Callable[[Any], Any]) -> Any:
        effects = work(self.replicator)
        self._uncommitted |= self.replicator.replica.touched
        return effects

    patch.setattr(Machine, "call", call)


def no_bare_contexts(patch: pytest.MonkeyPatch) -> None:
    """K3 amendment: an object without versions goes, though its context has a hole."""
    patch.setattr(applying, "is_bare_kept", lambda *_: False)


def dropped_before_the_rest_comes(patch: pytest.MonkeyPatch) -> None:
    """K3c: versions that are gone go, and the object's others are fetched later."""
    apply, still_true = deletion.apply_reconcile, deletion.is_still_true
    carried: list[Any] = []

    def dropping(replica: Replica, folder: Any, source: bytes, statement: Any, answer: Any) -> None:
        carried.append(answer)
        apply(replica, folder, source, statement, replace(answer, objects=()))

    patch.setattr(deletion, "apply_reconcile", dropping)
    patch.setattr(
        deletion, "is_still_true", lambda replica, folder, _: still_true(replica, folder, carried[-1])
    )


def unseen_changes_are_gone(patch: pytest.MonkeyPatch) -> None:
    """K3d: all that the other store has not is deleted."""
    patch.setattr(deletion, "is_gone", lambda state, siblings, number: number not in siblings)


def deleted_with_holes(patch: pytest.MonkeyPatch) -> None:
    """Deletion of folders: all that is known is cleared, whatever is missing below the contexts."""
    patch.setattr(hierarchy, "_delete_with_holes", lambda *_: CNSet())


def unseen_content_goes(patch: pytest.MonkeyPatch) -> None:
    """Deletion of folders: content that the deletion had not seen goes with the folder."""
    patch.setattr(hierarchy, "_bring_back", lambda *_: None)


def leavers_acknowledge(patch: pytest.MonkeyPatch) -> None:
    """K10: a store acknowledges whatever it is itself."""

    def answer(replica: Replica, folder: Any, message: Any, statement_number: int) -> None:
        if replica.state(folder).knowledge.had.covers(message.statement.known):
            given = Acknowledgement(message.sender.incarnation, statement_number)
            status.tell(replica, folder, message.sender.database, given)

    patch.setattr(leaving, "answer", answer)


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
    sent_before_it_is_durable: (PLAIN, 0),
    unseen_changes_are_gone: (PURGING, 0),
    unseen_content_goes: (FOLDERY, 0),
    leavers_acknowledge: (LISTY, 0),
}


QUICK = (gaps_without_condition, found_by_last_number, expired_numbers_are_offered)


def test_holes_that_nobody_fills_keep_no_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    def left() -> int:
        return sum(Scenario(seed, PLAIN).run().rules["tombstone_left"] for seed in range(6, 8))

    with_the_rule = left()
    holes_stay_open(monkeypatch)
    assert with_the_rule * 3 < left(), "the last ones wait for two rounds at rest"


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


# --- schedules made for one rule: each is true where the rule holds -----------------------------------------

FIRST, SECOND, THIRD = b"1" * 16, b"2" * 16, b"3" * 16


def is_between(*stores: bytes) -> Callable[[Message], bool]:
    return lambda message: message.to in stores or message.sender.database in stores


def is_of(folder: ObjectId, *kinds: type) -> Callable[[Message], bool]:
    return lambda message: message.folder == folder and isinstance(message.body, kinds)


def of_a_circle_all_hang_from_a_root() -> bool:
    """Two folders are moved into each other in two places."""
    post = Post()
    one, other = post.folder(), post.folder()
    post.do(0, lambda replica: writing.change_folder(replica, one, ACTOR, parent=other))
    post.do(1, lambda replica: writing.change_folder(replica, other, ACTOR, parent=one))
    post.wait(HOUR_MS)
    return TREE.lost_and_found in hierarchy.places(post.replica(0)).values()


def a_request_that_is_lost_is_made_again() -> bool:
    """A post is lost, and the first request for it."""
    post = Post()
    folder = post.folder()
    post.post(0, folder)
    asked: list[Message] = []

    def is_lost(message: Message) -> bool:
        is_request = is_of(folder, BackfillRequest)(message)
        asked.extend([message] if is_request else [])
        return (is_request and len(asked) == 1) or is_of(folder, Changes)(message)

    while not asked:
        post.wait(MINUTE_MS, is_lost)
    post.wait(HOUR_MS)
    return len(post.messages(1, folder)) == 1


def lists_changed_in_two_places_leave_one_active() -> bool:
    """Each of two stores is told to leave, at the other one."""
    post = Post()
    folder = post.folder()
    post.post(0, folder)
    post.wait(HOUR_MS)
    for at, store in ((0, SECOND), (1, FIRST)):
        pending = {store: ReplicaState.DELETE_PENDING}
        post.do(at, lambda replica, to=pending: writing.change_folder(replica, folder, ACTOR, replicas=to))
    post.wait(5 * HOUR_MS)
    states = [post.replica(store).my_state(folder) for store in (0, 1)]
    return states == [ReplicaState.REMOVED, ReplicaState.ACTIVE] and len(post.messages(1, folder)) == 1


def a_copy_from_before_it_left_leaves_again() -> bool:
    """A store leaves, and goes back to a copy from before that. It takes a post before it hears of it."""
    post = Post()
    folder = post.folder()
    post.post(0, folder)
    post.wait(HOUR_MS)
    old = post.replica(1)
    record, objects = old.record.copy(), DictObjects(old.objects.snapshot())  # type: ignore[attr-defined]
    pending = {SECOND: ReplicaState.DELETE_PENDING}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=pending))
    post.wait(HOUR_MS)
    assert not post.replica(1).held(folder)
    post.stores[1] = Replicator(record, TREE, post.organisation, PROMPT, objects, new_guids(9))
    post.put(post.stores[1], post.stores[1].start(post.now, hello.Start.WENT_BACK))
    post.post(1, folder, b"own")
    post.wait(MINUTE_MS, is_of(folder, Changes))
    post.wait(5 * HOUR_MS)
    return not post.replica(1).held(folder) and len(post.messages(0, folder)) == 2


def what_all_expired_is_waited_for_by_nobody() -> bool:
    """All replicas let a post go by age, then one is added: it is told that numbers of replaced versions are
    none that it lacks, if it holds all others."""
    post = Post("aaa")
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(HOUR_MS)
    before_ms = post.now_ms
    message = post.post(0, folder)
    post.do(0, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"new"))
    post.wait(HOUR_MS)
    for store in (0, 1):
        assert post.do(store, lambda replica: expiry.expire(replica, folder, before_ms)) == 1
    added = {THIRD: ReplicaState.ACTIVE}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added))
    post.wait(5 * HOUR_MS)
    return post.stores[2].explain(folder, post.now).is_in_sync


def away_while_a_post_was_deleted(post: Post, folder: ObjectId, message: ObjectId) -> None:
    """The third store is away for so long that the others forget a deletion."""
    is_cut = is_between(THIRD)
    post.do(0, lambda replica: writing.delete(replica, folder, message, ACTOR))
    post.wait(10 * MINUTE_MS, is_cut)
    for store in (0, 1):
        post.purge_after_silence(store, folder, "3")
        assert post.replica(store).objects.get(folder, message) is None


def contents_after_a_change_since_the_question(
    change: Callable[[Replica, ObjectId, ObjectId], Any],
) -> set[bytes]:
    """A store asks which of its versions are deleted; before the answer is made there is a change. What has
    the asker then of the messages?"""
    post = Post("aaa")
    folder = post.folder("123")
    deleted, kept = post.post(0, folder), post.post(0, folder, b"kept")
    post.wait(HOUR_MS)
    away_while_a_post_was_deleted(post, folder, deleted)
    questions: list[Message] = []

    def is_lost(each: Message) -> bool:
        questions.extend([each] if is_of(folder, ReconcileQuestion)(each) else [])
        return is_of(folder, ReconcileQuestion)(each)

    while not questions:
        post.wait(MINUTE_MS, is_lost)
    post.do(int(questions[0].to[:1]) - 1, lambda replica: change(replica, folder, kept))
    post.wait(2_000, lambda each: is_lost(each) or is_of(folder, Changes)(each))
    post.table += questions[:1]
    post.carry(is_lost=is_of(folder, Changes))
    post.wait(5 * HOUR_MS)
    return {content for view in post.messages(2, folder) for content in view.contents}


def a_post_since_the_question_is_not_taken_for_had() -> bool:
    """The change is a post."""
    return contents_after_a_change_since_the_question(
        lambda replica, folder, _: writing.post(replica, folder, b"since", 1000, ACTOR)
    ) == {b"kept", b"since"}


def an_edit_since_the_question_comes_with_the_answer() -> bool:
    """The change is an edit of what the asker holds."""
    return contents_after_a_change_since_the_question(
        lambda replica, folder, kept: writing.edit(replica, folder, kept, ACTOR, content=b"edited")
    ) == {b"edited"}


def a_late_version_of_what_is_gone_does_not_come_back() -> bool:
    """The second version of a message is gone where it is asked for, and the first one, which the asker never
    had, comes after that."""
    post = Post()
    folder = post.folder()
    message = post.post(0, folder, b"first")
    post.wait(2_000, is_of(folder, Changes))
    late = [each for each in post.sent if is_of(folder, Changes)(each)]
    post.do(0, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"second"))
    post.wait(2_000)
    asker = post.replica(1)
    held = asker.objects.get(folder, message)
    assert held is not None and held.holes(asker.state(folder).knowledge.had)
    numbers = CNSet.of(held.siblings)
    applied, gone = asker.state(folder).applied, {message: frozenset(held.siblings)}
    answer = ReconcileAnswer(asker.life(folder), gone, (), numbers, NOTHING, applied)
    statement = Statement(post.replica(0).life(folder), numbers, NOTHING)
    post.do(1, lambda replica: deletion.apply_reconcile(replica, folder, FIRST, statement, answer))
    assert late and not post.messages(1, folder)
    post.table += late
    post.carry()
    return not post.messages(1, folder)


def a_folder_deleted_with_holes_takes_the_older_versions_too() -> bool:
    """The author of a message dies. One store holds its first version, and the other one, which deletes the
    folder, its second one alone."""
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    message = post.post(0, folder, b"first")
    post.wait(2_000, lambda each: is_of(folder, Changes)(each) and each.to == THIRD)
    post.do(0, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"second"))
    post.wait(2_000, lambda each: is_of(folder, Changes)(each) and each.to == SECOND)
    post.lose(0)
    assert [len(post.messages(store, folder)) for store in (0, 1)] == [1, 1]
    post.do(1, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.wait(5 * HOUR_MS)
    return not post.messages(0, folder) and not post.messages(1, folder)


def a_post_that_nobody_else_has_stays() -> bool:
    """A store that missed a deletion comes back with a post of its own that the others have not."""
    post = Post("aaa")
    folder = post.folder("123")
    message = post.post(0, folder)
    post.wait(HOUR_MS)
    post.post(2, folder, b"own")
    away_while_a_post_was_deleted(post, folder, message)
    post.wait(5 * HOUR_MS, lambda each: is_of(folder, Changes)(each) and each.sender.database == THIRD)
    post.wait(5 * HOUR_MS)
    return all([view.contents for view in post.messages(store, folder)] == [(b"own",)] for store in (0, 2))


# Beside those of test_core.py, which hold what is quick to show by two or three stores.
SCHEDULES: dict[Patch, Callable[[], bool]] = {
    circles_stay: of_a_circle_all_hang_from_a_root,
    asks_once: a_request_that_is_lost_is_made_again,
    no_revival: lists_changed_in_two_places_leave_one_active,
    held_beside_the_list: a_copy_from_before_it_left_leaves_again,
    expired_by_all_is_asked_for: what_all_expired_is_waited_for_by_nobody,
    reconciled_later: a_post_since_the_question_is_not_taken_for_had,
    dropped_before_the_rest_comes: an_edit_since_the_question_comes_with_the_answer,
    no_bare_contexts: a_late_version_of_what_is_gone_does_not_come_back,
    deleted_with_holes: a_folder_deleted_with_holes_takes_the_older_versions_too,
    unseen_changes_are_gone: a_post_that_nobody_else_has_stays,
}


@pytest.mark.parametrize("form", SCHEDULES, ids=lambda form: form.__name__)
def test_the_rule_is_needed_in_a_schedule(form: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    holds = SCHEDULES[form]
    assert holds()
    form(monkeypatch)
    assert not holds()
