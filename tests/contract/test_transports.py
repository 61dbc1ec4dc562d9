"""What every transport promises a node: one suite, run on each of them.

Threads and sockets are real; nothing sleeps, and what must come is waited for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Protocol

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from arrivals import WAIT_S, RecordedArrivals
from nats_server import NatsServer, require_nats
from tls_members import Organisation

from pillarbox.replication.transports.direct import DirectTransport
from pillarbox.replication.transports.memory import MemoryNetwork
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.replication.transports.spool import SpoolTransport
from pillarbox.replication.transports.transport import Member, Members, Transport
from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX
from pillarbox.store.clock import SystemClock
from pillarbox.store.ids import guid_text

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))
OUTBOX_BYTES = 64 << 10
MESSAGES_MAX = 8  # that wait in NATS for one store from another


class Net(Protocol):
    """Makes transports that can reach each other."""

    def transport(self, database: bytes) -> Transport: ...

    def members(self, *databases: bytes) -> Members:
        """Stores as members, with where each is reached."""
        ...

    def close(self) -> None: ...


class MemoryNet:
    def __init__(self, place: Path) -> None:
        self._network = MemoryNetwork()

    def transport(self, database: bytes) -> Transport:
        return self._network.transport(database, OUTBOX_BYTES)

    def members(self, *databases: bytes) -> Members:
        return {database: Member(database, f"store-{database[0]}") for database in databases}

    def close(self) -> None:
        pass


class DirectNet:
    def __init__(self, place: Path) -> None:
        self._organisation = Organisation(place)
        self._transports: dict[bytes, DirectTransport] = {}
        self._made: list[DirectTransport] = []

    def transport(self, database: bytes) -> Transport:
        made = DirectTransport(
            database,
            ("127.0.0.1:0",),
            self._organisation.credentials(database),
            random.Random(len(self._made)),
            outbox_bytes_max=OUTBOX_BYTES,
        )
        self._made.append(made)
        self._transports[database] = made
        return made

    def members(self, *databases: bytes) -> Members:
        return {
            database: self._organisation.member(database, *self._transports[database].addresses)
            for database in databases
        }

    def close(self) -> None:
        pass


class SpoolNet:
    def __init__(self, place: Path) -> None:
        self._place = place / "spool"

    def transport(self, database: bytes) -> Transport:
        return SpoolTransport(
            database,
            self._place,
            SystemClock(),
            spool_bytes_max=OUTBOX_BYTES,
            outbox_bytes_max=OUTBOX_BYTES,
            scan_every_s=0.05,
        )

    def members(self, *databases: bytes) -> Members:
        return {database: Member(database, f"store-{database[0]}") for database in databases}

    def close(self) -> None:
        pass


class NatsNet:
    def __init__(self, place: Path) -> None:
        require_nats()
        self._server = NatsServer(place / "nats").start()
        self._made_count = 0

    def transport(self, database: bytes) -> Transport:
        from pillarbox.replication.transports.nats import NatsTransport, Timing

        self._made_count += 1
        return NatsTransport(
            database,
            b"t" * 16,
            NatsSettings((self._server.address,)),
            random.Random(self._made_count),
            outbox_bytes_max=OUTBOX_BYTES,
            messages_max=MESSAGES_MAX,
            timing=Timing(full_s=0.05, ack_wait_s=1),
        )

    def members(self, *databases: bytes) -> Members:
        return {
            database: Member(database, f"store-{database[0]}", sites=("berlin", "berlin"))
            for database in databases
        }

    def close(self) -> None:
        self._server.kill()


class Node:
    """A store's transport with what it told."""

    def __init__(self, net: Net, database: bytes) -> None:
        self.database = database
        self.transport = net.transport(database)
        self.told = RecordedArrivals()

    def start(self, members: Members) -> None:
        self.transport.start(self.told)
        self.transport.members_changed(members)


class Nodes:
    def __init__(self, net: Net) -> None:
        self.net = net
        self._all: list[Node] = []

    def add(self, database: bytes) -> Node:
        self._all.append(node := Node(self.net, database))
        return node

    def linked(self, *databases: bytes) -> list[Node]:
        """Started nodes that are members of each other, once all links between them stand."""
        nodes = [self.add(database) for database in databases]
        for node in nodes:
            node.transport.start(node.told)
        for node in nodes:
            node.transport.members_changed(self.net.members(*databases))
        for node in nodes:
            up = {node.told.next_link() for _ in range(len(nodes) - 1)}
            assert up == {(other, True) for other in databases if other != node.database}
        return nodes

    def close(self) -> None:
        for node in self._all:
            node.told.gate.set()
        for node in self._all:
            node.transport.close()
        self.net.close()


NETS: dict[str, Callable[[Path], Net]] = {
    "memory": MemoryNet,
    "direct": DirectNet,
    "spool": SpoolNet,
    "nats": NatsNet,
}


@pytest.fixture(params=NETS)
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(NETS[request.param](tmp_path))
    yield nodes
    nodes.close()


def give_until_full(node: Node, peer: bytes, frame: bytes) -> int:
    """Give one frame again and again until it is refused; how many were taken."""
    for count in range(10_000):
        if not node.transport.give(peer, frame):
            return count
    pytest.fail("the outbox has no bound")


def test_frames_come_whole_in_order_and_say_who_sent_them(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    sent = [bytes([n]) * (1 + n * 277) for n in range(MESSAGES_MAX)]
    assert all(a.transport.give(B, frame) for frame in sent)
    assert b.transport.give(A, b"back")
    assert [b.told.next_frame() for _ in sent] == [(A, frame) for frame in sent]
    assert a.told.next_frame() == (B, b"back")


def test_frames_beyond_what_may_wait_come_once_each_in_some_order(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    sent = [bytes([n]) * (1 + n * 277) for n in range(20)]
    assert all(a.transport.give(B, frame) for frame in sent)
    assert sorted(b.told.next_frame() for _ in sent) == [(A, frame) for frame in sent]
    assert a.transport.give(B, b"last")
    assert b.told.next_frame() == (A, b"last"), "none came twice"


def test_each_peer_gets_its_own(nodes: Nodes) -> None:
    a, b, c = nodes.linked(A, B, C)
    assert a.transport.give(B, b"to b") and a.transport.give(C, b"to c") and c.transport.give(B, b"c to b")
    assert {b.told.next_frame(), b.told.next_frame()} == {(A, b"to b"), (C, b"c to b")}
    assert c.told.next_frame() == (A, b"to c")


def test_a_large_frame_comes_whole(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    frame = bytes(range(256)) * (3 << 12)  # 3 MiB, many times the outbox
    assert a.transport.give(B, frame)
    assert b.told.next_frame() == (A, frame)


def test_nothing_is_taken_for_who_is_no_member(nodes: Nodes) -> None:
    a, _ = nodes.linked(A, B)
    assert not a.transport.give(C, b"x")


def test_nothing_is_taken_before_a_link_stands(nodes: Nodes) -> None:
    a = nodes.add(A)
    a.start(nodes.net.members(A))
    assert not a.transport.give(B, b"x")


def test_frames_that_no_transport_carries_are_a_fault_of_the_caller(nodes: Nodes) -> None:
    a, _ = nodes.linked(A, B)
    with pytest.raises(ValueError, match="0"):
        a.transport.give(B, b"")
    with pytest.raises(ValueError, match=str(FRAME_BYTES_MAX + 1)):
        a.transport.give(B, bytes(FRAME_BYTES_MAX + 1))


def test_a_node_that_takes_nothing_stops_its_sender(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    b.told.gate.clear()
    frame = bytes(16 << 10)
    assert a.transport.give(B, frame)
    b.told.entered.get(timeout=WAIT_S)
    taken = 1 + give_until_full(a, B, frame)
    b.told.gate.set()
    assert [b.told.next_frame() for _ in range(taken)] == [(A, frame)] * taken


def test_a_sender_that_was_refused_is_told_when_there_is_room(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    b.told.gate.clear()
    frame = bytes(16 << 10)
    give_until_full(a, B, frame)
    b.told.gate.set()
    assert a.told.next_room() == B
    assert a.transport.give(B, b"again")


def test_a_full_outbox_holds_up_no_other_peer(nodes: Nodes) -> None:
    a, b, c = nodes.linked(A, B, C)
    b.told.gate.clear()
    give_until_full(a, B, bytes(16 << 10))
    assert a.transport.give(C, b"x")
    assert c.told.next_frame() == (A, b"x")


def test_it_is_told_which_frames_have_left(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    went: Queue[int] = Queue()
    for k in range(3):
        assert a.transport.give(B, bytes([k]) * 1000, partial(went.put, k))
    assert [b.told.next_frame()[1][0] for _ in range(3)] == [0, 1, 2]
    assert [went.get(timeout=WAIT_S) for _ in range(3)] == [0, 1, 2]


def test_what_waits_in_an_outbox_has_not_left(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    b.told.gate.clear()
    went: Queue[int] = Queue()
    taken = 0
    while a.transport.give(B, bytes(16 << 10), partial(went.put, taken)):
        taken += 1
    assert went.qsize() < taken
    b.told.gate.set()
    assert [went.get(timeout=WAIT_S) for _ in range(taken)] == list(range(taken))


def test_who_blocks_still_sends(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    b.told.gate.clear()
    assert a.transport.give(B, b"x")
    b.told.entered.get(timeout=WAIT_S)
    assert b.transport.give(A, b"y")
    assert a.told.next_frame() == (B, b"y")


def test_a_member_that_is_taken_out_has_no_link_any_more(nodes: Nodes) -> None:
    a, _, c = nodes.linked(A, B, C)
    a.transport.members_changed(nodes.net.members(A, C))
    assert a.told.next_link() == (B, False)
    assert not a.transport.give(B, b"x")
    assert a.transport.give(C, b"y")
    assert c.told.next_frame() == (A, b"y")


def test_a_member_that_comes_back_is_linked_again(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    a.transport.members_changed(nodes.net.members(A))
    assert a.told.next_link() == (B, False)
    a.transport.members_changed(nodes.net.members(A, B))
    assert a.told.next_link() == (B, True)
    assert a.transport.give(B, b"x")
    assert b.told.next_frame() == (A, b"x")


def heard_only(members: Members) -> Members:
    """Members whose links use another transport."""
    return {peer: member._replace(is_heard_only=True) for peer, member in members.items()}


def test_what_a_member_sends_that_is_heard_only_is_taken(nodes: Nodes) -> None:
    a, b = nodes.add(A), nodes.add(B)
    for node in (a, b):
        node.transport.start(node.told)
    members = nodes.net.members(A, B)
    b.transport.members_changed(heard_only(members))
    a.transport.members_changed(members)
    assert a.told.next_link() == (B, True)
    assert a.transport.give(B, b"x")
    assert b.told.next_frame() == (A, b"x")


def test_a_link_whose_member_becomes_heard_only_is_heard_on(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    b.transport.members_changed(heard_only(nodes.net.members(A, B)))
    assert a.transport.give(B, b"x")
    assert b.told.next_frame() == (A, b"x")
    b.transport.members_changed(nodes.net.members(A, B))
    while not b.transport.give(A, b"y"):
        assert b.told.next_link()[0] == A
    assert a.told.next_frame() == (B, b"y")


def test_nothing_is_written_for_who_is_heard_only(tmp_path: Path) -> None:
    nodes = Nodes(SpoolNet(tmp_path))
    a, b = nodes.add(A), nodes.add(B)
    try:
        for node in (a, b):
            node.transport.start(node.told)
        members = nodes.net.members(A, B)
        b.transport.members_changed(heard_only(members))
        a.transport.members_changed(members)
        assert a.told.next_link() == (B, True) and a.transport.give(B, b"x")
        assert b.told.next_frame() == (A, b"x")
        assert not (tmp_path / "spool" / guid_text(A) / guid_text(B)).exists()
        assert not b.transport.give(A, b"y")
    finally:
        nodes.close()


def test_members_that_stay_the_same_keep_their_links(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    a.transport.members_changed(nodes.net.members(A, B))
    assert a.transport.give(B, b"x")
    assert b.told.next_frame() == (A, b"x")
    assert a.told.links.empty() and b.told.links.empty()


def test_who_went_away_is_told_of_and_found_again(nodes: Nodes) -> None:
    if isinstance(nodes.net, SpoolNet | NatsNet):
        pytest.skip("nobody knows whether there is somebody at the other end of what is stored")
    a, b = nodes.linked(A, B)
    b.transport.close()
    assert a.told.next_link() == (B, False)
    again = nodes.add(B)
    again.start(nodes.net.members(A, B))
    assert a.told.next_link() == (B, True)
    assert again.told.next_link() == (A, True)
    assert a.transport.give(B, b"x")
    assert again.told.next_frame() == (A, b"x")


def test_what_was_not_settled_before_its_store_was_killed_comes_again(nodes: Nodes) -> None:
    if isinstance(nodes.net, MemoryNet | DirectNet):
        pytest.skip("what was on a connection is lost with it")
    a, b = nodes.linked(A, B)
    assert a.transport.give(B, b"settled")
    assert b.told.next_frame() == (A, b"settled")
    b.told.settles = False
    assert a.transport.give(B, b"one") and a.transport.give(B, b"two")
    assert [b.told.next_frame(), b.told.next_frame()] == [(A, b"one"), (A, b"two")]
    b.transport.close()
    again = nodes.add(B)
    again.start(nodes.net.members(A, B))
    assert {again.told.next_frame(), again.told.next_frame()} == {(A, b"one"), (A, b"two")}
    assert again.told.frames.empty()
    for settled in b.told.unsettled:
        settled()  # of a node that ends late: harmless


def test_a_frame_that_is_settled_late_comes_once(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    b.told.settles = False
    assert a.transport.give(B, b"one")
    assert b.told.next_frame() == (A, b"one")
    assert a.transport.give(B, b"two")
    assert b.told.next_frame() == (A, b"two")
    for settled in b.told.unsettled:
        settled()
    assert a.transport.give(B, b"three")
    assert b.told.next_frame() == (A, b"three")
    assert b.told.frames.empty()


def test_nothing_is_told_after_closing(nodes: Nodes) -> None:
    a, b = nodes.linked(A, B)
    b.transport.close()
    b.transport.close()
    assert not b.transport.give(A, b"x")
    assert b.told.links.empty()
    a.transport.give(B, b"x")
    a.transport.close()
    assert b.told.frames.empty()
