"""What arrives at a store is opened, or refused by name, counted and reported; and changes nothing then."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from cryptography.hazmat.primitives.asymmetric import ec

from pillarbox.replication.core.effects import GiveReceipt, Pass, Send
from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import Tree
from pillarbox.replication.node import sealing
from pillarbox.replication.node.gate import REPORT_EVERY_MS, Frame, Gate
from pillarbox.replication.node.opening import Arrived
from pillarbox.replication.node.refused_connections import RefusedConnections
from pillarbox.replication.node.sealing import Sealer
from pillarbox.replication.node.store_replicator import Outgoing
from pillarbox.replication.wire import parts
from pillarbox.replication.wire.messages import (
    BUNDLE_MESSAGES_MAX,
    EVERYONE,
    Bundle,
    BundleKey,
    Changes,
    Class,
    Label,
    Life,
    Message,
    Receipt,
    Sender,
    Statement,
    Status,
)
from pillarbox.replication.wire.seal import PackedBody, Peer, Reason, Signer, pack_messages
from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX, LABEL_BYTES
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import InvalidContent, OverLimit, UnsupportedVersion
from pillarbox.store.events import Event, EventId
from pillarbox.store.mail import messages
from tests.shared.nodes import Nodes

TREE = Tree(b"t" * 16)
ME, PEER, GONE, OTHER = (bytes([letter]) * 16 for letter in b"mpgo")
SIGNERS = {guid: Signer(ec.derive_private_key(guid[0], ec.SECP256R1()), guid * 2) for guid in (PEER, GONE)}
PEERS = {
    signer.fingerprint: Peer(guid, signer.key.public_key(), is_removed=guid == GONE)
    for guid, signer in SIGNERS.items()
}
CONTENT = b"Subject: x\r\n\r\nx\r\n"
SAID = Statement(Life(1, 1), CNSet(), CNSet())
OTHERWISE = Statement(Life(1, 2), CNSet(), CNSet())


class Events:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


class Place:
    """A store, its gate, and what that reported."""

    def __init__(self, path: Path) -> None:
        self.clock, self.reporter = VirtualClock(), Events()
        self.database = Database(
            path,
            ME,
            "store",
            DatabaseKind.PUBLIC_FOLDER_STORE,
            clock=self.clock,
            rng=random.Random(1),
            reporter=self.reporter,
        )
        self.database.create()
        self.database.mount()
        self.faults: list[str] = []
        self.gate = Gate(self.database, TREE, lambda: PEERS, self.faults.append)

    def refusals(self) -> list[tuple[str, int]]:
        """The reason and the count of each event."""
        return [
            (event.details["reason"], event.details["count"])
            for event in self.reporter.events
            if event.event_id == EventId.REPLICATION_REFUSED
        ]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "store")
    yield made
    made.database.dismount()


def said(of: bytes, to: bytes = ME) -> Message:
    return Message(Sender(of, 1, of), to, TREE.hierarchy, SAID, Status())


def sealed(of: bytes = PEER, count: int = 1, tree: Tree = TREE, signer: Signer | None = None) -> bytes:
    bundle = Bundle(Sender(of, 1, of), 7, Class.URGENT, 0, (), (said(of, EVERYONE),) * count)
    passed = Pass(Label(ME, 1, False, 0), bundle)
    ((data),) = Sealer(tree).frames_of(Outgoing(passed, (CONTENT,)), signer or SIGNERS[of], 1).frames
    return data


def bent(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def test_what_says_the_same_to_several_stores_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[object] = []

    def counted(*what: Any) -> PackedBody:
        packed.append(what)
        return pack_messages(*what)

    monkeypatch.setattr(sealing, "pack_messages", counted)
    sealer, changes = Sealer(TREE), Changes((), Pair(CNSet(), CNSet()))
    for to in (ME, OTHER, PEER):
        message = Message(Sender(PEER, 1, PEER), to, TREE.hierarchy, SAID, changes)
        assert sealer.frames_of(Outgoing(Send(message)), SIGNERS[PEER], 1).to == to
    assert len(packed) == 1
    sealer.frames_of(Outgoing(Send(replace(message, statement=OTHERWISE))), SIGNERS[PEER], 1)
    sealer.frames_of(Outgoing(Send(said(PEER))), SIGNERS[PEER], 1)
    assert len(packed) == 3


def test_a_message_a_copy_and_a_receipt_come_out_as_they_went_in(place: Place) -> None:
    receipt = Receipt(BundleKey(PEER, 1, 7), PEER)
    effects = (Send(said(PEER)), GiveReceipt(ME, receipt))
    sent = [Sealer(TREE).frames_of(Outgoing(effect, ()), SIGNERS[PEER], 1) for effect in effects]
    assert [each.to for each in sent] == [ME, ME]
    frames = [Frame(OTHER, data) for each in sent for data in each.frames]
    message, got, copy = place.gate.open([*frames, Frame(OTHER, sealed())]).taken
    assert got == receipt
    assert isinstance(message, Arrived) and isinstance(copy, Arrived)
    assert message.opened.bundle.messages == (said(PEER),) and not message.is_copy
    assert copy.is_copy and copy.hop == OTHER and copy.label.hops == 1
    assert copy.opened.bundle.sender.database == PEER


def test_a_frame_at_which_the_program_fails_is_refused_and_those_beside_it_are_opened(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, calls = messages.prepare, iter(range(3))

    def fail(*of: Any) -> Any:
        return prepare(*of) if next(calls) != 1 else 1 // 0

    monkeypatch.setattr(messages, "prepare", fail)
    batch = place.gate.open([Frame(OTHER, sealed())] * 3)
    assert len(batch.taken) == 2 and len(batch.prepared) == 1
    assert place.refusals() == [("fault", 1)] and place.gate.refused_counts == {Reason.FAULT: 1}
    assert "ZeroDivisionError" in place.faults[0]


def test_a_copy_is_handed_on_byte_for_byte_as_its_maker_signed_it(place: Place) -> None:
    (copy,) = place.gate.open([Frame(OTHER, sealed())]).taken
    assert isinstance(copy, Arrived)
    passed = Pass(Label(OTHER, 2, False, 0), copy.opened.bundle)
    ((data),) = Sealer(TREE).frames_of(Outgoing(passed, data=copy.data), SIGNERS[GONE], 9).frames
    assert data[AT:] == copy.data
    ((again),) = place.gate.open([Frame(OTHER, data)]).taken
    assert isinstance(again, Arrived) and again.opened == copy.opened and again.label.hops == 2


AT = LABEL_BYTES


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.FORM),
        (b"PBRX", Reason.FORM),
        (bent(sealed(), AT + 104, b"\xff\xff\xff\xff"), Reason.SIZE),
        (sealed()[:-1], Reason.FORM),
        (bent(sealed(), 4, b"\x09"), Reason.VERSION),
        (bent(sealed(), AT + 4, b"\x09"), Reason.VERSION),
        (sealed(tree=Tree(b"u" * 16)), Reason.TREE),
        (sealed(PEER, signer=Signer(SIGNERS[PEER].key, OTHER * 2)), Reason.SENDER),
        (sealed(PEER, signer=SIGNERS[GONE]), Reason.SENDER),
        (sealed(GONE), Reason.SENDER),
        (sealed(PEER, signer=Signer(SIGNERS[GONE].key, PEER * 2)), Reason.SIGNATURE),
        (bent(sealed(), AT + 5, b"\x08"), Reason.SIGNATURE),
        (sealed(count=BUNDLE_MESSAGES_MAX + 1), Reason.LIMITS),
    ],
)
def test_what_is_wrong_is_refused_for_the_first_reason_and_counted(
    place: Place, data: bytes, reason: Reason
) -> None:
    batch = place.gate.open([Frame(OTHER, data), Frame(OTHER, sealed())])
    assert len(batch.taken) == 1  # the others go on
    assert place.gate.refused_counts == {reason: 1}
    assert place.refusals() == [(str(reason), 1)]


def test_the_first_refusal_is_reported_at_once_and_a_flood_every_ten_minutes(place: Place) -> None:
    wrong = Frame(OTHER, sealed(GONE))
    place.gate.open([wrong] * 50)
    place.clock.advance_ms(REPORT_EVERY_MS - 1)
    place.gate.open([wrong])
    assert place.refusals() == [("sender", 1)]
    place.gate.open([Frame(PEER, sealed(GONE)), Frame(OTHER, b"")])
    assert place.refusals()[1:] == [("sender", 1), ("form", 1)]  # of another hop, of another reason
    place.clock.advance_ms(1)
    place.gate.open([wrong])
    assert place.refusals()[3:] == [("sender", 51)]
    assert place.gate.refused_counts == {Reason.SENDER: 53, Reason.FORM: 1}


# -- parts


def large(seed: int = 1, size: int = 2_000_000) -> bytes:
    return random.Random(seed).randbytes(size)


def test_a_large_frame_goes_in_parts_that_come_doubled_and_in_any_order() -> None:
    frame = large()
    split = parts.split(frame)
    assert len(split) == 3 and max(map(len, split)) <= parts.PART_BYTES_MAX
    assert split[1][:24].hex() == "5042525001000000" + "d343fe6d30e95178" + "80841e00" + "88bb0d00"
    assembly = parts.Assembly()
    came = [assembly.take(split[k]) for k in (2, 0, 2, 0, 1)]
    assert came == [None] * 4 + [frame]


def test_a_frame_that_is_sent_again_after_a_cut_goes_on_where_it_was() -> None:
    assembly, frame = parts.Assembly(), large()
    assembly.take(parts.split(frame)[0])
    assembly.take(parts.split(large(2))[0])  # another one between
    assert [assembly.take(part) for part in parts.split(frame)[1:]] == [None, frame]


def test_parts_of_an_enemy_take_no_more_memory_than_one_frame_and_change_no_other() -> None:
    split, assembly = parts.split(large()), parts.Assembly()
    with pytest.raises(OverLimit):
        assembly.take(bent(split[0], 16, b"\xff\xff\xff\xff"))
    with pytest.raises(UnsupportedVersion):
        assembly.take(bent(split[0], 4, b"\x02"))
    for wrong in (split[0][:24], split[0][:-1], bent(split[0], 20, b"\x01"), bent(split[0], 5, b"\x01")):
        with pytest.raises(InvalidContent):
            assembly.take(wrong)
    for number in range(500):
        assembly.take(bent(split[0], 8, number.to_bytes(8, "little")))
    assert assembly.held_bytes <= FRAME_BYTES_MAX
    with pytest.raises(InvalidContent, match="not those"):
        [assembly.take(part) for part in (split[0], bent(split[1], 30, b"xx"), split[2])]


def test_frames_are_settled_with_the_batch_but_parts_only_with_the_frame_they_are_of(place: Place) -> None:
    split, others = parts.split(large()), parts.split(large(2))
    calls: list[int] = []
    frames = [Frame(OTHER, data, partial(calls.append, k)) for k, data in enumerate([*split, others[0]])]
    refused = Frame(OTHER, b"nothing", partial(calls.append, 9))
    damaged = Frame(OTHER, split[0][:30], partial(calls.append, 8))
    settled = [place.gate.open(each).settled for each in ([*frames[:2], refused, frames[3]], [damaged])]
    for call in (*settled[0], *settled[1]):
        call()
    assert calls == [9, 8]
    for call in place.gate.open([frames[2]]).settled:
        call()
    assert calls == [9, 8, 0, 1, 2]


def test_parts_of_a_store_that_was_removed_are_let_go(place: Place) -> None:
    split, calls, peers = parts.split(large()), list[int](), dict(PEERS)
    gate = Gate(place.database, TREE, lambda: peers, place.faults.append)
    gate.open([Frame(PEER, split[0], partial(calls.append, 1))])
    assert not gate.open([]).settled
    peers[SIGNERS[PEER].fingerprint] = PEERS[SIGNERS[PEER].fingerprint]._replace(is_removed=True)
    for settled in gate.open([]).settled:
        settled()
    assert calls == [1], "nobody will send the rest"
    assert not gate.open([]).settled


def test_parts_that_are_forgotten_are_settled() -> None:
    assembly, calls = parts.Assembly(), list[int]()
    for number in range(20):
        assembly.take(parts.split(large(number))[0], partial(calls.append, number))
    for call in assembly.settled():
        call()
    assert calls == [0, 1, 2, 3] and not assembly.settled()


def test_a_large_message_arrives_in_parts(place: Place) -> None:
    frames = Sealer(TREE).frames_of(Outgoing(Send(said(PEER)), (large(),)), SIGNERS[PEER], 1).frames
    assert len(frames) > 2
    batches = [place.gate.open([Frame(OTHER, data)]) for data in frames]
    assert [len(batch.taken) for batch in batches] == [0] * (len(frames) - 1) + [1]
    assert [len(ready.raw) for ready in batches[-1].prepared.values()] == [2_000_000]


def test_refused_connections_are_an_event_at_once_and_then_every_ten_minutes(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "a")
    store = nodes[0]
    refused = RefusedConnections(store.database)
    try:
        for _ in range(5):
            refused.add("10.0.0.9: it says nothing" + "x" * 1000)
        nodes.clock.advance_ms(REPORT_EVERY_MS)
        refused.add("10.0.0.8: it shows no certificate")
    finally:
        nodes.close()
    told = [event.details for event in store.events if event.event_id == EventId.CONNECTIONS_REFUSED]
    assert [each["count"] for each in told] == [1, 5]
    assert "shows no certificate" in told[1]["error"] and len(told[0]["error"]) < 400
