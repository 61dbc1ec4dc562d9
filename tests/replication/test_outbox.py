"""Fan-out over links: one copy for each site, handed on by who gets it, and sent again until it is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pillarbox.replication.core import folder_settings, forwarding, outbox, writing
from pillarbox.replication.core.effects import Answer, Effect, GiveReceipt, Pass
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.core.line import Flight, Line
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, MINUTE_MS, PROMPT
from pillarbox.replication.core.replica import Moment
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.core.state import NEVER_MS
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.link_state import LinkState
from pillarbox.replication.simulation.objects import DictObjects
from pillarbox.replication.wire.messages import (
    Changes,
    Class,
    Label,
    Life,
    Message,
    Receipt,
    RestPoll,
    RestSums,
    Says,
)
from pillarbox.store.change_number import CNSet
from tests.shared.driven_stores import ACTOR, Post, is_changes, new_guids, to_or_from


def site_copies(post: Post) -> Counter[tuple[str, str]]:
    """How many copies of changes went from site to site."""
    servers = post.organisation.servers
    return Counter(
        (servers[hop].site, servers[copy.label.to].site)
        for hop, copy in post.passed
        if copy.label.is_for_site and any(map(is_changes, copy.bundle.messages))
    )


def is_about(folder: ObjectId, copy: Pass) -> bool:
    return any(is_changes(each) and each.folder == folder for each in copy.bundle.messages)


def first_takers(post: Post, folder: ObjectId) -> list[bytes]:
    return [copy.label.to for _, copy in post.passed if copy.label.is_for_site and is_about(folder, copy)]


def lost_to(*stores: bytes) -> Callable[[Message], bool]:
    return lambda message: message.to in stores and is_changes(message)


def has_all(post: Post, folder: ObjectId, count: int, stores: range) -> bool:
    return all(len(post.messages(store, folder)) == count for store in stores)


def test_a_change_crosses_each_link_of_the_tree_once_and_reaches_all_replicas() -> None:
    post = Post("aabbbcc")
    folder = post.folder("1234567")
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000)
    assert site_copies(post) == {("a", "b"): 1, ("b", "c"): 1}
    assert has_all(post, folder, 1, range(7))


def test_a_site_without_a_replica_hands_on_what_it_does_not_hold() -> None:
    post = Post("abbc")
    folder = post.folder("14")
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000)
    assert site_copies(post) == {("a", "b"): 1, ("b", "c"): 1}
    assert has_all(post, folder, 1, range(3, 4))
    assert not post.replica(1).held(folder) and not post.replica(2).held(folder)


def test_no_copy_goes_to_sites_behind_which_no_replica_is() -> None:
    post = Post("aabc")
    folder = post.folder("123")
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000)
    assert site_copies(post) == {("a", "b"): 1}


def test_who_gives_no_receipt_is_silent_for_five_minutes_and_the_next_gets_the_copy() -> None:
    post = Post("abb")
    folder = post.folder("123")
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000, is_lost=lost_to(b"2" * 16, b"3" * 16))
    (first,) = first_takers(post, folder)
    post.wait(7_000, is_lost=lost_to(first))
    assert len(first_takers(post, folder)) == 1, "its receipt is due ten seconds after the link took it"
    post.wait(3_000, is_lost=lost_to(first))
    other = first_takers(post, folder)[1]
    assert other != first
    assert len(post.messages([b"1", b"2", b"3"].index(other[:1]), folder)) == 1

    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000, is_lost=lost_to(first))
    assert first_takers(post, folder) == [other], "the silent one is passed over"
    post.passed.clear()
    post.wait(5 * MINUTE_MS)
    post.post(0, folder)
    post.wait(2_000)
    assert first_takers(post, folder) == [first], "and tried again after five minutes"


class Unanswered(Post):
    """While it `is_deaf` no receipt and no question arrives."""

    is_deaf = False

    def put(self, store: Replicator, effects: list[Any]) -> None:
        receipts = [each for each in effects if isinstance(each, GiveReceipt)]
        self.receipts = [*getattr(self, "receipts", []), *receipts]
        super().put(store, [each for each in effects if not (self.is_deaf and each in receipts)])

    def asked(self) -> list[Receipt]:
        return [each.receipt for each in self.receipts if each.receipt.says is Says.ASKS]


def test_a_receipt_that_was_lost_is_asked_for_and_the_copy_does_not_go_again() -> None:
    post = Unanswered("ab")
    folder = post.folder("12")
    post.is_deaf = True
    post.passed.clear()
    post.post(0, folder)
    post.wait(3_000)
    post.is_deaf = False
    assert post.replica(0).lines["b"].flights
    post.wait(3_000)
    assert len(post.asked()) == 1 and not post.replica(0).lines["b"].flights
    assert first_takers(post, folder) == [b"2" * 16]


def test_over_a_link_that_takes_nothing_back_goes_a_question_and_no_content() -> None:
    post = Unanswered("ab")
    folder = post.folder("12")
    post.is_deaf = True
    post.passed.clear()
    post.post(0, folder)
    post.wait(HOUR_MS)
    assert first_takers(post, folder) == [b"2" * 16]
    assert len(post.asked()) > 10


def test_who_has_not_got_a_copy_gets_it_when_it_is_asked() -> None:
    post = Post("ab")
    folder = post.folder("12")
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000, is_lost=lost_to(b"2" * 16))
    post.wait(6 * MINUTE_MS)
    assert first_takers(post, folder) == [b"2" * 16] * 2
    assert has_all(post, folder, 1, range(1, 2))


def test_a_copy_that_its_server_has_not_got_is_waited_for_and_given_to_it_again() -> None:
    """The server answers, so the copy is late, or was lost: another one of the site would get it twice."""
    post = Post("abb")
    folder = post.folder("123")
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000, is_lost=lost_to(b"2" * 16, b"3" * 16))
    (first,) = first_takers(post, folder)
    post.wait(85_000)
    assert first_takers(post, folder) == [first]
    post.wait(10_000)
    assert first_takers(post, folder) == [first, first]
    assert has_all(post, folder, 1, range(1, 3))


def test_copies_of_a_store_that_was_removed_are_dropped_and_the_line_is_free() -> None:
    """All others refuse what it said, and those that wait for another site would be offered one by one."""
    post = Post("abc")
    folder, other = post.folder("13"), post.folder("23")
    for _ in range(5):
        post.post(0, folder)
        post.wait(10 * MINUTE_MS, is_lost=to_or_from(b"3" * 16))
    assert len(post.replica(1).record.passing["c"]) > 5 and post.replica(1).lines["c"].flights
    post.lose(0)
    bridgehead = post.replica(0)
    assert not bridgehead.record.passing["c"]
    post.passed.clear()
    post.post(0, other)
    post.wait(6 * MINUTE_MS)
    assert len(post.messages(1, other)) == 1
    assert not first_takers(post, folder)


def wait_answering(post: Post, duration_ms: int, is_lost: Callable[[Message], bool]) -> None:
    """Let time pass while copies are lost, and questions after them are answered."""
    for _ in range(duration_ms // 1_000):
        post.cut.clear()
        post.wait(1_000, is_lost=is_lost)


def test_each_server_gets_a_copy_twice_that_it_answers_not_to_have_and_then_it_goes_no_more() -> None:
    """What is lost each time, or refused as it comes, would keep back all that is behind it."""
    post = Post("abb")
    folder, other = post.folder("123"), post.folder("123")
    post.passed.clear()
    post.post(0, folder)
    begun_ms, gives = post.now_ms, list[tuple[int, bytes]]()
    is_lost = lost_of(folder)
    while post.replica(0).lines["b"].flights or not gives:
        before = len(first_takers(post, folder))
        wait_answering(post, 1_000, is_lost)
        gives += [((post.now_ms - begun_ms) // 1_000, to) for to in first_takers(post, folder)[before:]]
        assert post.now_ms - begun_ms < HOUR_MS
    (_, first), (_, again), (_, second), (_, second_again) = gives
    assert first == again != second == second_again
    assert [round(seconds, -1) for seconds, _ in gives] == [0, 90, 180, 270]
    line = post.replica(0).lines["b"]
    assert not line.silent and not post.replica(0).state(folder).marks
    post.post(0, other)
    wait_answering(post, 3_000, is_lost)
    assert has_all(post, other, 1, range(1, 3)), "nobody is passed over for it"
    post.wait(HOUR_MS)
    assert has_all(post, folder, 1, range(1, 3)), "who lacks it asks"


def lost_of(folder: ObjectId) -> Callable[[Message], bool]:
    return lambda message: message.folder == folder and is_changes(message)


@pytest.mark.parametrize("dies_ms", [6_000, 89_000], ids=["on its way", "before it is asked once more"])
def test_a_server_that_answers_and_then_dies_is_waited_for_until_it_answers_no_more(dies_ms: int) -> None:
    post = Post("abb")
    folder = post.folder("123")
    post.passed.clear()
    post.post(0, folder)
    wait_answering(post, dies_ms, lost_of(folder))
    (first,) = first_takers(post, folder)
    post.cut.add((b"1" * 16, first))
    post.wait(15_000, is_lost=to_or_from(first))
    assert len(first_takers(post, folder)) == 2 and first in post.replica(0).lines["b"].silent


def test_an_answer_to_a_question_of_before_says_nothing_of_a_copy_that_has_not_left_yet() -> None:
    post = Post("ab")
    folder = post.folder("12")
    post.wait(MINUTE_MS)
    post.do(0, lambda replica: writing.post(replica, folder, b"c", 10, ACTOR))
    store = post.stores[0]
    post.copies.clear()
    for effect in store.tick(Moment(post.now_ms + 1_000, post.now_ms + 1_000)):
        assert isinstance(effect, Pass)
    (flight,) = store.replica.lines["b"].flights.values()
    store.receipt_came(Receipt(flight.bundle.key, flight.to, Says.NOT_TAKEN), post.now)
    assert flight.patience_ms == 10_000


@pytest.mark.parametrize("lost", [b"3" * 16, b"4" * 16])
def test_a_receipt_of_one_site_ends_nothing_that_is_on_its_way_to_another(lost: bytes) -> None:
    post = Post("abcd", star="b")
    folder = post.folder("134")
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000, is_lost=lost_to(lost))
    assert any(line.flights for line in post.replica(1).lines.values()), "one copy has no receipt"
    post.wait(6 * MINUTE_MS)
    assert first_takers(post, folder).count(lost) == 2
    assert has_all(post, folder, 1, range(2, 4))


def test_no_copy_is_kept_for_a_site_whose_last_store_has_left() -> None:
    post = Post("abc")
    folder = post.folder("123")
    post.wait(MINUTE_MS)
    servers = dict(post.organisation.servers)
    servers[b"3" * 16] = servers[b"3" * 16]._replace(is_removed=True)
    gone = replace(post.organisation, servers=servers)
    post.put(post.stores[1], post.stores[1].organisation_changed(gone, post.now))
    post.post(0, folder)
    post.wait(2_000)
    assert has_all(post, folder, 1, range(2))
    assert not post.replica(1).record.passing.get("c")


def about(folder: ObjectId, sender: bytes) -> Callable[[Message], bool]:
    return lambda message: message.folder == folder and message.sender.database == sender


def test_what_all_behind_a_link_have_by_another_way_is_not_sent() -> None:
    post = Post("ab")
    folder = post.folder("12")
    for _ in range(3):  # two bundles wait for receipts, the third post is marked alone
        post.post(0, folder)
        post.wait(3_000, is_lost=lost_to(b"2" * 16))
    store, known = post.replica(0), post.replica(0).state(folder).knowledge.known
    row = store.state(folder).rows[b"2" * 16]
    store.state(folder).rows[b"2" * 16] = replace(row, life=Life(1, 1), known=known)
    post.passed.clear()
    contradicts = about(folder, b"2" * 16)
    post.cut.clear()
    post.wait(6 * MINUTE_MS, is_lost=lambda each: lost_to(b"2" * 16)(each) or contradicts(each))
    assert not first_takers(post, folder)
    assert not store.state(folder).marks and not store.lines["b"].flights


def test_while_all_are_silent_two_bundles_wait_and_the_rest_stays_marks() -> None:
    post = Post("ab")
    folder = post.folder("12")
    post.passed.clear()
    message = post.post(0, folder)
    for number in range(8):
        post.wait(7_000, is_lost=lost_to(b"2" * 16))
        post.do(0, lambda replica, n=number: writing.edit(replica, folder, message, ACTOR, content=b"%d" % n))
        post.post(0, folder)
    bundles = {copy.bundle.key for _, copy in post.passed}
    line = post.replica(0).lines["b"]
    assert len(bundles) == len(line.flights) == 2 and line.stalled()
    post.passed.clear()
    post.wait(6 * MINUTE_MS)
    late = [
        copy.bundle for _, copy in post.passed if copy.bundle.key not in bundles and is_about(folder, copy)
    ]
    carried = [object_id for each in late for said in each.messages for object_id, _ in objects(said)]
    assert len(late) == 1 and Counter(carried)[message] == 1, "one bundle, and the last version alone"
    assert has_all(post, folder, 9, range(1, 2))
    assert not post.replica(0).state(folder).marks and not line.flights


def objects(message: Message) -> Any:
    return message.body.objects if isinstance(message.body, Changes) else ()


def test_marks_outlive_a_restart() -> None:
    post = Post("ab")
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(5_000, is_lost=lost_to(b"2" * 16))
    old = post.replica(0)
    post.stores[0] = Replicator(
        old.record.copy(),
        old.tree,
        post.organisation,
        PROMPT,
        DictObjects(old.objects.snapshot()),  # type: ignore[attr-defined]
        new_guids(9),
    )
    post.put(post.stores[0], post.stores[0].start(post.now))
    post.wait(1_000)
    assert has_all(post, folder, 1, range(1, 2))


def test_a_copy_that_was_taken_is_handed_on_after_a_restart() -> None:
    post = Post("abc")
    folder = post.folder("13")
    post.post(0, folder)
    post.wait(5_000, is_lost=lost_to(b"3" * 16))
    old = post.replica(1)
    assert old.record.passing["c"]
    post.stores[1] = Replicator(
        old.record.copy(), old.tree, post.organisation, PROMPT, old.objects, new_guids(9)
    )
    post.put(post.stores[1], post.stores[1].start(post.now))
    post.wait(1_000)
    assert has_all(post, folder, 1, range(2, 3)) and not post.replica(1).record.passing["c"]


def given(post: Post) -> tuple[bytes, Pass]:
    """A copy for site b of a post in site a, as it was given."""
    folder = post.folder("1234"[: len(post.stores)])
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000)
    return next((hop, copy) for hop, copy in post.passed if copy.label.is_for_site)


def test_a_second_copy_gets_a_receipt_and_is_not_handed_on_again() -> None:
    post = Post("abbc")
    hop, copy = given(post)
    taker = post.store(copy.label.to)
    effects = taker.receive_copy(copy.label, copy.bundle, hop, post.now)
    assert effects == [GiveReceipt(hop, Receipt(copy.bundle.key, copy.label.to))]


def test_a_copy_of_more_than_sixteen_hops_is_refused() -> None:
    post = Post("abbc")
    hop, copy = given(post)
    bundle = copy.bundle.__class__(
        copy.bundle.sender, 999, copy.bundle.of, copy.bundle.bucket, copy.bundle.tree, copy.bundle.messages
    )
    taker = post.store(copy.label.to)
    assert not taker.receive_copy(Label(copy.label.to, 17, True, 0), bundle, hop, post.now)
    assert taker.receive_copy(Label(copy.label.to, 16, True, 0), bundle, hop, post.now)


def test_a_status_waits_behind_changes_that_have_no_turn_of_their_own_only_until_they_went() -> None:
    post = Post("ab")
    folder = post.folder("12")
    made = post.post(0, folder)
    post.wait(MINUTE_MS)
    replica = post.replica(0)
    replica.state(folder).marks["b"] = CNSet.of([made])
    outbox.mark_status(replica, folder)
    post.do(0, lambda replica: None)
    post.wait(MINUTE_MS)
    assert not replica.state(folder).marks and not len(replica.lines["b"].turns)


def test_a_copy_that_a_server_refuses_as_older_programs_do_goes_to_the_next() -> None:
    post = Post("abb")
    folder = post.folder("12")
    store = post.stores[0]
    post.do(0, lambda replica: writing.post(replica, folder, b"c", 10, ACTOR))
    post.copies.clear()
    store.tick(Moment(post.now_ms + 1_000, post.now_ms + 1_000))
    (flight,) = store.replica.lines["b"].flights.values()
    first = flight.to
    effects = store.receipt_came(Receipt(flight.bundle.key, first, Says.REFUSED), post.now)
    assert [each.label.to for each in effects if isinstance(each, Pass)] == [flight.to]
    assert flight.to not in (first, b"")


def test_a_site_that_is_away_for_long_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "PASSING_COUNT_MAX", 20)
    post = Post("abc")
    folder, near = post.folder("123"), post.folder("12")
    post.wait(HOUR_MS)
    is_lost = to_or_from(b"3" * 16)
    for _ in range(30):
        post.post(0, folder)
        post.wait(MINUTE_MS, is_lost)
    post.wait(2 * DAY_MS, is_lost)
    assert len(post.replica(1).record.passing["c"]) <= 20
    post.post(0, near)
    post.wait(MINUTE_MS, is_lost)
    assert has_all(post, near, 1, range(1, 2)) and has_all(post, folder, 30, range(1, 2))
    post.wait(DAY_MS)
    assert has_all(post, folder, 30, range(2, 3))


def test_of_what_a_store_says_of_itself_only_the_last_waits_for_a_site_that_is_away() -> None:
    post = Post("abc")
    is_lost = to_or_from(b"3" * 16)
    post.wait(HOUR_MS)
    post.wait(3 * DAY_MS, is_lost)
    waiting = [copy.bundle for copy in post.replica(1).record.passing["c"].values()]
    said = [bundle for bundle in waiting if isinstance(bundle.messages[0].body, RestSums | RestPoll)]
    assert len(said) == 1 and len(waiting) < 10


def test_one_bundle_carries_folders_of_one_bucket_and_the_hierarchy_goes_first() -> None:
    post = Post("ab")
    folders = [post.folder("12") for _ in range(40)]
    post.passed.clear()
    for folder in folders:
        post.post(0, folder)
    post.wait(300)
    bundles = [copy.bundle for _, copy in post.passed]
    assert sum(len(bundle.messages) for bundle in bundles) == 40 and len(bundles) < 40
    for folder in folders:
        post.post(0, folder)
    post.do(0, lambda replica: writing.change_folder(replica, folders[0], ACTOR, name="Old"))
    post.passed.clear()
    post.stores[0].tick(Moment(post.now_ms + 1_000, post.now_ms))
    line = post.replica(0).lines["b"]
    assert Class.URGENT in {flight.bundle.of for flight in line.flights.values()}


def test_urgent_changes_pass_a_large_answer_that_is_under_way() -> None:
    post = Post("ab")
    folder = post.folder("1")
    for _ in range(8):
        post.post(0, folder, size_bytes=100_000)
    post.wait(HOUR_MS)
    store = post.stores[0]
    known = store.replica.state(folder).knowledge.known
    answer = Answer(b"2" * 16, folder, Life(1, 1), known, CNSet(), known)
    _, effects = store.local_changes(lambda replica: outbox.answer(replica, answer), post.now)
    assert effects == [answer], "nothing else waits"
    assert rename(post, folder), "a page and a bundle are under way"
    (urgent,) = rename(post, folder)
    assert urgent.bundle.of is Class.URGENT
    assert store.answer_page(answer.key, post.now) is not None
    (page,) = store.page_taken(answer.key, post.now)
    assert isinstance(page, Answer) and page.left != known, "urgent changes take no place of others"


def test_urgent_changes_have_places_of_their_own_while_two_bundles_are_under_way() -> None:
    post = Post("ab")
    folder, other = post.folder("12"), post.folder("12")
    post.do(0, lambda replica: folder_settings.set_priority(replica, other, Priority.URGENT, ACTOR))
    post.wait(HOUR_MS)

    def given(to: ObjectId) -> int:
        post.post(0, to)
        post.now_ms += 1_500
        return sum(isinstance(effect, Pass) for effect in post.stores[0].tick(post.now))

    assert [given(folder) for _ in range(3)] == [1, 1, 0]
    assert [given(other) for _ in range(5)] == [1, 1, 1, 1, 0]


def rename(post: Post, folder: ObjectId) -> list[Pass]:
    """Rename a folder; the copies that go out when that is broadcast."""
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, name=str(post.now_ms)))
    post.now_ms += 6_000
    return [effect for effect in post.stores[0].tick(post.now) if isinstance(effect, Pass)]


def test_an_answer_that_is_asked_for_again_begins_anew_and_one_goes_at_a_time() -> None:
    post = Post("aa")
    folder = post.folder("1")
    for _ in range(8):
        post.post(0, folder, size_bytes=100_000)
    store = post.stores[0]
    known = store.replica.state(folder).knowledge.known
    answer = Answer(b"2" * 16, folder, Life(1, 1), known, CNSet(), known)

    def ask() -> list[Effect]:
        return store.local_changes(lambda replica: outbox.answer(replica, answer), post.now)[1]

    assert ask() == [answer]
    assert store.answer_page(answer.key, post.now) is not None
    assert ask() == [], "a page is under way"
    assert store.page_taken(answer.key, post.now) == [answer]


def put_link(post: Post, peer: bytes, is_up: bool) -> None:
    """The first store's transport says that another store can be reached, or no longer."""
    post.put(post.stores[0], post.stores[0].link_changed(peer, is_up, post.now))


def test_what_is_on_its_way_to_a_store_that_is_out_of_reach_goes_to_the_next_at_once() -> None:
    post = Post("abb")
    folder = post.folder("123")
    post.passed.clear()
    post.post(0, folder)
    post.wait(2_000, is_lost=lost_to(b"2" * 16, b"3" * 16))
    (first,) = first_takers(post, folder)
    put_link(post, first, is_up=False)
    post.carry(is_lost=lost_to(first))
    assert len(first_takers(post, folder)) == 2
    assert len(post.messages([b"1", b"2", b"3"].index(first_takers(post, folder)[1][:1]), folder)) == 1


def test_what_waits_for_a_site_goes_as_soon_as_one_of_its_stores_can_be_reached() -> None:
    post = Post("ab")
    folder = post.folder("12")
    put_link(post, b"2" * 16, is_up=False)
    post.passed.clear()
    post.post(0, folder)
    post.wait(HOUR_MS)
    assert b"1" * 16 not in {hop for hop, _ in post.passed}, (
        "nothing is given to a transport that cannot reach anybody there"
    )
    assert post.replica(0).watches["ab"].stated is LinkState.DOWN
    put_link(post, b"2" * 16, is_up=True)
    post.wait(0)
    assert has_all(post, folder, 1, range(2))


def test_folders_of_one_taker_share_a_bundle_whoever_of_the_site_is_out_of_reach() -> None:
    post = Post("abb")
    folders = [post.folder("123") for _ in range(20)]
    put_link(post, b"2" * 16, is_up=False)
    post.passed.clear()
    for folder in folders:
        post.post(0, folder)
    post.wait(300)
    bundles = [copy.bundle for _, copy in post.passed if copy.label.is_for_site]
    assert len(bundles) == 1 and len(bundles[0].messages) == len(folders)


def test_a_store_of_the_site_that_was_out_of_reach_is_asked_what_it_has() -> None:
    post = Post("aa")
    folder = post.folder("12")
    put_link(post, b"2" * 16, is_up=False)
    post.post(1, folder)
    post.wait(2_000, is_lost=lost_to(b"1" * 16))
    assert not post.messages(0, folder)
    put_link(post, b"2" * 16, is_up=True)
    post.wait(MINUTE_MS + 5_000)
    assert len(post.messages(0, folder)) == 1, "long before the next status at rest"


def test_a_hello_is_said_again_as_soon_as_somebody_can_be_reached() -> None:
    post = Post("ab")
    store = post.stores[0]
    store.start(post.now)
    store.tick(post.now)  # nobody hears the first hello
    post.put(store, store.link_changed(b"2" * 16, True, post.now))
    post.put(store, store.tick(post.now))
    post.carry()
    assert store.replica.waiting is None


def flight_of(post: Post) -> tuple[Line, Flight]:
    """The line to site b, and the bundle on it that a store there does not get."""
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(2_000, is_lost=lost_to(b"2" * 16))
    line = post.replica(0).lines["b"]
    (flight,) = line.flights.values()
    return line, flight


def test_a_copy_that_took_the_link_long_is_waited_for_as_long_again() -> None:
    line, flight = flight_of(Post("ab"))
    sent_ms = flight.given_ms + MINUTE_MS
    line.sent(flight.bundle.key, b"2" * 16, 1, sent_ms)
    asked: list[int] = []
    while flight.ask_ms() < NEVER_MS:
        asked.append(flight.ask_ms() - sent_ms)
        line.to_ask(flight.ask_ms())
    assert asked == [5_000, 7_500, 15_000, 30_000]
    assert flight.overdue_ms() == sent_ms + MINUTE_MS


def test_receipts_are_waited_for_half_as_long_again_as_the_slowest_of_late() -> None:
    line, flight = flight_of(Post("ab"))
    line.sent(flight.bundle.key, b"2" * 16, 1, flight.given_ms)
    line.took(flight, b"2" * 16, flight.given_ms + 20_000)
    line.aim(flight, [b"3" * 16], now_ms=flight.given_ms + 20_000)
    line.sent(flight.bundle.key, b"3" * 16, 1, flight.given_ms)
    assert flight.overdue_ms() == flight.given_ms + 30_000
    for _ in range(30):
        line.took(flight, b"3" * 16, flight.given_ms + 1_000)
    line.aim(flight, [b"4" * 16], now_ms=flight.given_ms)
    line.sent(flight.bundle.key, b"4" * 16, 1, flight.given_ms)
    assert flight.overdue_ms() == flight.given_ms + 10_000, "and no longer once they come soon again"


def test_a_receipt_that_was_asked_for_much_later_says_nothing_of_how_slow_a_line_is() -> None:
    line, flight = flight_of(Post("ab"))
    flight.is_asking = True
    line.took(flight, b"2" * 16, flight.given_ms + HOUR_MS)
    assert line.slowest_ms == 0
