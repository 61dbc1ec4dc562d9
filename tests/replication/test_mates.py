"""The stores of one site spare the link: one asks, states and fetches, and hands on what came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from pillarbox.replication.core import backfill, mates, writing
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, MINUTE_MS, PROMPT
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.core.state import BackfillEntry
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.simulation.objects import DictObjects
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    Changes,
    Fetching,
    Message,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.store.change_number import ChangeNumber, CNSet
from tests.shared.driven_stores import ACTOR, TREE, Post, is_changes, new_guids, to_or_from


def lost_to(*stores: str) -> Callable[[Message], bool]:
    return lambda message: is_changes(message) and message.to[:1].decode() in stores


def over_the_link(post: Post) -> list[Message]:
    """The messages for one store that went from site to site."""
    servers = post.organisation.servers
    passed = {id(message) for _, copy in post.passed for message in copy.bundle.messages}
    return [
        message
        for message in post.sent
        if id(message) not in passed and servers[message.sender.database].site != servers[message.to].site
    ]


def asked_over_the_link(post: Post) -> list[Message]:
    return [message for message in over_the_link(post) if isinstance(message.body, BackfillRequest)]


def answers(messages: list[Message]) -> list[Message]:
    return [each for each in messages if isinstance(each.body, Changes) and each.body.answer]


def all_have(post: Post, folder: ObjectId, count: int, *stores: int) -> bool:
    return all(len(post.messages(store, folder)) == count for store in stores)


def test_what_a_whole_site_lacks_is_asked_for_once_and_handed_on() -> None:
    post = Post("abbbb")
    folder = post.folder("1345")
    post.post(0, folder)
    post.wait(6 * MINUTE_MS, is_lost=lost_to("3", "4", "5"))  # store 2 took the copy for its site
    assert all_have(post, folder, 0, 2, 3, 4)
    post.wait(HOUR_MS)
    assert all_have(post, folder, 1, 2, 3, 4)
    assert len(asked_over_the_link(post)) == 1 and len(answers(over_the_link(post))) == 1
    assert sum(isinstance(message.body, Fetching) for message in post.sent) == 2


def test_when_the_one_that_asked_dies_another_asks_after_its_claim_has_lapsed() -> None:
    post = Post("abbbb")
    folder = post.folder("1345")
    post.post(0, folder)
    post.wait(5 * MINUTE_MS + 4_000, is_lost=lost_to("3", "4", "5"))
    gone: set[bytes] = set()

    def dies_when_it_asks(message: Message) -> bool:
        if isinstance(message.body, BackfillRequest) and not gone:
            gone.add(message.sender.database)
        return bool(gone & {message.to, message.sender.database}) and message.folder == folder

    post.wait(HOUR_MS, is_lost=dies_when_it_asks)
    left = [k for k in (2, 3, 4) if post.replica(k).me.database not in gone]
    assert len(left) == 2 and all_have(post, folder, 1, *left)


def test_replicas_that_a_site_gets_at_once_ask_once_over_the_link() -> None:
    post = Post("abbb")
    folder = post.folder("1")
    for _ in range(5):
        post.post(0, folder, size_bytes=100_000)
    post.wait(HOUR_MS)
    post.sent.clear()
    added = {name * 16: ReplicaState.ACTIVE for name in (b"2", b"3", b"4")}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added))
    post.wait(HOUR_MS)
    assert all_have(post, folder, 5, 1, 2, 3)
    carried = [object_id for each in answers(over_the_link(post)) for object_id, _ in objects(each)]
    assert len(carried) == len(set(carried)) == 5


def objects(message: Message) -> list[tuple[ObjectId, object]]:
    return list(message.body.objects) if isinstance(message.body, Changes) else []


def restarted(post: Post, store: int) -> None:
    old = post.replica(store)
    snapshot = DictObjects(old.objects.snapshot())  # type: ignore[attr-defined]
    post.stores[store] = Replicator(
        old.record.copy(), old.tree, post.organisation, PROMPT, snapshot, new_guids(9)
    )
    post.put(post.stores[store], post.stores[store].start(post.now))


def test_a_store_that_was_away_takes_from_its_mates_what_they_hold() -> None:
    post = Post("aabb")
    folder = post.folder("1234")
    for _ in range(20):
        post.post(0, folder)
        post.wait(20 * MINUTE_MS, is_lost=to_or_from(b"4" * 16))
    post.sent.clear()
    restarted(post, 3)
    post.wait(HOUR_MS)
    assert all_have(post, folder, 20, 3)
    assert not [each for each in asked_over_the_link(post) if each.folder == folder]


def test_over_a_link_one_store_states_for_its_site() -> None:
    post = Post("aaabbb")
    folder = post.folder("123456")
    post.wait(HOUR_MS)
    post.passed.clear()
    post.post(0, folder)
    post.wait(5 * MINUTE_MS + 4_000)
    stated = [
        (hop, message.body)
        for hop, copy in post.passed
        for message in copy.bundle.messages
        if copy.label.is_for_site and message.folder == folder and isinstance(message.body, Status)
    ]
    sites = [post.organisation.servers[hop].site for hop, _ in stated]
    assert sorted(sites) == ["a", "b"] and all(len(body.mates) == 2 for _, body in stated)
    rows = post.replica(0).state(folder).rows
    known = post.replica(0).state(folder).knowledge.known
    assert all(rows[name * 16].known == known for name in (b"4", b"5", b"6"))


def claim(post: Post, folder: ObjectId, store: bytes) -> CNSet:
    """A store is said to have what nobody else has."""
    claimed = CNSet.full(b"Q" * 16, 10)

    def hear(replica: Replica) -> None:
        rows = replica.state(folder).rows
        if store in rows:
            rows[store] = replace(rows[store], known=rows[store].known | claimed)

    for number in range(len(post.stores)):
        post.do(number, hear)
    return claimed


def claimed_by_a_mate(count: int) -> tuple[Post, list[ObjectId], bytes]:
    """Two stores of a site, so many folders, and the store that is said to have what the other has not."""
    post = Post("aa")
    folders = [post.folder("12") for _ in range(count)]
    post.wait(HOUR_MS)
    mate = b"2" * 16
    for folder in folders:
        claim(post, folder, mate)
    return post, folders, mate


@pytest.mark.parametrize(("tries", "asked"), [(2, "2"), (3, "3"), (4, "2"), (5, "3")])
def test_what_did_not_come_in_three_tries_is_asked_of_another_source_at_each_second_one(
    tries: int, asked: str
) -> None:
    post = Post("aab")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    state, missing = post.replica(0).state(folder), CNSet.of([ChangeNumber(b"G" * 16, 7)])
    for name in (b"2" * 16, b"3" * 16):
        state.rows[name] = replace(state.rows[name], known=state.rows[name].known | missing)
    state.entries = (BackfillEntry(missing, post.now_ms, tries),)
    post.sent.clear()
    post.do(0, lambda replica: backfill.ask(replica, folder))
    post.carry()
    assert [each.to for each in post.sent if isinstance(each.body, BackfillRequest)] == [asked.encode() * 16]


def test_that_a_store_holds_again_what_it_let_go_by_age_is_believed_of_itself_alone() -> None:
    post = Post("abb")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    replica, third, number = post.replica(0), b"3" * 16, ChangeNumber(b"G" * 16, 7)
    state, one = replica.state(folder), CNSet.of([number])
    row = state.rows[third]
    state.rows[third] = replace(row, expired=one)
    state.asked_expired = one  # all were asked whether it is held anywhere
    told = Status(mates={third: Statement(row.life, row.known | one, NOTHING)})
    behind = post.replica(1).message(b"1" * 16, folder, told)
    post.sent.clear()
    post.put(post.stores[0], post.stores[0].receive(behind, post.now))
    assert state.rows[third].expired == one, "the mate that tells it may be behind"
    post.wait(2_000, is_lost=lambda message: message.to == b"1" * 16)
    asked = [each.to for each in post.sent if isinstance(each.body, StatusRequest) and each.folder == folder]
    assert asked[0] == third
    itself = replace(behind, sender=post.replica(2).me, statement=told.mates[third], body=Status())
    post.put(post.stores[0], post.stores[0].receive(itself, post.now))
    assert replica.state(folder).rows[third].known == row.known | one


def test_two_mates_that_are_behind_in_what_each_let_go_by_age_are_asked_once_each() -> None:
    post = Post("abb")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    one = CNSet.of([ChangeNumber(b"G" * 16, 7)])
    for store, mate in ((1, b"3" * 16), (2, b"2" * 16)):
        state = post.replica(store).state(folder)
        state.knowledge.expire(one)
        state.rows[mate] = replace(state.rows[mate], known=state.rows[mate].known | one)
    rows = post.replica(0).state(folder).rows
    for mate in (b"2" * 16, b"3" * 16):
        rows[mate] = replace(rows[mate], expired=one)
    post.replica(0).state(folder).asked_expired = one
    post.sent.clear()
    post.do(0, lambda replica: replica.send(b"2" * 16, folder, StatusRequest()))
    post.wait(MINUTE_MS)
    asked = [each.to for each in post.sent if isinstance(each.body, StatusRequest) and each.folder == folder]
    assert asked == [b"2" * 16, b"3" * 16, b"2" * 16]


def test_what_only_a_dead_store_claims_is_not_asked_for_and_is_explained() -> None:
    post = Post("aab")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    dead = b"3" * 16
    is_dead = to_or_from(dead)
    claimed = claim(post, folder, dead)
    post.wait(HOUR_MS, is_lost=is_dead)
    post.sent.clear()
    post.wait(DAY_MS, is_lost=is_dead)
    asked = [each for each in post.sent if isinstance(each.body, BackfillRequest)]
    asked = [each for each in asked if each.sender.database != dead]
    assert not asked
    told = post.stores[0].explain(folder, post.now)
    assert told.missing == claimed and told.wanted and told.holders


def test_what_only_a_dead_store_claims_is_looked_at_rarely_and_asked_for_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    post, folders, dead = claimed_by_a_mate(3)
    asked: list[ObjectId] = []
    ask = backfill.ask
    monkeypatch.setattr(backfill, "ask", lambda replica, folder: asked.append(folder) or ask(replica, folder))
    is_dead = to_or_from(dead)
    post.wait(2 * HOUR_MS, is_lost=is_dead)
    asked.clear()
    post.wait(DAY_MS - 3 * HOUR_MS, is_lost=is_dead)
    assert not asked
    post.sent.clear()
    post.post(1, folders[0])
    post.wait(5 * MINUTE_MS)
    asked_for = [each.folder for each in post.sent if isinstance(each.body, BackfillRequest)]
    assert {*folders} <= {*asked_for}


def test_when_a_mate_does_not_say_what_it_holds_another_site_is_asked_at_the_next_try() -> None:
    post = Post("aab")
    folder = post.folder("13")
    post.post(2, folder)
    post.wait(HOUR_MS)
    added = {b"2" * 16: ReplicaState.ACTIVE}
    post.do(1, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added))

    def says_nothing_of_it(message: Message) -> bool:
        return message.folder == folder and message.sender.database == b"1" * 16

    post.wait(MINUTE_MS, is_lost=says_nothing_of_it)
    assert all_have(post, folder, 0, 1), "the mate may hold it"
    post.wait(2 * MINUTE_MS, is_lost=says_nothing_of_it)
    assert all_have(post, folder, 1, 1)


def test_of_many_folders_that_are_new_each_replica_is_asked_once_of_each() -> None:
    post = Post("aaa")
    active = dict.fromkeys((b"1" * 16, b"2" * 16, b"3" * 16), ReplicaState.ACTIVE)

    def make(replica: Replica) -> list[ObjectId]:
        count = 4 * mates.UNANSWERED_MAX
        return [writing.create_folder(replica, TREE.root, f"{k}", active, ACTOR) for k in range(count)]

    folders = post.do(0, make)
    post.wait(HOUR_MS)
    asked = Counter(
        (each.sender.database, each.to, each.folder)
        for each in post.sent
        if isinstance(each.body, StatusRequest) and each.folder in folders
    )
    assert {folder for _, _, folder in asked} == {*folders} and {*asked.values()} == {1}


def test_of_many_folders_of_a_mate_that_died_a_few_are_asked_for() -> None:
    post, _, dead = claimed_by_a_mate(40)
    post.sent.clear()
    post.wait(DAY_MS, is_lost=to_or_from(dead))
    asked = [each for each in post.sent if isinstance(each.body, BackfillRequest) and each.to == dead]
    assert 1 <= len(asked) <= mates.UNANSWERED_MAX + 2, "a round or two may still count it as there"


def test_a_request_is_not_made_while_the_way_is_down_and_its_delay_counts_anew() -> None:
    post = Post("ab")
    folder, other = post.folder("12"), post.folder("12")
    post.wait(HOUR_MS)
    post.post(1, other)  # its copy gets no receipt: that is how the way is seen to be down
    post.wait(30_000, is_lost=lambda message: message.sender.database == b"2" * 16)
    claim(post, folder, b"1" * 16)
    post.do(1, lambda replica: replica.state(folder))
    post.sent.clear()
    post.wait(4 * MINUTE_MS, is_lost=lambda message: message.sender.database == b"2" * 16)
    assert not asked_over_the_link(post)
    post.wait(2 * MINUTE_MS)  # the copy was given again after five minutes of silence
    assert not asked_over_the_link(post)
    post.wait(3 * MINUTE_MS)
    assert len(asked_over_the_link(post)) == 1


def test_while_more_traffic_waits_behind_what_came_its_numbers_are_not_asked_for() -> None:
    post = Post("ab")
    post.wait(HOUR_MS)
    store = post.replica(1)
    store.now_ms = post.now_ms
    mates.note_traffic(store, b"1" * 16, 0)
    assert mates.traffic_until_ms(store, b"A" * 16) <= store.now_ms
    flows = []
    for minute in range(26 * 60):
        store.now_ms = post.now_ms + minute * MINUTE_MS
        mates.note_traffic(store, b"1" * 16, 5_000)
        flows.append(mates.traffic_until_ms(store, b"A" * 16) > store.now_ms)
    assert flows == [True] * 24 * 60 + [False] * 2 * 60, "a day at most"
    store.now_ms += 3 * MINUTE_MS
    mates.note_traffic(store, b"1" * 16, 5_000)
    assert mates.traffic_until_ms(store, b"A" * 16) == store.now_ms + 2 * MINUTE_MS, "until two minutes after"
    assert mates.traffic_until_ms(store, b"B" * 16) == 0, "what this site makes comes over no link"
