"""No number is given twice: what a start finds on its machine, and what nothing but the hello shows."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from driven_stores import ACTOR, TREE, Post, is_changes, new_guids, to_or_from

from pillarbox.replication.core import expiry, hello, hierarchy, identity, status
from pillarbox.replication.core.effects import Notice, Report, Send
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.identity import Fence, Mark, Place, Return
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, PROMPT
from pillarbox.replication.core.replica import ReplicaRecord, Waiting
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.core.state import Row, Rows
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.node import fence
from pillarbox.replication.simulation.objects import DictObjects
from pillarbox.replication.wire.messages import (
    Acknowledgement,
    Hello,
    HelloAnswer,
    Life,
    Message,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.store.change_number import CNSet

DATABASE, HERE = b"d" * 16, Place(b"m" * 16, 7)
MARK = Mark(3, b"2" * 16, b"1" * 16)
FENCE = Fence(DATABASE, 3, b"2" * 16, HERE, is_open=False)


@pytest.mark.parametrize(
    ("is_restored", "mark", "fence", "place", "reason"),
    [
        (False, MARK, FENCE, HERE, None),
        (False, MARK, FENCE._replace(nonce=b"1" * 16), HERE, None),  # a crash between the two writes
        (False, MARK, FENCE._replace(incarnation=2), HERE, None),
        (False, Mark(1, b"", b""), None, None, None),  # never mounted
        (True, MARK, FENCE, HERE, Return.RESTORED),
        (False, MARK, None, None, Return.NO_FENCE),
        (False, MARK, FENCE._replace(database=b"x" * 16), HERE, Return.NO_FENCE),
        (False, MARK, FENCE, HERE._replace(inode=8), Return.COPIED_FENCE),
        (False, MARK, FENCE, HERE._replace(machine=b"n" * 16), Return.COPIED_FENCE),
        (False, MARK, FENCE._replace(nonce=b"3" * 16), HERE, Return.OTHER_MOUNT),
        (False, MARK, FENCE._replace(incarnation=4), HERE, Return.OTHER_MOUNT),
    ],
)
def test_a_mount_numbers_anew_where_the_fence_does_not_agree(
    is_restored: bool, mark: Mark, fence: Fence | None, place: Place | None, reason: Return | None
) -> None:
    assert identity.reason_to_number_anew(DATABASE, is_restored, mark, fence, place) is reason


class Returning(Post):
    """Three stores in two sites; the first is put back to a state of before it posted."""

    def __init__(self) -> None:
        super().__init__("aab")
        self.shared = self.folder("123")
        self.wait(HOUR_MS)
        first = self.replica(0)
        self.old_record = first.record.copy()
        self.old_objects = DictObjects(first.objects.snapshot())  # type: ignore[attr-defined]
        self.reported.clear()

    @property
    def reports(self) -> list[Notice]:
        return [each.notice for _, each in self.reported]

    def put_back(self, start: Start = Start.AGAIN, *, seed: int = 9) -> Replicator:
        self.table.clear()
        self.sent.clear()
        store = Replicator(
            self.old_record.copy(),
            TREE,
            self.organisation,
            PROMPT,
            DictObjects(self.old_objects.snapshot()),
            new_guids(seed),
        )
        self.stores[0] = store
        self.put(store, store.start(self.now, start))
        return store

    def of_first(self) -> list[Message]:
        """What the first store said but hellos."""
        first = self.replica(0).me.database
        return [
            message
            for message in self.sent
            if message.sender.database == first and not isinstance(message.body, Hello | HelloAnswer)
        ]

    def contents(self, store: int) -> list[bytes]:
        return sorted(view.contents[0] for view in self.messages(store, self.shared))


def test_a_store_that_was_put_back_notices_before_a_number_leaves_it() -> None:
    post = Returning()
    for content in (b"1", b"2", b"3"):
        post.post(0, post.shared, content)
    post.wait(10_000)
    before = post.replica(0).me
    post.put_back()
    post.wait(10_000)
    after = post.replica(0).me
    assert (after.database, after.incarnation) == (before.database, before.incarnation + 1)
    assert after.origin != before.origin
    assert Notice.WENT_BACK in post.reports
    assert all(message.sender == after for message in post.of_first())
    post.post(0, post.shared, b"4")
    post.wait(HOUR_MS)
    for store in range(3):
        assert post.contents(store) == [b"1", b"2", b"3", b"4"]


def test_one_peer_of_each_site_that_can_be_reached_is_waited_for() -> None:
    post = Returning()
    post.post(0, post.shared, b"1")
    post.wait(10_000, is_lost=lambda message: message.to == b"2" * 16)  # only the other site knows of it
    post.put_back()
    other_site = post.replica(2).me.database
    post.wait(15_000, is_lost=to_or_from(other_site))
    assert post.replica(0).waiting is not None
    assert not post.of_first()
    post.wait(10_000)
    assert Notice.WENT_BACK in post.reports


def test_a_site_without_an_answer_for_long_is_waited_for_no_more() -> None:
    post = Returning()
    post.put_back()
    other_site = post.replica(2).me.database
    post.wait(31_000, is_lost=to_or_from(other_site))
    assert post.replica(0).waiting is None
    assert post.of_first()
    assert Notice.WENT_BACK not in post.reports


def test_alone_a_store_says_nothing_and_numbers_under_a_replica_guid_that_is_new() -> None:
    post = Returning()
    post.post(0, post.shared, b"1")
    post.wait(10_000)
    before = post.replica(0).me
    store = post.put_back()
    post.wait(HOUR_MS, is_lost=lambda message: True)
    assert not post.of_first()
    made = post.post(0, post.shared, b"2")
    assert made.origin != before.origin
    post.wait(HOUR_MS, is_lost=lambda message: True)
    assert not post.of_first()
    explained = store.explain(post.shared, post.now)
    assert explained.waits_for == (b"2" * 16, b"3" * 16)
    post.wait(HOUR_MS)
    assert not store.explain(post.shared, post.now).waits_for
    for each in range(3):
        assert post.contents(each) == [b"1", b"2"]


def test_hellos_are_answered_before_the_own_one_is_complete() -> None:
    post = Returning()
    for number, store in enumerate(post.stores):
        post.put(store, store.start(post.now))
        assert store.replica.waiting is not None, number
    post.wait(10_000)
    assert [store.replica.waiting for store in post.stores] == [None] * 3


def test_an_answer_to_an_earlier_start_shows_nothing() -> None:
    post = Returning()
    post.put_back()
    post.wait(10_000, is_lost=lambda message: isinstance(message.body, HelloAnswer))
    old = [message for message in post.sent if isinstance(message.body, HelloAnswer)]
    post.put_back(seed=10)
    post.table = list(old)
    post.carry(is_lost=lambda message: message not in old)
    assert old and post.replica(0).waiting is not None


def test_a_second_return_to_one_state_is_another_incarnation() -> None:
    post = Returning()
    post.post(0, post.shared, b"1")
    post.wait(10_000)
    senders = {post.replica(0).me}
    for seed in (11, 12):
        post.put_back(Start.WENT_BACK, seed=seed)
        post.wait(10_000)
        senders.add(post.replica(0).me)
    assert len({sender.incarnation for sender in senders}) == 3
    assert len({sender.origin for sender in senders}) == 3


def test_a_store_that_was_put_back_to_before_its_first_start_numbers_anew() -> None:
    post = Returning()
    made = post.post(0, post.shared, b"1")
    post.wait(HOUR_MS)
    post.put_back(Start.JOINED)
    post.wait(0, is_lost=lambda message: not isinstance(message.body, Hello | HelloAnswer))
    assert Notice.WENT_BACK in post.reports
    assert post.replica(0).me.origin != made.origin


def test_what_others_know_is_noticed_later_too() -> None:
    """A store that knows more was not reached when the hello ended; what it says shows it as well."""
    post = Returning()
    post.post(0, post.shared, b"1")
    post.wait(10_000, is_lost=lambda message: message.to == b"2" * 16)
    post.put_back()
    third = post.replica(2).me.database
    post.wait(40_000, is_lost=to_or_from(third))
    assert post.replica(0).waiting is None
    post.wait(HOUR_MS)
    assert Notice.WENT_BACK in post.reports
    assert post.contents(0) == [b"1"]


def test_no_number_is_given_twice_although_who_had_it_left_for_good() -> None:
    """The second store only heard of the number, from the third one, which is retired."""
    post = Returning()
    first, second = (post.replica(store).me.database for store in (0, 1))
    made = post.post(0, post.shared, b"1")
    is_from_first, is_to_second = to_or_from(first), to_or_from(second)
    post.wait(
        HOUR_MS,
        is_lost=lambda message: is_to_second(message) and (is_changes(message) or is_from_first(message)),
    )
    assert not post.contents(1) and post.contents(2) == [b"1"]
    post.lose(2)
    assert hello.highest_heard(post.replica(1), made.origin) == made.counter
    post.put_back()
    post.wait(HOUR_MS)
    assert Notice.WENT_BACK in post.reports
    assert post.post(0, post.shared, b"2").origin != made.origin


def test_what_was_heard_of_a_numbering_outlasts_the_replica_that_held_it() -> None:
    post = Returning()
    made = post.post(0, post.shared, b"1")
    post.wait(HOUR_MS)
    post.do(2, lambda replica: hierarchy.drop(replica, post.shared))
    third = post.replica(2)
    third.state(post.shared).rows = Rows()
    assert hello.highest_heard(third, made.origin) == made.counter


def test_what_was_heard_of_a_numbering_outlasts_the_life_of_the_replica_that_said_it() -> None:
    """A store that was put back states less, under a later life."""
    post = Returning()
    made = post.post(0, post.shared, b"1")
    post.wait(HOUR_MS)
    for store in (0, 1):
        said_by = post.replica(store).me.database
        row = post.replica(2).state(post.shared).rows[said_by]
        assert made in row.known
        later = Statement(Life(row.life.incarnation + 1, 1), CNSet(), CNSet())
        post.do(2, partial(status.take_statement, folder=post.shared, store=said_by, statement=later))
    third = post.replica(2)
    third.state(post.shared).knowledge.known -= CNSet.of([made])
    assert hello.highest_heard(third, made.origin) == made.counter


def test_what_another_store_has_let_go_by_age_was_heard_of_its_numbering() -> None:
    post = Post("aab")
    folder = post.folder("12")
    post.wait(HOUR_MS)
    made, second = post.post(0, folder, b"1"), post.replica(1)
    said_by = post.replica(0).me
    told = Statement(Life(said_by.incarnation, 9), NOTHING, CNSet.of([made]))
    post.do(1, partial(status.take_statement, folder=folder, store=said_by.database, statement=told))
    assert made not in second.state(folder).knowledge.had
    assert hello.highest_heard(second, made.origin) == made.counter


def posted_beside(sites: str) -> tuple[Post, ObjectId, ObjectId]:
    """Three stores, of which the second holds no replica of the folder in which the first one posts."""
    post = Post(sites)
    folder = post.folder("13")
    post.wait(HOUR_MS)
    made = post.post(0, folder, b"1")
    post.wait(HOUR_MS)
    return post, folder, made


def test_no_number_is_given_twice_that_a_bridgehead_without_a_replica_handed_on() -> None:
    """The only other replica is out of reach; who handed the post on holds none, and kept no copy."""
    post, folder, made = posted_beside("abc")
    bridgehead = post.replica(1)
    assert bridgehead.held(folder) is None and not any(bridgehead.record.passing.values())
    assert hello.highest_heard(bridgehead, made.origin) == made.counter


def test_no_number_is_given_twice_of_what_went_with_its_folder() -> None:
    """The folder was deleted by a store that was retired; who is left never held it."""
    post, folder, made = posted_beside("aab")
    post.do(2, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    is_of_first = to_or_from(post.replica(0).me.database)
    post.wait(HOUR_MS, is_lost=is_of_first)
    post.lose(2)
    assert hello.highest_heard(post.replica(1), made.origin) == made.counter


def test_a_return_is_noticed_by_what_another_store_has_let_go_by_age() -> None:
    post = Returning()
    made = post.post(0, post.shared, b"1")
    post.wait(HOUR_MS)
    store = post.put_back()
    post.wait(HOUR_MS, is_lost=lambda message: not isinstance(message.body, Hello))
    assert store.replica.waiting is not None
    store.replica.waiting = None
    hello.heard(store.replica, Statement(Life(1, 1), NOTHING, CNSet.of([made])))
    assert Notice.WENT_BACK in [each.notice for each in store.replica.effects if isinstance(each, Report)]


@pytest.mark.parametrize("comes_late", [True, False], ids=["an earlier life", "an ended numbering"])
def test_what_is_not_believed_of_a_statement_is_heard_all_the_same(comes_late: bool) -> None:
    post = Returning()
    made = post.post(0, post.shared, b"1")
    post.wait(10_000, is_lost=lambda message: True)
    third, said_by = post.replica(2), post.replica(1).me
    if comes_late:
        third.state(post.shared).rows[said_by.database] = Row(Life(9, 9))
    else:
        third.record.owners[b"later" * 3 + b"!"] = said_by.database, said_by.incarnation + 1
        third.state(post.shared).rows[said_by.database] = Row()
    told = Statement(Life(said_by.incarnation, 1), CNSet.of([made]), NOTHING)
    post.do(2, partial(status.take_statement, folder=post.shared, store=said_by.database, statement=told))
    assert made not in post.replica(2).state(post.shared).rows[said_by.database].known
    assert hello.highest_heard(post.replica(2), made.origin) == made.counter


@pytest.mark.parametrize(("ignorant", "knowing"), [(1, 2), (2, 1)], ids=["other site", "own site"])
def test_no_number_is_given_twice_although_who_knows_it_answers_late(ignorant: int, knowing: int) -> None:
    """The first answer knows nothing of the numbering; the one that does is held up by more than the wait."""
    post = Returning()
    unaware, late = (post.replica(store).me.database for store in (ignorant, knowing))
    made = post.post(0, post.shared, b"1")
    post.wait(10_000, is_lost=lambda message: message.to == unaware)
    before = post.replica(0).me
    store = post.put_back()
    post.wait(40_000, is_lost=to_or_from(late))
    assert store.replica.waiting is None and post.of_first()
    assert store.replica.me == before, "a store at which nobody writes begins no numbering"
    again = post.post(0, post.shared, b"2")
    assert again != made and again.origin != before.origin
    post.wait(HOUR_MS)
    for each in range(3):
        assert post.contents(each) == [b"1", b"2"]


def test_a_numbering_goes_on_without_the_stores_that_are_said_to_be_out_of_reach() -> None:
    post = Returning()
    before = post.replica(0).me
    store = post.put_back()
    third = post.replica(2).me.database
    post.put(store, store.link_changed(third, False, post.now))
    post.wait(40_000, is_lost=to_or_from(third))
    assert post.post(0, post.shared, b"1").origin == before.origin


def test_numbers_are_not_left_out_while_a_store_that_may_know_them_is_silent() -> None:
    post = Returning()
    late = post.replica(2).me.database
    post.post(0, post.shared, b"1")
    post.wait(10_000, is_lost=lambda message: message.to == b"2" * 16)
    identity.leave_out_after_unclean_end(post.old_record)
    store = post.put_back()
    post.wait(40_000, is_lost=to_or_from(late))
    assert store.replica.waiting is None and not store.replica.record.left_out
    post.wait(HOUR_MS)
    assert Notice.WENT_BACK in post.reports
    assert not store.replica.record.left_out
    assert post.contents(0) == [b"1"]


def test_numbers_left_out_are_told_to_others_once_the_hello_is_complete() -> None:
    post = Returning()
    left_out = identity.leave_out_after_unclean_end(post.old_record)
    assert left_out.count() == 65_536
    post.put_back()
    first = post.replica(0)
    assert not first.record.left_out and first.record.unsure == left_out
    post.wait(HOUR_MS)
    assert first.record.left_out == left_out and not first.record.unsure
    assert post.post(0, post.shared).counter == left_out.highest(first.me.origin) + 1
    post.wait(HOUR_MS)
    assert post.replica(2).record.left_out == left_out
    known = first.state(post.shared).knowledge.known
    assert not known.count_common(left_out)


def test_numbers_given_since_an_unclean_state_are_not_taken_for_left_out() -> None:
    post = Returning()
    post.post(0, post.shared, b"1")
    post.wait(10_000)
    identity.leave_out_after_unclean_end(post.old_record)
    post.put_back()
    post.wait(HOUR_MS)
    assert Notice.WENT_BACK in post.reports
    assert not post.replica(0).record.left_out
    assert post.contents(0) == [b"1"]


def test_after_a_return_all_are_asked_and_else_the_nearest_alone() -> None:
    post = Returning()
    for start, asked in ((Start.AGAIN, {b"2" * 16}), (Start.WENT_BACK, {b"2" * 16, b"3" * 16})):
        store = post.put_back(start)
        post.wait(0, is_lost=lambda message: isinstance(message.body, Status))
        assert store.replica.waiting is None
        assert store.replica.state(post.shared).awaited == asked


def test_a_copy_that_is_at_work_beside_its_original_is_told_and_waits_for_the_operator() -> None:
    post = Returning()
    store = post.put_back()
    post.wait(1_000)
    origin = store.replica.me.origin
    post.replica(1).record.quarantined = frozenset({origin})
    store = post.put_back()
    post.wait(DAY_MS)
    assert Notice.QUARANTINED in post.reports
    assert not post.of_first()
    assert store.explain(post.shared, post.now).quarantined == (origin,)
    post.put(store, store.number_anew(post.now))
    post.post(0, post.shared, b"mine")
    post.wait(HOUR_MS)
    assert store.replica.me.origin != origin
    assert post.contents(1) == [b"mine"]
    for each in (store, post.stores[1]):
        assert each.explain(post.shared, post.now).quarantined == (), "the operator has chosen"
    assert post.replica(1).record.quarantined == {origin}, "and what the other copy says stays refused"


def test_what_was_to_be_said_is_said_when_the_hello_is_complete() -> None:
    post = Returning()
    store = post.put_back()
    made = post.post(1, post.shared, b"1")
    status = [message for message in post.table if is_changes(message)]
    assert made and not status
    post.put(store, store.receive(requested(post, store), post.now))
    assert not post.of_first()
    post.wait(2_000)
    assert post.of_first()


def requested(post: Post, store: Replicator) -> Message:
    """A status request of the second store."""
    second = post.replica(1)
    return second.message(store.replica.me.database, second.tree.hierarchy, StatusRequest())


def test_numbers_are_above_those_of_all_incarnations_that_are_known() -> None:
    post = Returning()
    record: ReplicaRecord = post.old_record
    record.owners[b"Y" * 16] = (record.sender.database, 5)
    record.number_anew(b"Z" * 16)
    assert record.sender.incarnation == 6
    assert record.owners[b"Z" * 16] == (record.sender.database, 6)


def test_a_copy_that_gave_no_number_since_learns_from_what_it_had_said() -> None:
    post = Returning()
    shared, first, third = post.shared, b"1" * 16, post.replica(2)
    post.post(1, shared, b"1")
    post.wait(HOUR_MS)
    before = post.replica(0).me
    assert third.state(shared).rows[first].known == third.state(shared).knowledge.known
    post.put_back()
    post.wait(HOUR_MS, is_lost=lambda message: is_changes(message) and message.to == first)
    assert post.replica(0).me.incarnation == before.incarnation + 1
    assert Notice.WENT_BACK in post.reports
    assert not third.state(shared).rows[first].known, "it is not believed any more to have what it had"
    post.wait(DAY_MS)
    assert post.contents(0) == [b"1"]


def test_what_comes_late_of_a_store_makes_it_number_nothing_anew() -> None:
    post = Returning()
    post.post(1, post.shared, b"1")
    late: list[Message] = []
    post.wait(HOUR_MS, is_lost=lambda message: isinstance(message.body, Status) and not late.append(message))
    post.wait(HOUR_MS)
    before = post.replica(0).me
    for message in late:
        for store in (1, 2):
            post.put(post.stores[store], post.stores[store].receive(message, post.now))
    post.wait(DAY_MS)
    assert post.replica(0).me == before and Notice.WENT_BACK not in post.reports


def test_a_later_incarnation_of_its_own_shows_a_return_whenever_it_is_heard_of() -> None:
    post = Returning()
    store = post.put_back()
    post.wait(HOUR_MS)
    me = store.replica.me
    assert Notice.WENT_BACK not in post.reports
    post.replica(2).record.owners[b"L" * 16] = (me.database, me.incarnation)  # as late, and another one
    post.wait(HOUR_MS)
    assert Notice.WENT_BACK in post.reports
    assert store.replica.me.incarnation == me.incarnation + 1


def test_numbers_that_others_only_count_as_had_are_not_believed_to_be_there() -> None:
    """A post that one store let go by age, and that its maker lost since by a return, is known to nobody."""
    post = Returning()
    post.post(0, post.shared, b"1")
    post.wait(10_000, is_lost=lambda message: message.to == b"2" * 16)
    later_ms = post.now_ms + HOUR_MS
    assert post.do(2, lambda replica: expiry.expire(replica, post.shared, later_ms)) == 1
    store = post.put_back(Start.WENT_BACK)
    post.wait(HOUR_MS)
    me = store.replica.me
    assert store.replica.assumed(post.shared), "so it is equal with who let it go"
    post.post(0, post.shared, b"2")
    post.wait(4 * HOUR_MS)
    assert store.replica.me == me, "it is not told that it had said to have that post"
    assert post.contents(2) == [b"2"]


GOLDEN = Path(__file__).parents[1] / "data" / "replication" / "fence_1.bin"


def test_a_fence_of_version_1_is_still_read() -> None:
    assert fence.decode(GOLDEN.read_bytes()) == FENCE
    assert fence.encode(FENCE) == GOLDEN.read_bytes(), "the format changed: a new version"


def test_a_fence_that_is_damaged_or_newer_is_none() -> None:
    data = GOLDEN.read_bytes()
    for k in range(len(data)):
        assert fence.decode(data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :]) is None
    assert fence.decode(data[:-1]) is None and fence.decode(data + b"x") is None


def test_a_fence_keeps_its_inode_and_a_copy_has_another(tmp_path: Path) -> None:
    file = fence.FenceFile(tmp_path / "fence", b"m" * 16)
    assert file.read() == (None, None)
    first = file.write(FENCE)
    second = file.write(FENCE._replace(is_open=True))
    assert second.place == first.place
    assert file.read() == (second, second.place)
    copied = tmp_path / "copied"
    shutil.copy(file.path, copied)
    found, place = fence.FenceFile(copied, b"m" * 16).read()
    assert found == second and place != second.place


def test_an_acknowledgement_is_not_kept_back_until_a_hello_is_complete() -> None:
    post = Post()
    folder, replica = post.folder(), post.replica(0)
    acknowledged, plain = (
        Send(replica.message(b"2" * 16, folder, Status(given))) for given in (Acknowledgement(1, 1), None)
    )
    replica.waiting = Waiting(start=b"s" * 16, origin=replica.me.origin, last=0, began_ms=0, due_ms=0)
    assert hello.sendable(replica, [acknowledged, plain]) == []
    assert replica.kept_back == [plain], "the replica may leave meanwhile, and who leaves asks again"
