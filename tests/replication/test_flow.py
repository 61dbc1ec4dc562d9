"""Stop and resume of content in the whole organisation, and broadcasts by schedule."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from driven_stores import ACTOR, TREE, Post, is_changes, to_or_from

from pillarbox.replication.core import commands, folder_settings, organisation_folder, outbox, writing
from pillarbox.replication.core.effects import Answer, AnswerKey
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.schedules import NEVER, Interval, Schedule, parse_schedule
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    Changes,
    Message,
    RestPoll,
    RestSums,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.store.local_time import wall_time

TWO = b"2" * 16


def applied(sites: str = "aab") -> Post:
    """Stores whose organisation is in the hierarchy, some time after their start."""
    post = Post(sites)
    organisation = replace(post.organisation, sites=tuple(sorted(set(sites))))
    post.do(0, lambda replica: organisation_folder.apply(replica, organisation, ACTOR))
    post.wait(MINUTE_MS)
    return post


def stop(post: Post, store: int = 0) -> None:
    post.do(store, lambda replica: commands.stop_content(replica, ACTOR))


def resume(post: Post, store: int = 0, **options: int) -> None:
    post.do(store, lambda replica: commands.resume_content(replica, ACTOR, **options))


def make(post: Post, folder: ObjectId, store: int = 0, content: bytes = b"text") -> ObjectId:
    made: ObjectId = post.do(store, lambda replica: writing.post(replica, folder, content, 100, ACTOR))
    return made


def rename_and_post(replica: Replica, folder: ObjectId) -> None:
    """Change the hierarchy and content of an urgent folder, which go in one bundle."""
    writing.change_folder(replica, folder, ACTOR, name="New")
    writing.post(replica, folder, b"text", 100, ACTOR)


def name_at(post: Post, store: int, folder: ObjectId) -> str:
    read = post.replica(store).folder(folder)
    return read.name.value if read else ""


def is_content(message: Message) -> bool:
    return message.folder != TREE.hierarchy and not isinstance(message.body, Status | StatusRequest)


def content_of(post: Post) -> list[Message]:
    """The messages of content, requests and answers among them, since this was asked last."""
    found = [message for message in post.sent if is_content(message)]
    post.sent.clear()
    return found


# --- stop and resume ----------------------------------------------------------------------------------------


def test_while_stopped_no_content_leaves_and_the_hierarchy_goes_on() -> None:
    post = applied()
    folder = post.folder("123")
    stop(post)
    post.wait(MINUTE_MS)
    content_of(post)
    counters = [store.replica.record.counter for store in post.stores]
    for store in range(3):
        make(post, folder, store)
    made = post.do(1, lambda replica: writing.create_folder(replica, TREE.root, "Late", {}, ACTOR))
    post.wait(3 * DAY_MS)
    assert content_of(post) == []
    assert [len(post.messages(store, folder)) for store in range(3)] == [1, 1, 1]
    assert all(store.replica.folder(made) for store in post.stores), "the hierarchy goes on"
    after = [store.replica.record.counter for store in post.stores]
    assert all(late > early for early, late in zip(counters, after, strict=True)), "changes are numbered"


def test_a_stop_takes_back_no_change_of_the_hierarchy_that_is_in_one_bundle_with_content() -> None:
    post = applied()
    folder = post.folder("123")
    post.do(0, lambda replica: folder_settings.set_priority(replica, folder, Priority.URGENT, ACTOR))
    post.wait(HOUR_MS)

    def is_lost(message: Message) -> bool:
        return message.sender.database == b"1" * 16

    post.do(0, lambda replica: rename_and_post(replica, folder))
    post.wait(1_000, is_lost)
    (flight,) = post.replica(0).lines["b"].flights.values()
    assert flight.numbers.keys() == {TREE.hierarchy, folder}
    post.do(2, lambda replica: commands.stop_content(replica, ACTOR))
    post.wait(1_000, is_lost)
    assert post.replica(0).is_stopped
    post.wait(10 * MINUTE_MS)
    assert name_at(post, 2, folder) == "New"
    assert not post.replica(0).state(TREE.hierarchy).marks and not post.messages(2, folder)


def test_who_holds_content_back_gives_what_is_of_the_hierarchy_in_one_bundle_with_it_when_asked() -> None:
    post = applied("abc")
    folder = post.folder("123")
    post.do(0, lambda replica: folder_settings.set_priority(replica, folder, Priority.URGENT, ACTOR))
    post.wait(HOUR_MS)
    stop(post, 1)
    post.wait(2_000, lambda message: message.to == b"1" * 16)
    post.do(0, lambda replica: rename_and_post(replica, folder))
    post.wait(2_000, lambda message: message.to == b"1" * 16)
    post.wait(10 * MINUTE_MS)
    assert name_at(post, 2, folder) == "New" and not post.messages(2, folder)


def test_after_a_resume_the_backlog_goes_first_and_nobody_asks_for_it() -> None:
    post = applied()
    folder = post.folder("123")
    for store in range(3):
        make(post, folder, store)
    post.wait(HOUR_MS)
    stop(post)
    post.wait(MINUTE_MS)
    for store in range(3):
        make(post, folder, store)
    post.wait(DAY_MS)
    content_of(post)
    resume(post, store=1)
    post.wait(HOUR_MS)
    sent = content_of(post)
    assert [len(post.messages(store, folder)) for store in range(3)] == [6, 6, 6]
    assert not any(isinstance(message.body, BackfillRequest) for message in sent)


def test_while_stopped_sums_are_compared_at_rest_and_no_status_follows_changes() -> None:
    post = applied("aab")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    stop(post)
    post.wait(1_000)
    make(post, folder)
    post.sent.clear()
    post.wait(HOUR_MS)
    assert not [message for message in post.sent if message.folder == folder]
    assert {type(message.body) for message in post.sent} >= {RestPoll, RestSums}


def test_no_entry_falls_due_while_stopped_and_first_delays_count_from_the_resume() -> None:
    post = applied("aa")
    folder = post.folder()
    make(post, folder)
    post.wait(6 * MINUTE_MS, is_lost=lambda message: is_changes(message) and message.folder == folder)
    post.wait(1_000, is_lost=is_content)
    stop(post)
    post.wait(DAY_MS, is_lost=is_content)
    content_of(post)
    resume(post)
    first_ms = post.replica(1).preset.first_request.same_site_ms
    post.wait(first_ms - 1_000)
    assert len(post.messages(1, folder)) == 0
    post.wait(12_000)
    assert len(post.messages(1, folder)) == 1


def test_a_stop_survives_a_restart() -> None:
    post = applied()
    folder = post.folder("123")
    stop(post)
    post.wait(MINUTE_MS)
    for store in post.stores:
        store.replica.organisation = replace(post.organisation)  # as a node begins, by its own file
        post.put(store, store.start(post.now))
    post.wait(MINUTE_MS)
    content_of(post)
    make(post, folder, 2)
    post.wait(DAY_MS)
    assert content_of(post) == []
    resume(post)
    post.wait(HOUR_MS)
    assert [len(post.messages(store, folder)) for store in range(3)] == [1, 1, 1]


def test_a_store_that_was_away_learns_of_the_stop_before_it_sends() -> None:
    post = applied()
    folder = post.folder("123")
    is_away = to_or_from(TWO)
    stop(post)
    post.wait(HOUR_MS, is_lost=is_away)
    make(post, folder, 1)  # made before it can know, and not sent
    post.wait(100, is_lost=is_away)
    post.put(post.stores[1], post.stores[1].start(post.now))
    content_of(post)
    post.wait(DAY_MS)
    assert content_of(post) == []
    assert not post.replica(1).content_flows()
    resume(post)
    post.wait(HOUR_MS)
    assert [len(post.messages(store, folder)) for store in range(3)] == [1, 1, 1]


def test_content_is_not_held_back_for_ever_for_a_hierarchy_that_nobody_has() -> None:
    post = applied()
    folder = post.folder("123")
    post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "Lost", {}, ACTOR))
    one = b"1" * 16
    post.put(post.stores[1], post.stores[1].start(post.now))
    post.put(post.stores[1], post.stores[1].tick(post.now))
    post.carry(is_lost=is_changes)  # the hello is answered, and then the one who knows is gone
    make(post, folder, 1)
    post.wait(DAY_MS - HOUR_MS, is_lost=to_or_from(one))
    assert len(post.messages(2, folder)) == 0
    post.wait(2 * HOUR_MS, is_lost=to_or_from(one))
    assert len(post.messages(2, folder)) == 1


def test_content_is_held_back_for_no_hierarchy_that_was_lost_by_who_told_of_it() -> None:
    post = applied()
    folder = post.folder("123")
    teller = post.replica(0)
    known, said = teller.state(TREE.hierarchy).knowledge.known, teller.life(TREE.hierarchy)
    post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "Lost", {}, ACTOR))
    post.put(post.stores[1], post.stores[1].start(post.now))
    post.put(post.stores[1], post.stores[1].tick(post.now))
    post.carry(is_lost=is_changes)
    assert not post.replica(1).content_flows()
    later = teller.me._replace(incarnation=said.incarnation + 1, origin=b"Z" * 16)
    statement = Statement(said._replace(incarnation=later.incarnation), known, NOTHING)
    told = Message(later, TWO, TREE.hierarchy, statement, Status(numberings=None))
    post.stores[1].receive(told, post.now)
    assert post.replica(1).content_flows()
    make(post, folder, 1)
    post.wait(MINUTE_MS, is_lost=to_or_from(teller.me.database))
    assert len(post.messages(2, folder)) == 1


def waits_for_hierarchy(post: Post, folder: ObjectId) -> Answer:
    """The answer to a mate that asks the second store, which has just started and lacks some hierarchy."""
    make(post, folder, 1)
    post.wait(MINUTE_MS)
    post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "Late", {}, ACTOR))
    post.put(post.stores[1], post.stores[1].start(post.now))
    post.put(post.stores[1], post.stores[1].tick(post.now))
    post.carry(is_lost=is_changes)
    asked, asker = post.replica(1), post.replica(0)
    request = BackfillRequest(asked.state(folder).knowledge.known, NOTHING)
    said = Statement(asker.life(folder), NOTHING, NOTHING)
    post.put(post.stores[1], post.stores[1].receive(Message(asker.me, TWO, folder, said, request), post.now))
    assert not asked.content_flows()
    return asked.answers[AnswerKey(asker.me.database, folder)]


def answers_from(post: Post, store: bytes, folder: ObjectId) -> int:
    found = [m.body for m in post.sent if m.sender.database == store and m.folder == folder]
    return sum(isinstance(body, Changes) and body.answer is not None for body in found)


def test_who_asks_a_store_that_waits_for_the_hierarchy_is_answered_as_soon_as_it_is_there() -> None:
    post = applied("aaa")
    folder = post.folder("123")
    waits_for_hierarchy(post, folder)
    post.sent.clear()
    post.wait(MINUTE_MS, is_lost=lambda each: each.folder == TREE.hierarchy)
    assert not answers_from(post, TWO, folder), "the stop may be in what it lacks"
    post.wait(5 * MINUTE_MS)
    assert post.replica(1).content_flows()
    assert answers_from(post, TWO, folder) == 1


def test_who_asks_a_store_that_waits_for_the_hierarchy_is_not_answered_where_that_holds_a_stop() -> None:
    post = applied("aaa")
    folder = post.folder("123")
    answer = waits_for_hierarchy(post, folder)
    stop(post)
    post.sent.clear()
    post.wait(HOUR_MS)
    resume(post)
    post.wait(HOUR_MS)
    assert not answers_from(post, TWO, folder)
    assert answer.key not in post.replica(1).answers


def test_what_is_missing_of_the_hierarchy_after_a_start_is_asked_for_at_once() -> None:
    post = applied("aaa")
    waits_for_hierarchy(post, post.folder("123"))
    post.wait(10_000)
    assert post.replica(1).content_flows()


def test_a_resume_with_a_start_time_waits_for_it_at_every_store() -> None:
    post = applied()
    folder = post.folder("123")
    stop(post)
    post.wait(MINUTE_MS)
    make(post, folder)
    resume(post, store=2, start_ms=post.now_ms + 5 * HOUR_MS, rate_bytes=10_000)
    post.wait(5 * HOUR_MS - 1_000)
    assert len(post.messages(1, folder)) == len(post.messages(2, folder)) == 0
    post.wait(MINUTE_MS)
    assert len(post.messages(1, folder)) == len(post.messages(2, folder)) == 1
    assert post.replica(0).organisation.content.rate_bytes == 10_000


def test_copies_under_way_wait_in_their_outbox_and_hold_no_hierarchy_up() -> None:
    post = applied("ab")
    folder = post.folder("12")
    post.wait(HOUR_MS)
    for number in range(4):  # the link takes them, and no receipt comes
        make(post, folder, content=b"%d" % number)
        post.put(post.stores[0], post.stores[0].tick(post.now))
        post.now_ms += 6_000
    post.copies.clear()
    stop(post)
    made = post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "Late", {}, ACTOR))
    post.wait(HOUR_MS)
    assert post.replica(1).folder(made), "the hierarchy passes"
    assert len(post.messages(1, folder)) == 0
    resume(post)
    post.wait(MINUTE_MS)
    assert len(post.messages(1, folder)) == 4


def test_an_answer_under_way_ends_with_the_stop() -> None:
    post = applied("aa")
    folder = post.folder()
    make(post, folder)
    replica = post.replica(0)
    chosen = replica.state(folder).knowledge.known
    answer = Answer(TWO, folder, commands.NO_LIFE, chosen, NOTHING, chosen)
    outbox.answer(replica, answer)
    assert post.stores[0].answer_page(answer.key, post.now) is not None
    outbox.answer(replica, answer)
    stop(post)
    assert post.stores[0].answer_page(answer.key, post.now) is None


def test_a_stop_without_an_organisation_in_the_hierarchy_keeps_that_of_the_start() -> None:
    post = Post("aa")
    post.wait(MINUTE_MS)
    stop(post)
    post.wait(MINUTE_MS)
    for store in post.stores:
        assert store.replica.organisation == replace(
            post.organisation, content=store.replica.organisation.content
        )
        assert not store.replica.content_flows()


# --- schedules ----------------------------------------------------------------------------------------------


def scheduled(schedule: Schedule) -> tuple[Post, ObjectId]:
    post = Post()
    folder = post.folder()
    post.do(0, lambda replica: folder_settings.set_schedule(replica, folder, schedule, ACTOR))
    post.wait(MINUTE_MS)
    post.sent.clear()
    return post, folder


def broadcasts(post: Post) -> int:
    found = [m for m in post.sent if m.folder != TREE.hierarchy and isinstance(m.body, Changes)]
    return len(found)


def test_changes_wait_for_the_next_window_of_their_folder() -> None:
    post, folder = scheduled(parse_schedule("weekly Europe/Berlin mon-sun 20:00-20:15"))
    make(post, folder)
    while not post.messages(1, folder):
        post.wait(MINUTE_MS, is_lost=lambda message: isinstance(message.body, BackfillRequest | Status))
    local = wall_time(post.now_ms, ZoneInfo("Europe/Berlin"))
    assert (local.hour, local.minute // 15) == (20, 0)


def test_changes_of_a_folder_go_once_an_interval() -> None:
    post, folder = scheduled(Interval(60))
    lost = (BackfillRequest, Status)
    counts = []
    for _ in range(4):
        for _ in range(6):
            make(post, folder)
            post.wait(10 * MINUTE_MS, is_lost=lambda message: isinstance(message.body, lost))
        counts.append(broadcasts(post))
    assert [late - early for early, late in pairwise(counts)] == [1, 1, 1]


def test_never_stops_broadcasts_only() -> None:
    post, folder = scheduled(NEVER)
    make(post, folder)
    post.wait(4 * MINUTE_MS)
    assert broadcasts(post) == 0
    post.wait(HOUR_MS)  # a status tells of it, and it is asked for
    assert len(post.messages(1, folder)) == 1
    made = post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "Late", {}, ACTOR))
    post.wait(10_000)
    assert post.replica(1).folder(made), "the hierarchy goes"


@pytest.mark.parametrize("schedule", [Interval(60), parse_schedule("weekly UTC mon-sun 00:00-24:00")])
def test_a_first_change_goes_at_once_where_the_schedule_is_open(schedule: Schedule) -> None:
    post, folder = scheduled(schedule)
    post.wait(2 * HOUR_MS)
    make(post, folder)
    post.wait(2_000)
    assert len(post.messages(1, folder)) == 1
