"""At rest sites compare sums: no folder is named while all is equal, and what differs is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from driven_stores import ACTOR, TREE, Post

from pillarbox.replication.core import at_rest, expiry, folder_sums, mates, status, writing
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.wire.messages import BucketDigests, Message, RestPoll, RestSums, StatusRequest
from pillarbox.store.change_number import ChangeNumber, CNSet

ROUND_MS = 15 * MINUTE_MS


def kinds(messages: list[Message]) -> set[str]:
    return {type(message.body).__name__ for message in messages}


def about(folder: ObjectId, *stores: str) -> Callable[[Message], bool]:
    return lambda message: message.folder == folder and message.to[:1].decode() in stores


def dead(*stores: str) -> Callable[[Message], bool]:
    names = {name.encode() * 16 for name in stores}
    return lambda message: message.to in names or message.sender.database in names


def test_at_rest_no_message_names_a_folder_and_a_link_carries_one_for_each_site() -> None:
    post = Post("aabbcc")
    folders = [post.folder("1246") for _ in range(5)]
    for folder in folders:
        post.post(0, folder)
    post.wait(2 * HOUR_MS)
    post.sent.clear()
    post.passed.clear()
    post.wait(HOUR_MS)
    assert kinds(post.sent) == {"RestPoll", "RestSums"}
    servers = post.organisation.servers
    over_b_c = [
        hop
        for hop, copy in post.passed
        if copy.label.is_for_site and {servers[hop].site, servers[copy.label.to].site} == {"b", "c"}
    ]
    assert len(over_b_c) == 4 * 3, "each quarter of an hour those of a and b one way, that of c the other"


@pytest.mark.parametrize("away", ["34", "2"])
def test_what_a_site_or_a_store_missed_is_found_at_rest(away: str) -> None:
    post = Post("aabb")
    folder, other = post.folder("1234"), post.folder("1234")
    post.wait(HOUR_MS)
    post.post(0, folder)
    post.wait(40 * MINUTE_MS, is_lost=about(folder, *away))
    behind = int(away[0]) - 1
    assert not post.messages(behind, folder)
    post.sent.clear()
    post.wait(HOUR_MS)
    assert all(len(post.messages(store, folder)) == 1 for store in range(4))
    assert not [message for message in post.sent if message.folder == other], "that one was equal"


def test_of_different_hierarchies_nothing_else_is_compared() -> None:
    post = Post("ab")
    folder = post.folder("12")
    post.wait(HOUR_MS)
    post.post(0, folder)
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, name="Other"))
    post.wait(ROUND_MS, is_lost=lambda message: True)
    post.sent.clear()
    post.cut.clear()
    post.wait(ROUND_MS + 1, is_lost=lambda message: not isinstance(message.body, RestSums))
    assert "StatusRequest" in kinds(post.sent)
    assert not [
        m
        for m in post.sent
        if isinstance(m.body, RestSums) and any(len(s) > 16 for s in m.body.sums.values())
    ]
    post.wait(2 * HOUR_MS)
    assert len(post.messages(1, folder)) == 1


def test_a_status_that_was_lost_leaves_no_row_behind() -> None:
    post = Post("aabb")
    folder = post.folder("1234")
    post.wait(HOUR_MS)
    post.post(0, folder)
    post.wait(2_000)
    post.wait(10 * MINUTE_MS, is_lost=about(folder, "1"))  # the others have the post, and it cannot know
    had = post.replica(0).state(folder).knowledge.had
    assert not any(row.had.covers(had) for row in post.replica(0).state(folder).rows.values())
    post.wait(HOUR_MS, is_lost=about(folder, "1"))
    assert all(row.had.covers(had) for row in post.replica(0).state(folder).rows.values())
    assert post.stores[0].explain(folder, post.now).is_in_sync


@pytest.mark.parametrize("behind", [1, 2])
def test_a_row_that_is_behind_in_what_others_let_go_by_age_is_found_within_the_site(behind: int) -> None:
    post = Post("abb")
    folder = post.folder("123")
    post.wait(HOUR_MS)
    let_go = CNSet.of([ChangeNumber(b"G" * 16, 7)])
    post.do(0, lambda replica: replica.state(folder).knowledge.expire(let_go))

    def hear(replica: Replica) -> None:
        rows = replica.state(folder).rows
        rows[b"1" * 16] = replace(rows[b"1" * 16], expired=let_go)

    post.do(3 - behind, hear)
    assert not post.replica(behind).assumed(folder)
    post.wait(HOUR_MS)
    assert post.replica(behind).assumed(folder) == let_go


def test_a_row_is_not_doubted_for_what_was_let_go_by_age_here() -> None:
    post = Post("aabb")
    folder = post.folder("1234")
    post.wait(HOUR_MS)
    post.post(0, folder)
    post.wait(HOUR_MS)
    later_ms = post.now_ms + HOUR_MS
    assert post.do(0, lambda replica: expiry.expire(replica, folder, later_ms)) == 1
    post.wait(HOUR_MS)
    post.post(0, folder)
    post.wait(2_000)
    post.wait(2 * HOUR_MS, is_lost=about(folder, "1"))
    rows = post.replica(0).state(folder).rows.values()
    assert post.replica(0).fired["row_settled"]
    assert not any(row.is_doubted for row in rows)


def test_what_a_dead_store_alone_holds_of_its_site_is_compared_by_nobody() -> None:
    post = Post("aabbb")
    folders = [post.folder("125") for _ in range(20)]
    for folder in folders:
        post.post(0, folder)
    post.wait(2 * HOUR_MS)
    post.wait(2 * HOUR_MS, is_lost=dead("5"))
    post.sent.clear()
    post.wait(DAY_MS, is_lost=dead("5"))
    living = [message for message in post.sent if message.sender.database != b"5" * 16]
    assert kinds(living) <= {"RestPoll", "RestSums", "LinkReport"}


def test_when_the_head_of_a_site_dies_the_next_one_asks() -> None:
    post = Post("aabb")
    folder = post.folder("1234")
    post.wait(HOUR_MS)
    head = at_rest.head(post.replica(0))
    post.sent.clear()
    post.wait(2 * HOUR_MS, is_lost=dead(head[:1].decode()))
    others = [m for m in post.sent if isinstance(m.body, RestSums) and m.sender.database != head]
    assert {post.organisation.servers[m.sender.database].site for m in others} == {"a", "b"}
    post.post(0 if head != b"1" * 16 else 1, folder)
    post.wait(HOUR_MS)
    assert all(len(post.messages(store, folder)) == 1 for store in range(4))


def test_sums_follow_what_changed_as_if_they_were_made_anew() -> None:
    post = Post("aab")
    folders = [post.folder("123") for _ in range(6)]
    post.wait(HOUR_MS)
    replica = post.replica(0)
    for number, folder in enumerate(folders):
        post.post(number % 3, folder)
        post.wait(MINUTE_MS)
        folder_sums.refresh(replica, {})
        of_site = {site: list(sums) for site, sums in replica.rounds.sums.of_site.items()}
        replica.rounds.sums.organisation = None
        folder_sums.refresh(replica, {})
        assert replica.rounds.sums.of_site == of_site
    post.do(0, lambda replica: writing.change_folder(replica, folders[0], ACTOR, name="Other"))
    assert folders[0] in replica.rounds.sums.changed


def test_digests_are_asked_of_the_buckets_that_differ_alone() -> None:
    post = Post("ab")
    folders = [post.folder("12") for _ in range(30)]
    post.wait(HOUR_MS)
    post.post(0, folders[0])
    post.wait(40 * MINUTE_MS, is_lost=lambda message: message.folder == folders[0])
    post.sent.clear()
    post.wait(HOUR_MS)
    named = {folder for m in post.sent if isinstance(m.body, BucketDigests) for folder in m.body.digests}
    assert folders[0] in named and len(named) < 10
    asked = [m for m in post.sent if isinstance(m.body, StatusRequest)]
    assert {message.folder for message in asked} == {folders[0]} and len(asked) == 1


def test_a_store_that_is_away_is_asked_for_few_statuses_and_at_once_when_it_is_back() -> None:
    post = Post("aab")
    post.wait(HOUR_MS)
    away = dead("2")
    folders = [post.do(0, lambda replica: create(replica)) for _ in range(40)]
    post.wait(DAY_MS, is_lost=away)
    asked = [m for m in post.sent if isinstance(m.body, StatusRequest) and m.to == b"2" * 16]
    by_one = Counter(message.sender.database for message in asked)
    assert max(by_one.values()) <= mates.UNANSWERED_MAX + 4
    assert any(post.replica(0).state(folder).awaited for folder in folders)
    post.wait(20 * MINUTE_MS)
    assert not any(post.replica(0).state(folder).awaited for folder in folders)


def test_mates_that_are_behind_in_what_they_know_of_each_other_are_doubted_once() -> None:
    post = Post("aab")
    folder = post.folder("123")
    post.post(0, folder)
    post.wait(HOUR_MS)
    for store, mate in ((0, b"2" * 16), (1, b"1" * 16)):
        rows = post.replica(store).state(folder).rows
        rows[mate] = replace(rows[mate], known=NOTHING)
    doubting = post.replica(2).state(folder)
    doubting.rows[b"1" * 16] = replace(doubting.rows[b"1" * 16], is_doubted=True)
    post.do(2, lambda replica: status.note_doubt(replica, folder) or replica.touched.add(folder))
    post.sent.clear()
    post.wait(HOUR_MS, is_lost=lambda message: isinstance(message.body, RestPoll | RestSums))
    asked = [message for message in post.sent if isinstance(message.body, StatusRequest)]
    assert 1 <= len(asked) <= 3
    assert not any(row.is_doubted for row in doubting.rows.values())


def create(replica: Replica) -> ObjectId:
    lists = {name * 16: ReplicaState.ACTIVE for name in (b"1", b"2", b"3")}
    return writing.create_folder(replica, TREE.root, "News", lists, ACTOR)


def test_silent_stores_are_told_in_the_next_round() -> None:
    post = Post("aaab")
    post.folder("1234")
    post.wait(HOUR_MS)
    head = at_rest.head(post.replica(0))
    gone = next(name for name in "123" if name.encode() * 16 != head)
    post.wait(2 * ROUND_MS + 1, is_lost=dead(gone))
    polls = [m.body for m in post.sent if isinstance(m.body, RestPoll) and m.sender.database == head]
    assert polls[-1].silent["a"] == {gone.encode() * 16}
    assert TREE.hierarchy in {m.folder for m in post.sent}
