"""A replica that is filled from a snapshot of another store: only what was changed since crosses the link."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pillarbox.replication.core import seeding, subtree
from pillarbox.replication.core.preset import PROMPT
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.subtree import Action
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.snapshot_source import SnapshotSource
from pillarbox.replication.node.store_replicator import StoreReplicator
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.wire import unsealed
from pillarbox.store.errors import AccessDenied, InvalidContent, Refused
from pillarbox.store.mail import messages, public_folders
from tests.shared.nodes import ANNA, TREE, Nodes

HOUR_MS = 3_600_000
RANDOM = random.Random(18)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path, "ab")
    yield made
    made.close()


def begun(nodes: Nodes) -> None:
    """A folder with a replica at the first store alone, and some posts."""
    nodes[0].change(lambda txn: public_folders.create(txn, "Forum"))
    nodes.wait(1_000)
    for k in range(20):
        nodes[0].post("Forum", f"{k:02} {RANDOM.randbytes(1000).hex()}")
    nodes.wait(60_000)


def carried(nodes: Nodes) -> int:
    return sum(len(frame) for _, _, frame in nodes.wires.carried)


def add_and_ask(nodes: Nodes, path: str = "Forum") -> Any:
    """Add a replica at the second store, and the request of its seed, as the command does."""
    folder = nodes[1].object_id(path)

    def change(replica: Replica) -> Any:
        subtree.change_replicas(replica, folder, Action.ADD, nodes[1].guid, "operator")
        return seeding.request(replica, folder)

    return nodes.ask(1, change)


def seed(nodes: Nodes, asked: Any, source: SnapshotSource) -> int:
    """Seed a replica of the second store; the count of messages that it was given."""
    store, given = nodes[1], 0
    while asked is not None:
        answers, asked = list(source.answer(unsealed.encode(asked, TREE))), None
        for answer in answers:
            message, contents = unsealed.decode(answer, TREE)
            ready = [messages.prepare(store.database.files, raw) for raw in contents]
            prepared = {each.content.digest: each for each in ready}
            asking = store.node.asked(partial(seeding.take, message=message), prepared)
            nodes.settle()
            asked = asking.result(0)
            given += 1
    return given


def purged(nodes: Nodes) -> bool:
    folder = nodes[0].object_id("Forum")
    return bool(nodes.ask(0, lambda replica: replica.state(folder).knowledge.purged))


def test_only_what_was_changed_since_crosses_the_link(nodes: Nodes) -> None:
    begun(nodes)
    with nodes[0].database.read(ANNA) as read:
        source = SnapshotSource(read)
        nodes[0].post("Forum", "later")
        nodes.wait(60_000)
        before = carried(nodes)
        seed(nodes, add_and_ask(nodes), source)
        nodes.wait(HOUR_MS)
    assert nodes[1].subjects("Forum") == nodes[0].subjects("Forum")
    assert len(nodes[1].subjects("Forum")) == 21
    assert carried(nodes) - before < 20_000


def test_without_a_snapshot_all_of_it_crosses_the_link(nodes: Nodes) -> None:
    begun(nodes)
    before = carried(nodes)
    nodes.add_replica(1, "Forum", nodes[1].guid)
    nodes.wait(HOUR_MS)
    assert carried(nodes) - before > 20_000
    assert len(nodes[1].subjects("Forum")) == 20


def test_nobody_is_asked_while_a_snapshot_is_brought_in(nodes: Nodes) -> None:
    begun(nodes)
    add_and_ask(nodes)
    nodes.wait(seeding.QUIET_MS - 5_000)
    assert nodes[1].subjects("Forum") == []
    nodes.wait(60_000)  # whoever brought it has gone
    assert len(nodes[1].subjects("Forum")) == 20


def test_a_message_that_was_deleted_since_stays_deleted(nodes: Nodes) -> None:
    begun(nodes)
    with nodes[0].database.read(ANNA) as read:
        source = SnapshotSource(read)
        (item, *_) = nodes[0].items("Forum")
        nodes[0].change(lambda txn: messages.delete(txn, item.message_id))
        nodes.wait(6 * HOUR_MS)
        assert purged(nodes), "no other store has it"
        seed(nodes, add_and_ask(nodes), source)
        nodes.wait(HOUR_MS)
    assert nodes[1].subjects("Forum") == nodes[0].subjects("Forum")
    assert len(nodes[1].subjects("Forum")) == 19


def test_a_deletion_that_was_purged_before_the_snapshot_is_known(nodes: Nodes) -> None:
    begun(nodes)
    (item, *_) = nodes[0].items("Forum")
    nodes[0].change(lambda txn: messages.delete(txn, item.message_id))
    nodes.wait(6 * HOUR_MS)
    assert purged(nodes)
    with nodes[0].database.read(ANNA) as read:
        before = carried(nodes)
        seed(nodes, add_and_ask(nodes), SnapshotSource(read))
        nodes.wait(HOUR_MS)
    assert len(nodes[1].subjects("Forum")) == 19
    assert carried(nodes) - before < 20_000
    folder = nodes[1].object_id("Forum")
    known = [nodes.ask(k, lambda replica: replica.state(folder).knowledge.known) for k in (0, 1)]
    assert known[0] == known[1]


def test_a_replica_that_holds_some_of_it_takes_the_rest(nodes: Nodes) -> None:
    begun(nodes)
    nodes.add_replica(0, "Forum", nodes[1].guid)
    nodes.wait(HOUR_MS)
    nodes.cut((0, 1))
    nodes[0].post("Forum", "while it was away")
    (item, *_) = nodes[0].items("Forum")
    nodes[0].change(lambda txn: messages.delete(txn, item.message_id))
    nodes[1].post("Forum", "its own")
    nodes.wait(60_000)
    with nodes[0].database.read(ANNA) as read:
        asked = nodes.ask(1, lambda replica: seeding.request(replica, nodes[1].object_id("Forum")))
        assert seed(nodes, asked, SnapshotSource(read)) > 0
    nodes.wait(1_000)
    assert "while it was away" in nodes[1].subjects("Forum")
    assert "its own" in nodes[1].subjects("Forum")
    assert item.subject not in nodes[1].subjects("Forum")
    nodes.cut()
    nodes.wait(HOUR_MS)
    assert nodes[1].subjects("Forum") == nodes[0].subjects("Forum")


def test_a_folder_that_the_snapshot_did_not_hold_comes_from_the_others(nodes: Nodes) -> None:
    nodes[0].change(lambda txn: public_folders.create(txn, "Early"))
    nodes.wait(60_000)
    with nodes[0].database.read(ANNA) as read:
        source = SnapshotSource(read)
        begun(nodes)
        assert seed(nodes, add_and_ask(nodes), source) == 1
        nodes.wait(30_000)
    assert len(nodes[1].subjects("Forum")) == 20


def offer_of(nodes: Nodes) -> Any:
    with nodes[0].database.read(ANNA) as read:
        return unsealed.decode(SnapshotSource(read).offer, TREE)[0]


def test_a_snapshot_of_a_server_that_was_removed_is_refused(nodes: Nodes) -> None:
    begun(nodes)
    offer = offer_of(nodes)
    gone = {each: nodes.organisation.servers[each] for each in nodes.organisation.servers}
    gone[nodes[0].guid] = gone[nodes[0].guid]._replace(is_removed=True)

    def refuse(replica: Any) -> None:
        replica.organisation = Organisation(gone, nodes.organisation.connectors, sites=("a", "b"))
        seeding.refuse_unfit(replica, offer)

    with pytest.raises(Refused, match="removed"):
        nodes.ask(1, refuse)


def test_a_snapshot_of_a_copy_that_numbered_alike_is_refused(nodes: Nodes) -> None:
    begun(nodes)
    offer = offer_of(nodes)

    def refuse(replica: Any) -> None:
        replica.record.quarantined = frozenset({offer.sender.origin})
        seeding.take(replica, offer)

    with pytest.raises(Refused, match="two copies"):
        nodes.ask(1, refuse)


def test_a_snapshot_of_another_tree_is_refused(nodes: Nodes) -> None:
    begun(nodes)
    with nodes[0].database.read(ANNA) as read, pytest.raises(AccessDenied):
        unsealed.decode(SnapshotSource(read).offer, type(TREE)(b"u" * 16))


def test_a_folder_of_which_no_replica_is_held_is_not_seeded(nodes: Nodes) -> None:
    begun(nodes)
    with pytest.raises(Refused, match="no replica"):
        nodes.ask(1, lambda replica: seeding.request(replica, nodes[0].object_id("Forum")))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x95\x01\x02\x03\x04\x05"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidContent):
        unsealed.decode(data, TREE)


def test_a_replica_that_was_added_while_no_node_ran_asks_at_once_when_one_does(nodes: Nodes) -> None:
    begun(nodes)
    nodes[1].node.stop()
    nodes.down.add(1)
    folder, mine = nodes[1].object_id("Forum"), nodes[1].guid
    fence = FenceFile(nodes[1].place.with_suffix(".fence"), b"m" * 16)
    at_rest = StoreReplicator(
        nodes[1].database, TREE, nodes.organisation, PROMPT, fence, lambda outgoing: None
    )
    at_rest.perform(lambda replica: subtree.change_replicas(replica, folder, Action.ADD, mine, "operator"))
    nodes[1].node = nodes[1].made()
    nodes.down.clear()
    nodes.wait(40_000)  # the hello, and no first delay of two minutes
    assert len(nodes[1].subjects("Forum")) == 20
