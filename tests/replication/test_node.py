"""A node keeps its store in line with the others, whatever fails, and ends when it is told to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from pillarbox.replication.core import (
    applying,
    commands,
    expiry,
    organisation_folder,
    subtree,
    too_large,
    views,
)
from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.explanation import explain
from pillarbox.replication.core.folder_settings import Priority, set_priority
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.subtree import Action
from pillarbox.replication.core.views import Sync
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.node.node import RETRY_MS, State
from pillarbox.replication.node.store_replicator import PROGRAM_VERSION
from pillarbox.replication.node.stored_record import StoredRecord
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.transports.memory import MemoryNetwork
from pillarbox.replication.wire import seal
from pillarbox.replication.wire.messages import Objects
from pillarbox.replication.wire.transport_frames import RECEIPT_BYTES
from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import DiskFull, NotFound, Refused
from pillarbox.store.events import EventId
from pillarbox.store.ids import counter_of
from pillarbox.store.mail import messages, public_folders
from tests.shared.nodes import Nodes, StoreNode


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    nodes.wait(1_000)
    yield nodes
    nodes.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, "aab")
    nodes.wait(1_000)
    yield nodes
    nodes.close()


def test_a_post_is_seen_at_all_stores_within_a_second(three: Nodes) -> None:
    three.share("News")
    three[0].post("News", "hello")
    three.wait(1_000)
    assert [store.subjects("News") for store in three.stores] == [["hello"]] * 3


def test_a_newer_program_speaks_as_the_oldest_reads_until_the_last_one_is_updated(two: Nodes) -> None:
    old, new = two.stores
    two.ask(1, lambda replica: organisation_folder.apply(replica, two.organisation, "anna"))
    two.share("News")

    def update(store: StoreNode) -> None:
        store.stop()
        store.reads = frozenset({2, 3})
        store.begin()
        two.wait(MINUTE_MS)

    update(new)
    assert two.wires.versions(new.guid) == {2}
    new.post("News", "of the new one")
    old.post("News", "of the old one")
    two.wait(MINUTE_MS)
    assert two.wires.versions(new.guid) == {2}
    update(old)
    two.wires.carried.clear()
    new.post("News", "in the new version")
    two.wait(MINUTE_MS)
    assert two.wires.versions(new.guid) == {3}
    assert len(old.subjects("News")) == 3 and old.subjects("News") == new.subjects("News")
    assert not old.node.refused_counts and not new.node.refused_counts


def test_frames_for_another_site_leave_at_the_rate_of_the_connector(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "ab")
    nodes.wait(1_000)
    slow = nodes.organisation.connectors[0]._replace(rate_bytes=10_000)
    bounded = replace(nodes.organisation, connectors=(slow,))
    nodes.ask(0, lambda replica: organisation_folder.apply(replica, bounded, "anna"))
    nodes.share("News")
    nodes.wait(MINUTE_MS)
    before = nodes[0].node.went_bytes[nodes[1].guid]
    for number in range(4):
        nodes[0].post("News", random.Random(number).randbytes(50_000).hex())
    nodes.wait(9_000)
    assert len(nodes[1].subjects("News")) < 4
    nodes.wait(MINUTE_MS)
    assert len(nodes[1].subjects("News")) == 4
    went = nodes[0].node.went_bytes[nodes[1].guid] - before
    assert 200_000 < went < 10_000 * 69 and not nodes[1].node.refused_counts
    nodes.close()


def test_a_store_says_which_program_it_runs_and_what_that_reads_once(two: Nodes) -> None:
    two.ask(0, lambda replica: organisation_folder.apply(replica, two.organisation, "anna"))
    two.wait(MINUTE_MS)
    said = [server.version for server in two.ask(1, _organisation).servers.values()]
    assert said == [PROGRAM_VERSION] * 2
    before = two.ask(0, lambda replica: replica.record.counter)
    two[0].stop()
    two[0].begin()
    two.wait(MINUTE_MS)
    assert two.ask(0, lambda replica: replica.record.counter) == before


def _organisation(replica: Replica) -> Organisation:
    return organisation_folder.reading(replica).organisation


def test_a_deletion_goes_to_the_others_and_a_cut_only_delays_it(three: Nodes) -> None:
    three.share("News")
    gone, _ = three[0].post("News", "gone"), three[0].post("News", "kept")
    three.wait(1_000)
    three.cut((0, 2), (1, 2))
    three[0].change(lambda txn: messages.delete(txn, gone))
    three[2].post("News", "behind the cut")
    three.wait(HOUR_MS)
    assert three[2].subjects("News") == ["behind the cut", "gone", "kept"]
    three.cut()
    three.wait(MINUTE_MS)
    assert [store.subjects("News") for store in three.stores] == [["behind the cut", "kept"]] * 3


def test_what_was_changed_while_a_node_was_stopped_is_made_up_for(two: Nodes) -> None:
    two.share("News")
    two.down.add(1)
    two[1].stop()
    two[0].post("News", "while it was away")
    two.wait(MINUTE_MS)
    two[1].begin()
    two[1].post("News", "before its node began")
    two.down.clear()
    two.wait(10 * MINUTE_MS)
    assert [store.subjects("News") for store in two.stores] == [
        ["before its node began", "while it was away"]
    ] * 2


def test_a_store_that_is_removed_from_the_organisation_is_linked_to_no_more(two: Nodes) -> None:
    two.ask(0, lambda replica: organisation_folder.apply(replica, two.organisation, "operator"))
    two.wait(1_000)
    assert two[0].node.links == {two[1].guid}
    servers = {two[0].guid: two.organisation.servers[two[0].guid]}
    left = replace(two.organisation, servers=servers)
    two.ask(0, lambda replica: organisation_folder.apply(replica, left, "operator"))
    two.wait(1_000)
    assert two[0].node.links == set()
    assert set(two[0].wire.members) == set()


def test_a_command_that_is_refused_is_its_callers_and_changes_nothing_else(two: Nodes) -> None:
    two.share("News")
    with pytest.raises(NotFound):
        two.ask(0, lambda replica: commands.send_hierarchy(replica, 1, [b"x" * 16]))
    two.wires.carried.clear()
    two.wait(1_000)
    assert not two.wires.carried, "no hello: the replicator goes on as it was"
    assert two[0].node.standing.state is State.RUNNING


def test_a_disk_that_is_full_closes_the_links_until_there_is_room(two: Nodes) -> None:
    two.share("News")
    with two[1].full_disk():
        two[0].post("News", "while the disk was full")
        two.wait(1_000)
        assert two[1].node.standing.state is State.WAITING and "full" in two[1].node.standing.reason
        assert two[0].node.links == set()
        two.wait(10 * RETRY_MS)
        told = [event for event in two[1].events if event.event_id == EventId.REQUEST_FAILED]
        assert len(told) == 1, "told once"
        with pytest.raises(Refused, match="full"):
            two.ask(1, lambda replica: None)
    two.wait(2 * MINUTE_MS)
    assert two[1].subjects("News") == ["while the disk was full"]
    assert two[1].node.standing.state is State.RUNNING


def test_frames_are_settled_once_what_they_say_is_durable(two: Nodes) -> None:
    two.share("News")
    came = [(to, frame) for _, to, frame in two.wires.carried]
    assert len(came) == len(two.wires.settled) and {*came} == {*two.wires.settled}
    with two[1].full_disk():
        two[0].post("News", "while the disk was full")
        two.wait(1_000)
        assert len(two.wires.carried) > len(came)
        new = [(to, frame) for _, to, frame in two.wires.carried[len(came) :] if to == two[1].guid]
        assert not {*new} & {*two.wires.settled}


def test_a_store_that_was_dismounted_under_its_node_replicates_again_once_it_is_mounted(two: Nodes) -> None:
    two.share("News")
    two[1].database.dismount("its size limit")
    two[0].post("News", "meanwhile")
    two.wait(MINUTE_MS)
    assert two[1].node.standing.state is State.WAITING
    two[1].database.mount()
    two.wait(3 * MINUTE_MS)
    assert two[1].subjects("News") == ["meanwhile"]


def test_a_fault_of_the_program_is_told_and_the_node_goes_on(
    two: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.share("News")
    with monkeypatch.context() as broken:
        broken.setattr("pillarbox.replication.core.applying.take_all", lambda *_: 1 // 0)
        two[0].post("News", "it breaks")
        two.wait(1_000)
    assert "ZeroDivisionError" in two[1].faults[0]
    two.wait(3 * MINUTE_MS)
    assert two[1].subjects("News") == ["it breaks"]


def break_at(monkeypatch: pytest.MonkeyPatch, two: Nodes, folder: str) -> None:
    """Have the program fail at each message to the second store that carries something of a folder."""
    broken, there, take_all = two[0].object_id(folder), two[1].guid, applying.take_all

    def fail(replica: Replica, of: ObjectId, objects: Objects) -> None:
        take_all(replica, of, objects)
        if (replica.me.database, of) == (there, broken):
            raise TypeError("when some of it was done")

    monkeypatch.setattr(applying, "take_all", fail)


@pytest.mark.parametrize("sites", ["aa", "ab"])
def test_a_message_at_which_the_program_fails_is_refused_and_those_beside_it_are_taken(
    sites: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Nodes(tmp_path, sites)
    two.wait(1_000)
    for folder in ("Broken", "Good"):
        two.share(folder)
    two.wires.carried.clear()
    with monkeypatch.context() as broken:
        break_at(broken, two, "Broken")
        for number in range(3):
            two[0].post("Broken", str(number))
            two[0].post("Good", str(number))
        two.wait(5_000)
        assert two[1].subjects("Good") == ["0", "1", "2"] and two[1].subjects("Broken") == []
        assert two[1].node.standing.state is State.RUNNING and two[1].node.links == {two[0].guid}
        assert two[1].node.refused_counts["fault"] > 0
        (told,) = [event for event in two[1].events if event.event_id == EventId.REPLICATION_REFUSED]
        assert told.details["reason"] == "fault" and "when some of it was done" in told.details["error"]
        (fault,) = two[1].faults
        assert "take_all" in fault, "the traceback"
    two.wait(HOUR_MS)
    assert two[1].subjects("Broken") == ["0", "1", "2"]
    two.close()


def test_what_is_refused_for_a_fault_has_no_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = Nodes(tmp_path, "ab")
    two.wait(1_000)
    two.share("Broken")
    two.wires.carried.clear()
    with monkeypatch.context() as broken:
        break_at(broken, two, "Broken")
        two[0].post("Broken", "hello")
        two.wait(4_000)
    marks = two.ask(0, lambda replica: replica.state(two[0].object_id("Broken")).marks)
    assert "b" in marks, "no receipt has taken the mark away"
    two.close()


def test_an_error_of_the_store_refuses_nothing(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    two.share("News")
    with monkeypatch.context() as full:
        full.setattr(applying, "take_all", raising(DiskFull("the disk is full")))
        two[0].post("News", "hello")
        two.wait(3_000)
        assert two[1].node.standing.state is State.WAITING
    two.wait(3 * MINUTE_MS)
    assert two[1].subjects("News") == ["hello"]
    assert not two[1].node.refused_counts and not two[1].faults


def test_a_fault_that_is_not_of_what_arrived_refuses_nothing(
    two: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.share("News")
    with monkeypatch.context() as broken:
        broken.setattr(StoredRecord, "save", raising(TypeError("whatever arrives")))
        two[0].post("News", "hello")
        two.wait(3_000)
        assert two[1].node.standing.state is State.WAITING
    two.wait(3 * MINUTE_MS)
    assert two[1].subjects("News") == ["hello"]
    assert "fault" not in two[1].node.refused_counts


@pytest.mark.parametrize("sites", ["aa", "ab"])
def test_a_post_that_no_message_has_room_for_is_set_aside_at_its_maker_and_all_else_goes_on(
    sites: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "PACKED_BYTES_MAX", 20_000)
    monkeypatch.setattr(too_large, "PACKED_BYTES_MAX", 20_000)
    two = Nodes(tmp_path, sites)
    two.wait(1_000)
    two.share("News")
    two[0].post("News", "before")
    large = two[0].post("News", f"large {random.Random(1).randbytes(40_000).hex()}")
    two[0].post("News", "after")
    two.wait(HOUR_MS)
    two[0].post("News", "later")
    two.wait(HOUR_MS)
    assert two[1].subjects("News") == ["after", "before", "later"]
    assert two[0].node.standing.state is State.RUNNING and not two[0].faults
    folder = two[0].object_id("News")
    told = [event for event in two[0].events if event.event_id == EventId.REPLICATION_NEEDS_ATTENTION]
    assert len(told) == 1 and told[0].details["notice"].startswith(str(Notice.TOO_LARGE))
    assert f":{counter_of(large):x}" in told[0].details["notice"]
    assert told[0].details["folder"].endswith(f":{folder.counter:x}")
    explained = two.ask(0, lambda replica: explain(replica, folder))
    (aside,) = explained.set_aside
    assert aside.object_id.counter == counter_of(large) and "packed" in aside.reason
    assert not explained.is_in_sync
    two[0].stop()
    two[0].begin()
    two[0].post("News", "last")
    two.wait(HOUR_MS)
    assert two[1].subjects("News") == ["after", "before", "last", "later"], "after a restart, too"
    two[0].change(lambda txn: messages.delete(txn, large))
    two.wait(MINUTE_MS)
    assert not two.ask(0, lambda replica: explain(replica, folder)).set_aside
    two.close()


def raising(error: Exception) -> Callable[..., None]:
    def fail(*of: object) -> None:
        raise error

    return fail


def test_what_an_outbox_has_no_room_for_goes_when_it_has(two: Nodes) -> None:
    two.share("News")
    two[0].wire.room = 0
    two[0].post("News", "late")
    two.wait(2_000)
    assert two[1].subjects("News") == []
    two[0].wire.room = 1 << 30
    two[0].node.has_room(two[1].guid)
    two.settle()
    assert two[1].subjects("News") == ["late"]


def test_a_post_to_an_urgent_folder_passes_those_that_wait(two: Nodes) -> None:
    for name in ("News", "Alarms"):
        two.share(name)
    alarms = two[0].object_id("Alarms")
    two.ask(0, lambda replica: set_priority(replica, alarms, Priority.URGENT, "operator"))
    two.wait(1_000)
    two[0].wire.room = 0
    for folder, text in (("News", "first"), ("News", "second"), ("Alarms", "fire")):
        two[0].post(folder, text)
        two.wait(2_000)
    two[0].wire.room = 1
    two[0].node.has_room(two[1].guid)
    two.settle()
    assert (two[1].subjects("Alarms"), two[1].subjects("News")) == (["fire"], [])
    two[0].wire.room = 1 << 30
    two[0].node.has_room(two[1].guid)
    two.settle()
    assert two[1].subjects("News") == ["first", "second"]


def test_an_answer_is_sent_page_by_page_as_the_outbox_has_room(tmp_path: Path) -> None:
    two = Nodes(tmp_path)
    two[0].change(lambda txn: public_folders.create(txn, "News"))
    two.wait(1_000)
    for number in range(30):
        two[0].post("News", f"{number:02} {random.Random(number).randbytes(20_000).hex()}")
    two.wait(1_000)
    two[0].wire.room = 5
    two.add_replica(0, "News", two[1].guid)
    two.wait(5_000)
    assert 0 < len(two[1].subjects("News")) < 30
    two[0].wire.room = 1 << 30
    two[0].node.has_room(two[1].guid)
    two.wait(5_000)
    assert len(two[1].subjects("News")) == 30
    two.close()


def test_a_view_says_what_the_node_knows_of_the_others(two: Nodes) -> None:
    two.share("News")
    folder = two[0].object_id("News")
    two.wait(10 * MINUTE_MS)
    status = two.ask(0, lambda replica: views.status(replica, folder))
    assert [each.sync for each in status] == [Sync.IN_SYNC, Sync.IN_SYNC]


def test_both_stores_give_the_same_figures_of_what_is_in_sync(two: Nodes) -> None:
    two.share("News")
    for text in ("first", "second", "third"):
        two[0].post("News", text)
    two.wait(10 * MINUTE_MS)
    size_bytes = sum(item.size for item in two[0].items("News"))
    both = {two[0].guid: (3, size_bytes), two[1].guid: (3, size_bytes)}
    assert figures(two, "News") == figures(two, "News", at=1) == both


def test_figures_of_another_replica_are_without_what_it_lacks_or_let_go(two: Nodes) -> None:
    two.share("News")
    old, _ = two[0].post("News", "of before"), two[0].post("News", "first")
    two.wait(10 * MINUTE_MS)
    two.cut((0, 1))
    two[0].post("News", "behind the cut")
    two[0].change(lambda txn: messages.delete(txn, old))
    two.wait(MINUTE_MS)
    first, last = two[0].items("News")
    told = figures(two, "News")
    assert told == {two[0].guid: (2, first.size + last.size), two[1].guid: (1, first.size)}
    two.cut()
    two.wait(10 * MINUTE_MS)
    assert figures(two, "News")[two[1].guid] == (2, first.size + last.size)
    later_ms = two.clock.now_ms()
    folder = two[1].object_id("News")
    assert two.ask(1, lambda replica: expiry.expire(replica, folder, later_ms)) == 2
    two.wait(MINUTE_MS)
    two[1].post("News", "tells what it let go")
    two.wait(10 * MINUTE_MS)
    assert figures(two, "News")[two[1].guid] == (1, two[1].items("News")[0].size)


def test_a_message_in_conflict_is_one_item_of_each_replica(two: Nodes) -> None:
    two.share("News")
    two[0].post("News", "first")
    two.wait(MINUTE_MS)
    two.edit_apart("News", b"mine", b"theirs")
    (shown,) = two[0].items("News")
    both = {store.guid: (1, shown.size) for store in two.stores}
    assert figures(two, "News") == figures(two, "News", at=1) == both


def figures(nodes: Nodes, path: str, at: int = 0) -> dict[bytes, tuple[int, int]]:
    """Items and bytes of each replica of a folder, as a store knows them."""
    folder = nodes[at].object_id(path)
    status = nodes.ask(at, lambda replica: views.status(replica, folder))
    return {each.database: each.figures[:2] for each in status if each.figures}


def test_what_is_for_a_store_whose_link_does_not_stand_yet_goes_once_it_does(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "ab")
    nodes.cut((0, 1))
    nodes[0].change(lambda txn: public_folders.create(txn, "News"))
    nodes.wait(MINUTE_MS)
    nodes.cut()
    nodes.wait(2_000)
    assert nodes[1].has("News"), "not after the five minutes for which a silent store is passed over"
    nodes.close()


def test_threads_of_nodes_carry_a_post_and_end_within_seconds(tmp_path: Path) -> None:
    """The same by real clocks and threads."""
    nodes, network = Nodes(tmp_path, clock=SystemClock()), MemoryNetwork()
    running = [store.made(partial(network.transport, store.guid)) for store in nodes.stores]
    for node in running:
        node.start()
    try:
        nodes[0].change(lambda txn: public_folders.create(txn, "News"))
        folder = nodes[0].object_id("News")
        other = nodes[1].guid
        running[0].perform(
            lambda replica: subtree.change_replicas(replica, folder, Action.ADD, other, "operator")
        )
        nodes[0].post("News", "hello")
        assert eventually(lambda: nodes[1].has("News") and nodes[1].subjects("News") == ["hello"])
    finally:
        ended = [node.stop() for node in running]
    assert all(ended)
    with pytest.raises(Refused, match="stopped"):
        running[0].perform(lambda replica: None)
    for store in nodes.stores:
        store.database.dismount()


def eventually(is_so: Callable[[], bool]) -> bool:
    """True as soon as something is so, False when it is not within 20 s."""
    clock = SystemClock()
    until_ms = clock.monotonic_ms() + 20_000
    while not is_so():
        if clock.monotonic_ms() > until_ms:
            return False
        clock.sleep_ms(20)
    return True


def test_a_store_of_another_site_is_asked_at_once_when_its_link_is_back(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "ab")
    try:
        nodes[0].change(lambda txn: public_folders.create(txn, "Forum"))
        nodes.wait(1_000)
        nodes[0].post("Forum", "hello")
        nodes.wait(MINUTE_MS)
        nodes.cut((0, 1))
        nodes.add_replica(1, "Forum", nodes[1].guid)
        nodes.wait(17 * MINUTE_MS)
        nodes.cut()
        nodes.wait(3 * MINUTE_MS)  # what waited for the link goes first
        assert nodes[1].subjects("Forum") == ["hello"]
    finally:
        nodes.close()


def test_a_fence_that_cannot_be_written_ends_no_thread(two: Nodes) -> None:
    store = two[0]
    fence = store.place.with_suffix(".fence")
    fence.unlink()
    fence.mkdir()
    assert store.node.stop()
    store.node = store.made()
    two.settle()
    assert store.node.standing.state is State.WAITING
    assert str(fence) in store.node.standing.reason
    assert not store.faults
    fence.rmdir()
    two.wait(RETRY_MS + MINUTE_MS)
    assert store.node.standing.state is State.RUNNING


def test_a_copy_that_waits_for_a_slow_link_is_neither_asked_for_nor_given_again(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "ab")
    try:
        nodes.share("Forum")
        nodes.wires.slow.add(nodes[0].guid)
        nodes[0].post("Forum", "hello")
        nodes.wait(40_000)
        waiting = [frame for _, _, frame, _ in nodes.wires.waiting]
        assert len([frame for frame in waiting if len(frame) > RECEIPT_BYTES]) == 1
        assert len(waiting) == 1, "nobody asks for the receipt of what has not left"
        nodes.wires.slow.clear()
        nodes.wait(1_000)
        assert nodes[1].subjects("Forum") == ["hello"]
    finally:
        nodes.close()
