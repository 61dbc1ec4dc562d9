"""The core, by a few stores that are driven by hand: what is sent, asked, and explained, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from driven_stores import ACTOR, TREE, Post, is_changes, new_guids, to_or_from

from pillarbox.replication.core import (
    applying,
    deletion,
    expiry,
    hierarchy,
    identity,
    leaving,
    replicator,
    status,
    writing,
)
from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.preset import CLASSIC, DAY_MS, HOUR_MS, MINUTE_MS, PRESETS, PROMPT, Preset
from pillarbox.replication.core.replica import Moment, Replica
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.core.state import Row, SetAside
from pillarbox.replication.ground.knowledge import NOTHING, Pair
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.ground.versions import Sight, Versions
from pillarbox.replication.simulation.objects import DictObjects
from pillarbox.replication.wire.messages import (
    AnswerTo,
    BackfillRequest,
    Changes,
    Life,
    Message,
    ReconcileAnswer,
    ReconcileQuestion,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.errors import NotFound, Refused


def requests(post: Post) -> list[Message]:
    return [each for each in post.sent if isinstance(each.body, BackfillRequest) and each.body.needed]


def posted() -> tuple[Post, ObjectId, ObjectId]:
    """Two stores that have held a message for an hour, its folder, and the message."""
    post = Post()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(HOUR_MS)
    return post, folder, message


def test_a_post_reaches_all_replicas_within_a_second() -> None:
    post = Post()
    folder = post.folder()
    post.post(0, folder)
    post.wait(1_000)
    assert [view.contents for view in post.messages(1, folder)] == [(b"c",)]
    assert not requests(post)


def test_a_store_that_the_list_does_not_name_holds_the_folder_and_no_content() -> None:
    post = Post("aaa")
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(HOUR_MS)
    assert post.replica(2).folder(folder) is not None
    assert not post.replica(2).held(folder) and not post.messages(2, folder)


def test_a_local_change_reads_no_folder_but_those_whose_record_it_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    post = Post()
    folder = post.folder()
    post.wait(1_000)

    def walked(self: DictObjects, folder: ObjectId) -> list[ObjectId]:
        assert folder != TREE.hierarchy, "all folders were walked"
        return []

    monkeypatch.setattr(DictObjects, "ids", walked)
    removed = {post.replica(1).me.database: ReplicaState.REMOVED}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=removed))
    assert not post.replica(0).state(folder).rows, "the one that was written follows its list at once"
    post.post(0, folder)


def test_the_last_part_of_an_answer_gives_the_gaps_of_all_of_it() -> None:
    post = Post("aaa")
    folder = post.folder()
    for _ in range(3):
        post.post(0, folder, size_bytes=200_000)
    post.wait(2_000)
    added = {post.replica(2).me.database: ReplicaState.ACTIVE}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added))
    post.wait(MINUTE_MS)
    answers = [
        message.body
        for message in post.changes()
        if isinstance(message.body, Changes) and message.body.answer and message.folder == folder
    ]
    assert [(len(body.objects), body.answer is not None and body.answer.is_last) for body in answers[:3]] == [
        (1, False),
        (1, False),
        (1, True),
    ]
    assert [bool(body.pair.gaps) for body in answers[:3]] == [False, False, True]
    known = [post.replica(store).state(folder).knowledge.known for store in (0, 2)]
    assert known[0] == known[1]


def test_changes_are_sent_once_they_rest_and_at_most_every_five_seconds_while_they_go_on() -> None:
    post = Post()
    folder = post.folder()
    broadcasts = []
    for _ in range(300):  # half a minute of posts
        post.post(0, folder)
        post.wait(100)
        broadcasts += [message for message in post.sent if is_changes(message)]
        post.sent.clear()
    assert 6 <= len(broadcasts) <= 14
    post.wait(6_000)
    assert len(post.messages(1, folder)) == 300


def test_posts_that_come_one_by_one_are_each_there_within_a_second_however_many_they_are() -> None:
    post = Post()
    folder = post.folder()
    for count in range(60):
        post.post(0, folder)
        post.wait(1_000)
        assert len(post.messages(1, folder)) == count + 1


def lost_to(store: bytes) -> Callable[[Message], bool]:
    """All changes that are for one store are lost; over a link another one takes them for its site then."""
    return lambda message: is_changes(message) and message.to == store


@pytest.mark.parametrize(
    ("sites", "replicas", "asker", "after_ms"),
    [("aa", "12", 1, 1 * MINUTE_MS), ("abb", "13", 2, 2 * MINUTE_MS)],
)
def test_what_is_lost_is_asked_for_after_the_first_delay_and_again_after_the_retry(
    sites: str, replicas: str, asker: int, after_ms: int
) -> None:
    post = Post(sites)
    folder = post.folder(replicas)
    is_lost = lost_to(post.replica(asker).me.database)
    post.post(0, folder)
    # The status after the change tells what is missing; over a link the site's follows two seconds later.
    post.wait(5 * MINUTE_MS + 4_000, is_lost=is_lost)
    post.sent.clear()
    spread_ms = after_ms // 10 if "b" in sites else 0
    post.wait(after_ms - 8_000, is_lost=is_lost)
    assert not requests(post)
    post.wait(8_000 + spread_ms, is_lost=is_lost)
    assert len(requests(post)) == 1
    post.wait(2 * after_ms - 8_000 - spread_ms, is_lost=is_lost)
    assert len(requests(post)) == 1
    post.wait(8_000 + 3 * spread_ms)
    assert len(requests(post)) == 2
    assert post.messages(asker, folder)


def test_when_some_of_what_is_asked_for_comes_the_rest_is_tried_as_after_the_first_request() -> None:
    post = Post("aa")
    folder = post.folder()
    lost = [post.post(0, folder), post.post(0, folder)]
    post.wait(2 * HOUR_MS, is_lost=lambda message: is_changes(message) and message.folder == folder)
    (entry,) = post.replica(1).state(folder).entries
    assert entry.tries > 3
    copy = next(message for message in post.changes() if message.folder == folder)
    assert isinstance(copy.body, Changes)
    first = tuple(each for each in copy.body.objects if each[0] == lost[0])
    some = replace(copy, body=Changes(first, Pair(NOTHING, NOTHING)))
    post.put(post.stores[1], post.stores[1].receive(some, post.now))
    (entry,) = post.replica(1).state(folder).entries
    assert entry.tries == 1
    post.sent.clear()
    post.wait(post.replica(1).preset.first_retry.same_site_ms)
    assert len(requests(post)) == 1 and len(post.messages(1, folder)) == 2


def test_the_classic_preset_asks_after_six_hours() -> None:
    post = Post("aa", CLASSIC)
    folder = post.folder()
    post.wait(HOUR_MS)
    post.post(0, folder)
    post.wait(HOUR_MS, is_lost=is_changes)
    post.sent.clear()
    post.wait(4 * HOUR_MS)
    assert not requests(post)
    post.wait(2 * HOUR_MS)
    assert requests(post) and post.messages(1, folder)


@pytest.mark.parametrize(("sites", "hours"), [("aa", (6, 12, 24)), ("ab", (12, 24, 48))])
def test_the_classic_preset_asks_by_the_table_of_the_source(sites: str, hours: tuple[int, ...]) -> None:
    """DOMAIN.md "Backfill array": first request, first retry and later ones, in the site and over sites."""
    post = Post(sites, CLASSIC)
    folder = post.folder()
    post.wait(DAY_MS)
    post.post(0, folder)
    post.wait(2 * HOUR_MS, is_lost=is_changes)  # the status, which says what is missing
    asked_ms = [post.now_ms]
    while len(asked_ms) <= len(hours):
        post.sent.clear()
        post.wait(HOUR_MS, is_lost=is_changes)
        asked_ms += [post.now_ms] * len(requests(post))
    delays = [(later - before) / HOUR_MS for before, later in pairwise(asked_ms)]
    for delay, expected in zip(delays, hours, strict=True):
        assert expected - 2 <= delay <= 1.1 * expected + 1  # over sites up to a tenth later


@pytest.mark.parametrize("preset", PRESETS.values())
def test_a_tombstone_waits_180_days_for_a_replica_that_is_silent(preset: Preset) -> None:
    """DOMAIN.md "Deletes": 180 days bound only the wait for silent ones."""
    post = Post("aaa", preset)
    folder = post.folder("123")
    post.wait(DAY_MS)
    replica = post.replica(0)
    replica.wall_ms = replica.now_ms = post.now_ms + 180 * DAY_MS
    row = replica.state(folder).rows[b"3" * 16]
    heard = {days: replace(row, heard_ms=replica.wall_ms - days * DAY_MS) for days in (179, 180)}
    found = {days: deletion.is_silent(replica, b"3" * 16, each) for days, each in heard.items()}
    assert found == {179: False, 180: True}


def test_a_new_replica_asks_at_once_and_a_silent_source_is_passed_over() -> None:
    post = Post("aaab")
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(HOUR_MS)
    post.sent.clear()
    added = {b"4" * 16: ReplicaState.ACTIVE}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added))

    def is_silent(message: Message) -> bool:
        first = next((each.to for each in requests(post)), None)
        return message.sender.database == first and message.folder == folder

    post.wait(10_000, is_lost=is_silent)
    assert len(requests(post)) == 1 and not post.messages(3, folder)
    post.wait(5 * MINUTE_MS, is_lost=is_silent)
    assert len({message.to for message in requests(post)}) == 2
    assert post.messages(3, folder)


def test_a_status_request_is_repeated_until_it_is_answered() -> None:
    post = Post()
    folder = post.folder("1")
    post.post(0, folder)
    post.wait(HOUR_MS)
    post.sent.clear()
    added = {b"2" * 16: ReplicaState.ACTIVE}

    def is_request(message: Message) -> bool:
        is_answer = message.to == b"2" * 16 and message.folder == folder
        return is_answer or isinstance(message.body, StatusRequest)

    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added))
    post.wait(9 * MINUTE_MS, is_lost=is_request)
    asked = [message for message in post.sent if isinstance(message.body, StatusRequest)]
    assert len(asked) >= 4
    post.wait(3 * MINUTE_MS)
    assert post.messages(1, folder)
    post.sent.clear()
    post.wait(MINUTE_MS)
    assert not any(isinstance(message.body, StatusRequest) for message in post.sent)


def test_an_answer_comes_in_messages_of_a_limited_size_and_a_cut_one_is_continued() -> None:
    post = Post()
    folder = post.folder("1")
    for _ in range(10):
        post.post(0, folder, size_bytes=100_000)
    post.wait(HOUR_MS)
    added = {b"2" * 16: ReplicaState.ACTIVE}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added))
    post.sent.clear()
    answers = 0

    def is_second_answer(message: Message) -> bool:
        nonlocal answers
        answers += is_changes(message) and message.folder == folder
        return answers == 2 and is_changes(message) and message.folder == folder

    post.wait(10_000, is_lost=is_second_answer)
    assert answers == 4 and len(post.messages(1, folder)) == 7
    post.sent.clear()
    post.wait(10 * MINUTE_MS)
    assert len(post.messages(1, folder)) == 10
    carried = [len(m.body.objects) for m in post.sent if isinstance(m.body, Changes) and m.folder == folder]
    assert sum(carried) == 3, "only what was lost is sent again"


def test_messages_that_come_twice_or_late_change_nothing() -> None:
    post = Post()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(2_000)
    old = post.changes()
    post.do(0, lambda replica: writing.delete(replica, folder, message, ACTOR))
    post.wait(HOUR_MS)
    known = post.replica(1).state(folder).knowledge.known
    for _ in range(3):
        post.table += old
        post.carry()
    assert not post.messages(1, folder)
    assert post.replica(1).state(folder).knowledge.known == known


def test_two_edits_that_knew_nothing_of_each_other_both_live_until_one_write_saw_both() -> None:
    post = Post()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(2_000)
    post.edit_apart(folder, message)
    post.wait(HOUR_MS)
    views = [post.messages(store, folder)[0] for store in (0, 1)]
    assert views[0] == views[1] and set(views[0].contents) == {b"mine", b"theirs"}
    post.do(1, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"settled"))
    post.wait(HOUR_MS)
    assert [post.messages(store, folder)[0].contents for store in (0, 1)] == [(b"settled",)] * 2


def test_properties_that_were_set_in_two_places_merge_and_are_no_conflict() -> None:
    post = Post()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(2_000)
    for store, name in ((0, "flagged"), (1, "category")):
        post.do(
            store,
            lambda replica, name=name: writing.edit(
                replica, folder, message, ACTOR, properties={name: "yes"}
            ),
        )
    post.wait(HOUR_MS)
    for store in (0, 1):
        view = post.messages(store, folder)[0]
        assert view.contents == (b"c",) and view.properties.keys() == {"flagged", "category"}


def test_of_a_circle_of_moves_one_folder_stands_in_lost_and_found_everywhere() -> None:
    post = Post()
    one, other = post.folder(), post.folder()
    post.do(0, lambda replica: writing.change_folder(replica, one, ACTOR, parent=other))
    post.do(1, lambda replica: writing.change_folder(replica, other, ACTOR, parent=one))
    post.wait(HOUR_MS)
    shown = hierarchy.places(post.replica(0))
    assert shown == hierarchy.places(post.replica(1))
    assert sorted(shown.values()) == sorted([TREE.lost_and_found, one if shown[other] == one else other])


def test_a_deleted_folder_with_unseen_content_comes_back_in_lost_and_found_with_that_content() -> None:
    post = Post()
    folder = post.folder()
    post.post(0, folder, b"seen")
    post.wait(HOUR_MS)
    post.do(0, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.post(1, folder, b"unseen")
    post.wait(HOUR_MS)
    for store in (0, 1):
        assert hierarchy.places(post.replica(store)) == {folder: TREE.lost_and_found}
        assert [view.contents for view in post.messages(store, folder)] == [(b"unseen",)]


def test_tombstones_go_when_all_replicas_have_seen_them() -> None:
    post = Post()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(2_000)
    post.do(0, lambda replica: writing.delete(replica, folder, message, ACTOR))
    post.wait(2_000)
    assert post.replica(1).objects.get(folder, message) is not None
    post.wait(2 * HOUR_MS)
    assert not [store for store in (0, 1) if post.replica(store).objects.get(folder, message)]


@pytest.mark.parametrize("was_asked", [True, False])
def test_gaps_that_were_asked_for_before_a_start_are_not_believed(was_asked: bool) -> None:
    post = Post()
    folder = post.folder()
    post.wait(HOUR_MS)
    asker, gap = post.replica(1), CNSet.of([ChangeNumber(b"G" * 16, 7)])
    life = asker.life(folder)
    asker.state(folder).requested = frozenset({b"1" * 16})
    if not was_asked:
        post.put(post.stores[1], post.stores[1].start(post.now, Start.AGAIN))
    # What the store had when it asked is not among what the gap requires; it may have gone back since.
    answer = Changes((), Pair(gap, NOTHING), AnswerTo(life, NOTHING, is_last=True))
    message = post.replica(0).message(b"2" * 16, folder, answer)
    post.put(post.stores[1], post.stores[1].receive(message, post.now))
    assert asker.state(folder).knowledge.known.covers(gap) == was_asked


def test_a_bare_context_that_goes_is_no_deletion() -> None:
    post, folder, message = posted()
    replica = post.replica(0)
    held = replica.objects.get(folder, message)
    assert held is not None
    replica.objects.put(folder, message, held.without(CNSet.of([message])))  # it was let go by age elsewhere
    post.do(0, lambda replica: deletion.purge(replica, folder))
    assert replica.objects.get(folder, message) is None
    assert message not in replica.state(folder).knowledge.purged, "who holds it would take it for deleted"


def test_a_hole_is_closed_only_when_all_others_have_said_what_they_have() -> None:
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    store, gone = post.replica(0), CNSet.of_range(b"G" * 16, 1, 9)
    store.record.left_out = gone
    state = store.state(folder)
    assert deletion.closed_holes(store, state, gone) == gone
    heard = dict(state.rows)
    state.rows[b"2" * 16] = Row()
    assert not deletion.closed_holes(store, state, gone), "one was not heard of yet"
    state.rows, state.awaited = heard, frozenset({b"3" * 16})
    assert not deletion.closed_holes(store, state, gone), "one is asked what it has"


def test_a_hole_of_an_ended_origin_is_closed_once_no_store_can_have_been_added_unheard() -> None:
    post = Post("aaa")
    folder = post.folder("12")
    post.wait(HOUR_MS)
    store, gone, third = post.replica(0), CNSet.of_range(b"G" * 16, 1, 9), b"3" * 16
    store.record.owners[b"G" * 16] = b"2" * 16, 0
    state, rounds_ms = store.state(folder), 3 * PROMPT.status_rest_ms
    assert not deletion.closed_holes(store, state, gone), "the third store may hold it, added by the second"
    post.wait(rounds_ms)
    store.unreachable.add(third)
    assert not deletion.closed_holes(store, state, gone), "it cannot be heard"
    store.unreachable.discard(third)
    assert not deletion.closed_holes(store, state, gone)
    post.wait(rounds_ms)
    assert deletion.closed_holes(store, state, gone) == gone


def test_what_went_with_its_folder_stays_deleted_when_an_edit_of_it_is_let_go_by_age() -> None:
    post = Post("aa")
    folder = post.folder("12")
    message = post.post(0, folder)
    post.wait(HOUR_MS)
    post.do(0, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.do(1, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"unseen"))
    post.wait(2 * HOUR_MS)
    assert len(post.messages(0, folder)) == len(post.messages(1, folder)) == 1, "the folder came back"
    later_ms = post.now_ms + HOUR_MS
    assert post.do(0, lambda replica: expiry.expire(replica, folder, later_ms)) == 1
    knowledge = post.replica(0).state(folder).knowledge
    known, expired = knowledge.known, knowledge.expired
    assert message in known and expired
    post.do(0, lambda replica: hierarchy.even_out(replica, [folder]))
    assert (knowledge.known, knowledge.expired) == (known, expired)


def test_the_numbers_that_go_with_a_folder_hold_with_each_edit_what_it_replaced() -> None:
    post = Post()
    folder = post.folder()
    post.post(0, folder)
    post.wait(MINUTE_MS, is_lost=is_changes)
    edited = post.post(0, folder)
    post.wait(MINUTE_MS)
    for content in (b"first", b"second"):
        post.do(1, lambda replica, to=content: writing.edit(replica, folder, edited, ACTOR, content=to))
    before = post.replica(1).objects.get(folder, edited)
    assert before is not None
    assert before.holes(post.replica(1).state(folder).knowledge.had), "the first post was lost"
    [last] = before.siblings
    post.do(1, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    read = post.replica(1).folder(folder)
    assert read is not None
    assert last not in read.cleared, "its tombstone is still to come"
    first_edit = ChangeNumber(last.origin, last.counter - 1)
    assert read.cleared.covers(CNSet.of([edited, first_edit])), "that edit alone would leave the post alive"


@pytest.mark.parametrize("is_replaced", [False, True])
def test_who_let_a_message_go_by_age_learns_by_reconciling_that_it_was_deleted(is_replaced: bool) -> None:
    post, folder, message = posted()
    asker, edit = post.replica(1), CNSet()
    assert post.do(1, lambda replica: expiry.expire(replica, folder, post.now_ms + HOUR_MS)) == 1
    if is_replaced:
        post.do(0, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"edited"))
        held = post.replica(0).objects.get(folder, message)
        assert held is not None
        edit = CNSet.of(held.siblings)
        asker.state(folder).knowledge.expire(edit)
        asker.state(folder).expired_objects[message] |= held.siblings.keys()
    else:
        post.do(0, lambda replica: writing.delete(replica, folder, message, ACTOR))
        post.do(0, lambda replica: replica.objects.remove(folder, message))  # its tombstone was purged
    post.table.clear()
    question = ReconcileQuestion(deletion.sights(asker, folder), asker.state(folder).applied)
    asked = asker.message(b"1" * 16, folder, question)
    post.put(post.stores[0], post.stores[0].receive(asked, post.now))
    post.carry()
    knowledge = asker.state(folder).knowledge
    assert (message in knowledge.known) == (not is_replaced), "a store that holds it is told that it is gone"
    assert (edit & knowledge.expired) == edit, "what replaced it lives there, and was let go here"


def test_a_delete_that_the_others_had_given_up_does_not_hide_what_they_hold() -> None:
    post = Post("aa")
    folder = post.folder("12")
    message = post.post(0, folder)
    post.wait(HOUR_MS)
    theirs, store = post.replica(0).objects.get(folder, message), post.replica(1)
    assert theirs is not None
    post.do(1, lambda replica: writing.delete(replica, folder, message, ACTOR))
    mine, state = store.objects.get(folder, message), store.state(folder)
    assert mine is not None and not mine.live()
    gone = {message: frozenset(mine.siblings)}
    answer = ReconcileAnswer(
        store.life(folder), gone, ((message, theirs),), NOTHING, state.knowledge.known, state.applied
    )
    statement = Statement(Life(1, 1), state.knowledge.known, NOTHING)
    deletion.apply_reconcile(store, folder, b"1" * 16, statement, answer)
    after = store.objects.get(folder, message)
    assert after is not None and after.siblings == theirs.siblings


def test_an_edit_that_was_deleted_is_not_back_with_the_end_of_a_delete_beside_it() -> None:
    post = Post("aa")
    folder = post.folder("12")
    message = post.post(0, folder)
    post.wait(HOUR_MS)
    post.do(1, lambda replica: writing.delete(replica, folder, message, ACTOR))
    post.table.clear()  # so the delete has not seen the edit, nor the edit it
    post.do(0, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"edited"))
    theirs, store = post.replica(0).objects.get(folder, message), post.replica(1)
    tombstone, state = store.objects.get(folder, message), store.state(folder)
    assert theirs is not None and tombstone is not None and not tombstone.live()
    (edit,) = theirs.siblings
    deleted = edit._replace(counter=edit.counter + 1)
    state.knowledge.claim(CNSet.of([edit, deleted]))
    state.knowledge.purged |= CNSet.of([deleted])
    gone, known = {message: frozenset(tombstone.siblings)}, state.knowledge.known
    answer = ReconcileAnswer(store.life(folder), gone, ((message, theirs),), NOTHING, known, state.applied)
    deletion.apply_reconcile(store, folder, b"1" * 16, Statement(Life(1, 1), known, NOTHING), answer)
    assert not post.messages(1, folder)


def test_what_was_let_go_by_age_is_not_back_with_an_answer_that_tells_of_an_edit_beside_it() -> None:
    post, folder, message = posted()
    theirs, store = post.replica(0).objects.get(folder, message), post.replica(1)
    assert theirs is not None
    deleted, above = message._replace(counter=message.counter + 1), ChangeNumber(b"x" * 16, 2)
    assert post.do(1, lambda replica: expiry.expire(replica, folder, post.now_ms + HOUR_MS)) == 1
    state = store.state(folder)
    state.knowledge.expire(CNSet.of([deleted]))  # an edit that was let go with it, and deleted elsewhere
    state.expired_objects[message] |= {deleted}
    seen = {message.origin: deleted.counter, above.origin: above.counter}
    theirs = Versions({**theirs.context, **seen}, theirs.siblings)
    applying.take(store, folder, message, theirs)
    bare = store.objects.get(folder, message)
    assert bare is not None and not bare.siblings, "its context is kept, since a number below it is missing"
    required = state.knowledge.had
    gone = {message: frozenset([deleted])}
    answer = ReconcileAnswer(store.life(folder), gone, ((message, theirs),), NOTHING, required, state.applied)
    deletion.apply_reconcile(store, folder, b"1" * 16, Statement(Life(1, 1), required, NOTHING), answer)
    assert not post.messages(1, folder) and message in state.knowledge.expired


def test_of_a_deleted_folder_nobody_is_told_what_is_doubted() -> None:
    post = Post()
    folder = post.folder()
    post.wait(HOUR_MS)
    before = post.replica(1).message(b"1" * 16, folder, Status())
    post.post(1, folder)
    post.wait(HOUR_MS)
    post.do(0, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.wait(HOUR_MS)
    post.sent.clear()
    post.table.append(before)
    post.wait(HOUR_MS)
    assert post.replica(0).state(folder).rows[b"2" * 16].is_doubted
    assert not [each for each in post.sent if each.folder == folder and each is not before]
    post.do(1, lambda replica: writing.change_folder(replica, folder, ACTOR, parent=TREE.root))
    post.wait(HOUR_MS)
    assert post.replica(0).is_live(folder)
    assert not post.replica(0).state(folder).rows[b"2" * 16].is_doubted, "it is told when the folder is back"


def test_a_leaving_replica_goes_only_when_another_has_all_of_it() -> None:
    post = Post()
    folder = post.folder()
    post.wait(HOUR_MS)
    post.post(1, folder)  # not broadcast yet
    pending = {b"2" * 16: ReplicaState.DELETE_PENDING}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=pending))
    post.wait(MINUTE_MS, is_lost=lambda each: is_changes(each) and each.folder == folder)
    assert post.replica(1).held(folder), "store 1 has not all of it"
    post.wait(HOUR_MS)
    assert post.messages(0, folder) and not post.replica(1).held(folder)


def last_kept() -> tuple[Post, ObjectId]:
    """A folder whose two replicas were to leave, told each at the other's store."""
    post = Post()
    folder = post.folder()
    post.post(0, folder)
    post.wait(HOUR_MS)
    for at, other in ((0, b"2" * 16), (1, b"1" * 16)):
        pending = {other: ReplicaState.DELETE_PENDING}
        post.do(at, lambda replica, to=pending: writing.change_folder(replica, folder, ACTOR, replicas=to))
    post.wait(5 * HOUR_MS)
    return post, folder


def kept(post: Post) -> list[str]:
    """The stores that told that their replica stays though it was to leave."""
    return [store for store, each in post.reported if each.notice is Notice.LAST_REPLICA_KEPT]


def test_of_all_that_were_to_leave_the_one_that_stays_says_so() -> None:
    post, _ = last_kept()
    assert kept(post) == ["2"]


def started_anew(post: Post, store: int, begins: Start = Start.AGAIN, *, is_unclean: bool = False) -> None:
    """End a store, and start it from what it has kept."""
    before = post.replica(store)
    objects = DictObjects(before.objects.snapshot())  # type: ignore[attr-defined]
    record = before.record.copy()
    if is_unclean:
        identity.leave_out_after_unclean_end(record)
    post.stores[store] = Replicator(record, TREE, post.organisation, PROMPT, objects, new_guids(9))
    post.put(post.stores[store], post.stores[store].start(post.now, begins))
    post.wait(HOUR_MS)


def test_a_replica_that_stays_says_so_once_however_often_its_store_is_started() -> None:
    post, folder = last_kept()
    for _ in range(2):
        started_anew(post, 1)
    assert kept(post) == ["2"]
    for state in (ReplicaState.ACTIVE, ReplicaState.DELETE_PENDING):  # it begins again
        entry = {b"2" * 16: state}
        post.do(1, lambda replica, to=entry: writing.change_folder(replica, folder, ACTOR, replicas=to))
    assert kept(post) == ["2", "2"]


def test_a_replica_that_stays_says_so_again_where_that_may_have_been_lost() -> None:
    post, _ = last_kept()
    started_anew(post, 1, is_unclean=True)
    assert kept(post) == ["2", "2"]
    started_anew(post, 1, Start.WENT_BACK)
    assert kept(post) == ["2", "2", "2"]


def test_a_replica_leaves_when_the_others_have_all_of_it_between_them() -> None:
    post = Post("aaa")
    folder = post.folder("123")
    post.post(0, folder)
    post.wait(HOUR_MS)
    later_ms = post.now_ms + HOUR_MS
    post.do(1, lambda replica: expiry.expire(replica, folder, later_ms))
    younger = post.post(0, folder, b"younger")
    post.wait(HOUR_MS)
    post.replica(2).objects.remove(folder, younger)  # as with other age limits
    post.replica(2).state(folder).knowledge.expire(CNSet.of([younger]))
    assert len(post.messages(1, folder)) == len(post.messages(2, folder)) == 1
    pending = {b"1" * 16: ReplicaState.DELETE_PENDING}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=pending))
    post.wait(3 * HOUR_MS)
    assert not post.replica(0).held(folder)


def test_a_change_where_no_active_replica_is_is_refused() -> None:
    post = Post("aaa")
    folder = post.folder("12")
    with pytest.raises(Refused, match="no active replica"):
        post.post(2, folder)
    message = post.post(0, folder)
    post.do(0, lambda replica: writing.delete(replica, folder, message, ACTOR))
    with pytest.raises(NotFound):
        post.do(0, lambda replica: writing.delete(replica, folder, message, ACTOR))


def test_a_wrong_clock_that_is_put_right_leaves_nothing_due_in_its_future() -> None:
    post = Post()
    folder = post.folder()
    ahead = Moment(post.now_ms, 4_070_908_800_000)
    store = post.stores[0]
    _, effects = store.local_changes(lambda replica: writing.post(replica, folder, b"c", 1, ACTOR), ahead)
    post.put(store, effects)
    post.wait(2_000)
    assert post.messages(1, folder)


def test_a_clock_that_is_put_right_changes_which_replica_list_counts() -> None:
    post = Post("aaa")
    folder = post.folder("12")
    ahead, store, third = Moment(post.now_ms, 4_070_908_800_000), post.stores[0], b"3" * 16
    added, taken = {third: ReplicaState.ACTIVE}, {third: ReplicaState.REMOVED}
    store.local_changes(lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added), ahead)
    post.do(1, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=taken))
    post.now_ms += 1_000
    post.put(post.stores[1], post.stores[1].tick(post.now))
    for message in post.table:
        if message.to == store.replica.me.database:
            store.receive(message, ahead)
    post.table.clear()
    assert third in store.replica.state(folder).rows
    store.local_changes(lambda replica: replica.folder(folder), post.now)  # any call, and one that reads it
    assert third not in store.replica.state(folder).rows


@pytest.mark.parametrize("has_ended", [False, True])
def test_what_a_store_sent_in_a_numbering_that_has_ended_is_not_taken(has_ended: bool) -> None:
    post = Post()
    folder = post.folder()
    post.wait(HOUR_MS)
    post.sent.clear()
    post.post(0, folder)
    post.wait(2_000, is_lost=is_changes)
    late = [each for each in post.changes() if each.folder == folder and each.to == b"2" * 16]
    store = post.stores[1]
    if has_ended:
        store.replica.record.owners[b"n" * 16] = (b"1" * 16, 2)
    for each in late:
        post.put(store, store.receive(each, post.now))
    assert late and bool(post.messages(1, folder)) is not has_ended


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_row_that_was_not_heard_believes_no_numbering_that_has_ended(has_ended: bool) -> None:
    post = Post("aaa")
    folder = post.folder("123")
    post.post(0, folder)
    post.wait(HOUR_MS)
    state, first = post.replica(1).state(folder), post.replica(0)
    late = first.message(b"2" * 16, folder, Status(numberings=None))
    told = post.replica(2).message(
        b"2" * 16, folder, Status(numberings=None, mates=statements(first, folder))
    )
    if has_ended:
        post.replica(1).record.owners[b"n" * 16] = (b"1" * 16, first.me.incarnation + 1)
    for message in (late, told):
        state.rows[b"1" * 16] = Row()  # as of a store that was taken off the list and is on it again
        post.put(post.stores[1], post.stores[1].receive(message, post.now))
        assert state.rows[b"1" * 16].is_heard() is not has_ended


def statements(replica: Replica, folder: ObjectId) -> dict[bytes, Statement]:
    """What a store would state of a folder, as its mate tells it."""
    knowledge = replica.state(folder).knowledge
    return {replica.me.database: Statement(replica.life(folder), knowledge.known, knowledge.expired)}


def test_a_store_whose_copy_gives_the_same_numbers_is_quarantined() -> None:
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    copied = post.stores[0].replica
    twin = Replicator(
        copied.record.copy(),
        TREE,
        post.organisation,
        PROMPT,
        DictObjects(copied.objects.snapshot()),  # type: ignore[attr-defined]
        new_guids(9),
    )
    made, _ = twin.local_changes(lambda replica: writing.post(replica, folder, b"twin", 1, ACTOR), post.now)
    post.post(0, folder, b"mine")
    post.wait(2_000)
    post.put(twin, twin.tick(Moment(post.now_ms + 2_000, post.now_ms)))
    post.wait(2_000)
    assert made.origin in post.replica(1).record.quarantined
    post.post(0, folder, b"more")
    post.wait(2_000)
    assert [view.contents for view in post.messages(1, folder)] == [(b"mine",)]


def test_a_link_that_is_down_makes_its_sources_late_once_it_has_stayed_so() -> None:
    post = Post("abb")
    folder = post.folder("13")
    post.post(0, folder)
    post.wait(5 * MINUTE_MS + 4_000, is_lost=lost_to(b"3" * 16))

    def late() -> str:
        return post.stores[2].explain(folder, post.now).plan[0].late

    post.stores[1].link_changed(b"1" * 16, False, post.now)
    post.wait(29_000, is_lost=lost_to(b"3" * 16))
    assert late() == ""
    post.wait(2_000, is_lost=lost_to(b"3" * 16))
    assert late() == "down", "its site-mate stated it"
    post.stores[1].link_changed(b"1" * 16, True, post.now)
    post.wait(11_000, is_lost=lost_to(b"3" * 16))
    assert late() == ""


def test_explain_says_what_is_missing_who_has_it_and_when_it_is_asked_for() -> None:
    post = Post("abb")
    folder = post.folder("13")
    post.post(0, folder)
    post.wait(5 * MINUTE_MS + 4_000, is_lost=lost_to(b"3" * 16))
    told = post.stores[2].explain(folder, post.now)
    assert not told.is_in_sync and told.missing.count() == 2, (
        "the post, and the folder's own number before it"
    )
    assert told.holders[0].database == b"1" * 16 and told.holders[0].has == told.missing
    assert told.wanted[0].numbers == told.missing and told.wanted[0].due_ms > post.now_ms
    assert [(reason.source, reason.cost, reason.asked_count) for reason in told.plan] == [(b"1" * 16, 10, 2)]
    post.wait(HOUR_MS)
    assert post.stores[2].explain(folder, post.now).is_in_sync
    assert not post.stores[2].explain(ObjectId(b"x" * 16, 1), post.now).is_held


# --- rules that seeds rarely show: a schedule with the rule, and with its naive form ------------------------


def heard_only_that_it_was_expired() -> bool:
    """Store 0 expired what store 1 holds, and store 2 hears of store 0 first. Does it get the message?"""
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    post.post(0, folder)
    cut = {b"3" * 16}
    post.wait(HOUR_MS, is_lost=lambda each: each.folder == folder and each.to in cut)
    later_ms = post.now_ms + HOUR_MS
    assert post.do(0, lambda replica: expiry.expire(replica, folder, later_ms)) == 1
    from_0 = {b"1" * 16}
    post.do(0, lambda replica: status.tell(replica, folder, b"3" * 16))
    post.wait(HOUR_MS, is_lost=lambda each: each.to in cut and each.sender.database not in from_0)
    post.wait(HOUR_MS)
    return bool(post.messages(2, folder))


def test_expired_by_all_others_is_computed_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert heard_only_that_it_was_expired()
    assumed = Replica.assumed

    def written(self: Replica, folder: ObjectId) -> CNSet:
        numbers = assumed(self, folder)
        self.state(folder).knowledge.expired |= numbers
        return numbers

    monkeypatch.setattr(Replica, "assumed", written)
    assert not heard_only_that_it_was_expired()


def deleted_while_one_was_away() -> bool:
    """An empty folder is deleted while a store is away, long ago for the others. Does its post live?"""
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    is_cut = to_or_from(b"3" * 16)
    post.post(2, folder)
    post.wait(MINUTE_MS, is_lost=is_cut)
    post.do(0, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.wait(10 * MINUTE_MS, is_lost=is_cut)
    for store in (0, 1):
        post.purge_after_silence(store, TREE.hierarchy, "3")
    post.wait(5 * HOUR_MS)
    return all(folder in hierarchy.places(post.replica(store)) for store in (0, 1, 2)) and bool(
        post.messages(0, folder)
    )


def test_content_that_nobody_else_has_keeps_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deleted_while_one_was_away()
    monkeypatch.setattr(deletion, "is_kept_for_ever", lambda _: False)
    assert not deleted_while_one_was_away()


def rename(replica: Replica, folder: ObjectId, name: str) -> None:
    writing.change_folder(replica, folder, ACTOR, name=name)


def names_after_a_deleted_folder_came_back(post: Post) -> list[set[str]]:
    """A folder is renamed, deleted, and brought back by one who saw neither; then its deleter renames it
    again. The fourth store saw the first name only. The names of its versions at each store."""
    folder = post.folder("1")
    post.wait(HOUR_MS)
    third, fourth = to_or_from(b"3" * 16), to_or_from(b"4" * 16)
    post.do(1, lambda replica: rename(replica, folder, "first"))
    post.wait(10 * MINUTE_MS, third)
    post.do(0, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.wait(10 * MINUTE_MS, lambda message: third(message) or fourth(message))
    post.purge_after_silence(0, TREE.hierarchy, "34")
    post.do(2, lambda replica: rename(replica, folder, "unseen"))
    post.wait(10 * MINUTE_MS, fourth)
    post.do(0, lambda replica: rename(replica, folder, "last"))
    post.wait(10_000, lambda message: fourth(message) and not is_changes(message))
    post.wait(HOUR_MS, lambda message: fourth(message) and not to_or_from(b"2" * 16)(message))
    post.wait(5 * HOUR_MS)
    found = [each.replica.objects.get(TREE.hierarchy, folder) for each in post.stores]
    return [{version.name.value for version in each.live()} if each else set() for each in found]


def test_a_deleted_folder_that_comes_back_has_seen_what_its_deletion_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert names_after_a_deleted_folder_came_back(Post("aaaa")) == [{"last"}] * 4
    monkeypatch.setattr(deletion, "is_kept_for_ever", lambda _: False)
    assert names_after_a_deleted_folder_came_back(Post("aaaa")) != [{"last"}] * 4


def heard_of_a_deletion_by_its_content_alone() -> bool:
    """All that a store says of the hierarchy is lost when it deletes a folder. Does a post go elsewhere?"""
    post = Post("aaa")
    folder = post.folder("123")
    post.post(0, folder, b"cleared")
    post.wait(HOUR_MS)

    def is_untold(message: Message) -> bool:
        return message.folder == TREE.hierarchy and message.sender.database == b"1" * 16

    post.post(1, folder, b"lost on its way to the third store")
    post.wait(2_000, is_lost=lambda each: is_untold(each) or lost_to(b"3" * 16)(each))
    post.do(0, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.wait(2 * HOUR_MS, is_lost=is_untold)
    return not any(view.contents == (b"cleared",) for view in post.messages(2, folder))


def test_content_goes_with_a_deleted_folder_only_where_the_deletion_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not heard_of_a_deletion_by_its_content_alone()
    monkeypatch.setattr(deletion, "cleared_unseen", lambda *_: NOTHING)
    assert heard_of_a_deletion_by_its_content_alone()


@pytest.mark.parametrize("was_deleted", [False, True])
def test_an_older_version_of_what_is_set_aside_is_gone_only_if_it_was_deleted(was_deleted: bool) -> None:
    post, folder, message = posted()
    store = post.replica(0)
    held = store.objects.get(folder, message)
    assert held is not None
    store.objects.remove(folder, message)
    newer, state = ChangeNumber(b"C" * 16, 9), store.state(folder)
    state.knowledge.expire(CNSet.of([newer]))
    state.set_aside[message] = SetAside(frozenset([newer]), "refused", 0, 0, post.now_ms + HOUR_MS)
    if was_deleted:
        store.state(folder).knowledge.purged = CNSet.of(held.siblings)
    question = ReconcileQuestion({message: Sight.of(held)}, 0)
    post.table.clear()
    post.do(0, lambda replica: deletion.answer_reconcile(replica, folder, b"2" * 16, Life(1, 1), question))
    gone = [each.body.gone for each in post.table if isinstance(each.body, ReconcileAnswer)]
    assert gone == [{message: frozenset(held.siblings)} if was_deleted else {}]


@pytest.mark.parametrize("was_deleted", [False, True])
def test_what_was_deleted_once_and_then_let_go_by_age_is_gone(was_deleted: bool) -> None:
    """An edit that had not seen the deletion brought the message back, before it was let go by age."""
    post, folder, message = posted()
    store = post.replica(0)
    held = store.objects.get(folder, message)
    assert held is not None
    if was_deleted:
        store.state(folder).knowledge.purged = CNSet.of(held.siblings)
    later_ms = post.now_ms + HOUR_MS
    post.do(0, lambda replica: expiry.expire(replica, folder, later_ms))
    question = ReconcileQuestion({message: Sight.of(held)}, 0)
    post.table.clear()
    post.do(0, lambda replica: deletion.answer_reconcile(replica, folder, b"2" * 16, Life(1, 1), question))
    gone = [each.body.gone for each in post.table if isinstance(each.body, ReconcileAnswer)]
    assert gone == [{message: frozenset(held.siblings)} if was_deleted else {}]


def test_who_asks_for_content_that_went_with_its_folder_is_asked_whether_it_knows() -> None:
    post = Post("aaa")
    folder = post.folder("123")
    post.post(0, folder, b"cleared")
    post.wait(HOUR_MS)
    post.do(0, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.post(1, folder, b"unseen")
    post.wait(HOUR_MS)
    rows = post.replica(0).state(TREE.hierarchy).rows
    rows[b"3" * 16] = replace(rows[b"3" * 16], known=NOTHING)  # as where no status came since
    request = BackfillRequest(post.replica(0).state(folder).knowledge.known, NOTHING)
    asked = replace(post.sent[-1], sender=post.replica(2).me, to=b"1" * 16, folder=folder, body=request)
    post.put(post.stores[0], post.stores[0].receive(asked, post.now))
    assert any(isinstance(each.body, StatusRequest) and each.to == b"3" * 16 for each in post.table)
    post.wait(1_000)
    assert not deletion.cleared_unseen(post.replica(0), folder, b"3" * 16)


def test_a_replica_that_was_off_the_list_is_asked_what_it_has() -> None:
    post = Post()
    folder = post.folder()
    post.wait(HOUR_MS)
    state = post.replica(0).state(folder)
    state.rows = {}  # as while an older list counted here
    post.do(0, lambda replica: hierarchy.match_rows(replica, folder))
    assert not state.rows[b"2" * 16].is_heard()
    post.wait(2 * MINUTE_MS)
    assert state.rows[b"2" * 16].is_heard() and not state.awaited


def answered_for_an_earlier_life() -> bool:
    """An answer comes when its asker went back to an empty copy. Does the message come all the same?"""
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    old = post.replica(1)
    record, objects = old.record.copy(), DictObjects(old.objects.snapshot())  # type: ignore[attr-defined]
    message = post.post(0, folder, b"first")
    post.wait(2_000, is_lost=lambda each: is_changes(each) and each.to == b"2" * 16)
    post.do(0, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"second"))
    post.wait(2_000, is_lost=lambda each: is_changes(each) and each.to == b"3" * 16)

    def is_answer(each: Message) -> bool:
        is_backfill = isinstance(each.body, Changes) and each.body.answer is not None
        return (is_backfill and each.to == b"2" * 16) or b"3" * 16 in (each.to, each.sender.database)

    post.wait(20 * MINUTE_MS, is_lost=is_answer)
    late = [each for each in post.sent if is_answer(each) and each.folder == folder and is_changes(each)]
    post.stores[1] = Replicator(record, TREE, post.organisation, PROMPT, objects, new_guids(9))
    post.put(post.stores[1], post.stores[1].start(post.now, Start.WENT_BACK))
    post.table = [each for each in late if each.to == b"2" * 16][:1]
    assert post.table
    servers = dict(post.organisation.servers)
    servers[b"1" * 16] = servers[b"1" * 16]._replace(is_removed=True)
    post.carry(is_lost=lambda each: not is_answer(each))
    gone = post.stores.pop(0)
    for store in post.stores:
        post.put(store, store.organisation_changed(replace(post.organisation, servers=servers), post.now))
    post.table = [
        each for each in post.table if gone.replica.me.database not in (each.to, each.sender.database)
    ]
    post.wait(5 * HOUR_MS)
    return [view.contents for view in post.messages(0, folder)] == [(b"first",)]


def test_gaps_stated_to_an_earlier_life_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered_for_an_earlier_life()
    monkeypatch.setattr(replicator, "is_for_this_life", lambda *_: True)
    assert not answered_for_an_earlier_life()


def acknowledged_before_the_last_post() -> bool:
    """A leaving replica gets a post after its statement, from a store that is lost. Does the post live?"""
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    pending = {b"2" * 16: ReplicaState.DELETE_PENDING}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=pending))

    def is_acknowledgement(each: Message) -> bool:
        return isinstance(each.body, Status) and each.body.acknowledgement is not None

    post.wait(3_000, is_lost=is_acknowledgement)
    late = [each for each in post.sent if is_acknowledgement(each) and each.sender.database == b"1" * 16]
    post.post(2, folder, b"last")
    post.wait(2_000, is_lost=lambda each: is_acknowledgement(each) or each.to == b"1" * 16)
    post.lose(2)
    assert late
    post.table = late
    post.wait(5 * HOUR_MS)
    return [view.contents for view in post.messages(0, folder)] == [(b"last",)]


def test_content_goes_only_when_all_that_is_held_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert acknowledged_before_the_last_post()
    monkeypatch.setattr(leaving, "to_cover", lambda state: state.leaving.stated)
    assert not acknowledged_before_the_last_post()


def expired_before_it_was_sent() -> bool:
    """A store with an age limit expires a post that no other replica has yet. Does another one get it?"""
    post = Post("aa")
    folder = post.folder()
    post.wait(HOUR_MS)
    post.post(0, folder)
    later_ms = post.now_ms + HOUR_MS
    post.do(0, lambda replica: expiry.expire(replica, folder, later_ms))
    post.wait(HOUR_MS)
    return bool(post.messages(1, folder))


def test_a_post_is_expired_only_when_another_replica_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert expired_before_it_was_sent()
    monkeypatch.setattr(expiry, "may_expire", lambda *_: True)
    assert not expired_before_it_was_sent()


def sent_again_after_it_was_expired() -> bool:
    """Store 0 expired a post that comes once more; store 2 hears of store 0 first. Does it get the post?"""
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    post.post(1, folder)
    post.wait(HOUR_MS, is_lost=lambda each: each.folder == folder and each.to == b"3" * 16)
    again = [each for each in post.sent if is_changes(each) and each.to == b"1" * 16]
    later_ms = post.now_ms + HOUR_MS
    assert post.do(0, lambda replica: expiry.expire(replica, folder, later_ms)) == 1
    post.table += again
    post.wait(
        HOUR_MS, is_lost=lambda each: b"2" * 16 in (each.to, each.sender.database) and each not in again
    )
    post.wait(5 * HOUR_MS)
    return bool(post.messages(2, folder))


def test_a_number_that_is_refused_stays_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent_again_after_it_was_expired()
    monkeypatch.setattr(applying, "stays_expired", lambda *_: False)
    assert not sent_again_after_it_was_expired()


def test_of_a_message_that_is_refused_the_numbers_before_stay_expired_too() -> None:
    post = Post("aa")
    folder = post.folder()
    post.wait(HOUR_MS)
    message = post.post(1, folder)
    post.wait(HOUR_MS)
    post.do(1, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"new"))
    post.do(0, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"mine"))
    post.wait(HOUR_MS)
    post.do(1, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"both"))
    post.wait(HOUR_MS)
    again = post.changes()[-1:]
    later_ms = post.now_ms + HOUR_MS
    assert post.do(0, lambda replica: expiry.expire(replica, folder, later_ms)) == 1
    expired = post.replica(0).state(folder).knowledge.expired
    assert expired.count() == 2 and again[0].to == b"1" * 16, "the last edit, and one that it replaced"
    post.table += again
    post.carry()
    assert post.replica(0).state(folder).knowledge.expired == expired


def intervals_after_posts_to_two_folders() -> int:
    """Forty posts go to two folders in turn. How many intervals is one folder's knowledge, at most?"""
    post = Post("aa")
    folders = (post.folder(), post.folder())
    for number in range(40):
        post.post(0, folders[number % 2])
        post.wait(7_000)
    post.wait(HOUR_MS)
    known = [post.replica(store).state(folder).knowledge.known for store in (0, 1) for folder in folders]
    assert known[0] == known[2] and known[1] == known[3]
    return max(numbers.intervals_count() for numbers in known)


def test_gaps_of_other_folders_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert intervals_after_posts_to_two_folders() == 1
    number = Replica.number

    def without_gaps(self: Replica, folder: ObjectId) -> ChangeNumber:
        known = self.state(folder).knowledge.known
        given = number(self, folder)
        self.state(folder).knowledge.known = known.with_number(given)
        return given

    monkeypatch.setattr(Replica, "number", without_gaps)
    assert intervals_after_posts_to_two_folders() > 10


def test_noticing_a_conflict_spends_no_number() -> None:
    post = Post("aaa")
    folder = post.folder("123")
    message = post.post(0, folder)
    post.wait(2_000)
    post.edit_apart(folder, message)
    given = [post.replica(store).record.counter for store in (0, 1, 2)]
    post.wait(HOUR_MS)
    assert len(post.messages(2, folder)[0].contents) == 2
    assert [post.replica(store).record.counter for store in (0, 1, 2)] == given


def a_broadcast_from_before_the_delete() -> bool:
    """A message is deleted and its tombstone purged, then an old broadcast arrives. Is the message gone?"""
    post = Post()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(2_000)
    old = post.changes()
    post.do(0, lambda replica: writing.delete(replica, folder, message, ACTOR))
    post.wait(2 * HOUR_MS)
    assert post.replica(1).objects.get(folder, message) is None
    post.table += old
    post.carry()
    return not post.messages(1, folder)


def test_an_absent_object_whose_numbers_were_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert a_broadcast_from_before_the_delete()
    monkeypatch.setattr(applying, "received", lambda arrived, had: arrived)
    assert not a_broadcast_from_before_the_delete()


def one_edit_expired() -> tuple[Post, ObjectId, ObjectId]:
    """Store 2 expired one of two edits that knew nothing of each other, and has not got the other one. The
    stores, the folder and the message."""
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    message = post.post(0, folder)
    post.wait(HOUR_MS)
    post.edit_apart(folder, message)
    post.wait(2_000, is_lost=to_or_from(b"2" * 16))
    later_ms = post.now_ms + HOUR_MS
    assert post.do(2, lambda replica: expiry.expire(replica, folder, later_ms)) == 1
    return post, folder, message


def the_other_comes(post: Post) -> None:
    """Store 2 gets the edit that it lacks, and hears nothing of store 0."""
    post.table += [each for each in post.changes() if each.sender.database == b"2" * 16][-1:]
    post.carry(is_lost=to_or_from(b"1" * 16))


def expired_before_it_was_a_conflict() -> set[bytes]:
    """Store 2 expired one of two edits that knew nothing of each other. Which are left at store 0?"""
    post, folder, message = one_edit_expired()
    third = {b"3" * 16}
    post.wait(HOUR_MS, is_lost=lambda each: each.folder == folder and each.to in third and is_changes(each))
    post.wait(HOUR_MS)
    held = post.replica(2).objects.get(folder, message)
    assert held is not None
    post.do(0, lambda replica: applying.take(replica, folder, message, held))
    return set(post.messages(0, folder)[0].contents)


def test_a_version_that_was_expired_is_not_replaced_by_what_it_is_in_conflict_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert expired_before_it_was_a_conflict() == {b"mine", b"theirs"}
    monkeypatch.setattr(applying, "is_held_again", lambda *_: False)
    assert expired_before_it_was_a_conflict() == {b"theirs"}


def test_a_message_that_is_held_again_is_held_with_all_edits_of_it() -> None:
    post, folder, _ = one_edit_expired()
    the_other_comes(post)
    assert [view.contents for view in post.messages(2, folder)] == [(b"theirs",)]
    post.wait(HOUR_MS)
    assert all(set(post.messages(store, folder)[0].contents) == {b"mine", b"theirs"} for store in (0, 1, 2))


def test_the_rest_of_a_message_that_is_let_go_once_more_is_asked_for_no_more() -> None:
    post, folder, _ = one_edit_expired()
    the_other_comes(post)
    assert post.stores[2].explain(folder, post.now).wanted, "the edit beside it is asked for"
    later_ms = post.now_ms + DAY_MS
    assert post.do(2, lambda replica: expiry.expire(replica, folder, later_ms)) == 1
    post.wait(DAY_MS)
    explained = post.stores[2].explain(folder, post.now)
    assert explained.is_in_sync and not explained.wanted
    assert not post.messages(2, folder)


@pytest.mark.parametrize("sites", ["aa", "ab"])
def test_the_first_change_of_a_folder_leaves_nothing_to_ask_for(sites: str) -> None:
    post = Post(sites)
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(2_000)
    assert post.stores[1].explain(folder, post.now).is_in_sync
    assert not any(isinstance(each.body, BackfillRequest) and each.folder == folder for each in post.sent)
