"""Messages keep their bytes, and what is not exactly a message is refused by name and changes nothing."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from cryptography.hazmat.primitives.asymmetric import ec

from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import (
    Entry,
    FolderVersion,
    MessageVersion,
    ObjectId,
    ReplicaState,
    Tree,
)
from pillarbox.replication.ground.versions import Sight, Versions
from pillarbox.replication.simulation.scenario import Scenario, Settings
from pillarbox.replication.simulation.world import World
from pillarbox.replication.wire import frame
from pillarbox.replication.wire import seal as wire_seal
from pillarbox.replication.wire.frame import HEADER_BYTES, Header
from pillarbox.replication.wire.messages import (
    EVERYONE,
    Acknowledgement,
    AnswerTo,
    BackfillRequest,
    Body,
    BucketDigests,
    BucketQuestion,
    Bundle,
    BundleKey,
    Changes,
    Class,
    Fetching,
    Hello,
    HelloAnswer,
    Label,
    Life,
    LinkReport,
    Message,
    Numberings,
    Receipt,
    ReconcileAnswer,
    ReconcileQuestion,
    RestPoll,
    RestSums,
    Says,
    Sender,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.replication.wire.seal import Opened, Peer, Reason, Refusal, Signer, pack_messages, seal, unseal
from pillarbox.replication.wire.transport_frames import (
    decode_label,
    decode_receipt,
    encode_label,
    encode_receipt,
)
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.errors import (
    AccessDenied,
    InvalidContent,
    OverLimit,
    PillarboxError,
    UnsupportedVersion,
)
from pillarbox.store.hybrid_clock import Stamp

TREE = Tree(b"t" * 16)
A, B = b"a" * 16, b"b" * 16
FOLDER, MESSAGE = ObjectId(A, 1), ObjectId(B, 5)
SENDER = Sender(b"d" * 16, 3, A)
STATEMENT = Statement(Life(3, 1), CNSet.full(A, 9), CNSet.full(B, 2))
KEY = ec.derive_private_key(7, ec.SECP256R1())
SIGNER = Signer(KEY, b"f" * 32)
PEERS = {b"f" * 32: Peer(SENDER.database, KEY.public_key())}
STAMP = Stamp(1_800_000_000_000, 2, A)

MESSAGES: Any = (
    (
        MESSAGE,
        Versions(
            {A: 9, B: 5},
            {
                ChangeNumber(A, 9): MessageVersion(
                    STAMP, "anna", b"x" * 24, 700, {"flagged": Entry(STAMP, "yes")}
                ),
                ChangeNumber(B, 5): MessageVersion(STAMP, "bernd", gone=True),
            },
        ),
    ),
)
FOLDERS: Any = (
    (
        FOLDER,
        Versions(
            {A: 4},
            {
                ChangeNumber(A, 4): FolderVersion(
                    changed=STAMP,
                    actor="anna",
                    name=Entry(STAMP, "Ärger & Post"),
                    parent=Entry(STAMP, TREE.root),
                    replicas={B: Entry(STAMP, ReplicaState.DELETE_PENDING)},
                    properties={"age_limit": Entry(STAMP, "30")},
                    cleared=CNSet.full(B, 3),
                    gone=True,
                )
            },
        ),
    ),
)
TREE_OF_SITES = (("a", "b"), ("b", "d"), ("a", "c"))
PAIR = Pair(CNSet.full(A, 9), CNSet.full(B, 5))
LIFE = Life(2, 1)

BODIES: dict[str, tuple[ObjectId, Body]] = {
    "broadcast": (FOLDER, Changes(MESSAGES, PAIR)),
    "answer": (FOLDER, Changes(MESSAGES, PAIR, AnswerTo(LIFE, CNSet.full(B, 1), True))),
    "hierarchy": (TREE.hierarchy, Changes(FOLDERS, PAIR)),
    "hello": (TREE.hierarchy, Hello(b"n" * 16, A)),
    "hello-answer": (
        TREE.hierarchy,
        HelloAnswer(b"n" * 16, 9, True, Numberings({A: (SENDER.database, 3)}, CNSet.full(A, 2))),
    ),
    "request": (FOLDER, BackfillRequest(CNSet.full(A, 3), CNSet())),
    "question": (FOLDER, ReconcileQuestion({MESSAGE: Sight.of(MESSAGES[0][1])}, 12)),
    "reconciled": (
        FOLDER,
        ReconcileAnswer(
            LIFE, {MESSAGE: frozenset({ChangeNumber(B, 5)})}, MESSAGES, CNSet.full(B, 5), CNSet(), 12
        ),
    ),
    "fetching": (FOLDER, Fetching(CNSet.full(A, 3), b"e" * 16)),
    "link-state": (TREE.hierarchy, LinkReport("north", 7, 1)),
    "rest-poll": (
        TREE.hierarchy,
        RestPoll({"north": frozenset({B}), "south": frozenset()}, frozenset({"south"})),
    ),
    "rest-sums": (
        TREE.hierarchy,
        RestSums(b"h" * 16, {"north": b"s" * 16, "south": bytes(4096)}, frozenset({B})),
    ),
    "bucket-question": (TREE.hierarchy, BucketQuestion("north", bytes([0, 7, 255]), B)),
    "bucket-digests": (TREE.hierarchy, BucketDigests(B, {FOLDER: b"d" * 16})),
    "site-status": (
        FOLDER,
        Status(
            mates={b"g" * 16: STATEMENT._replace(life=LIFE), b"h" * 16: Statement(LIFE, CNSet(), CNSet())}
        ),
    ),
    "status": (TREE.hierarchy, Status(None, Numberings({A: (B, 3)}, CNSet.of_range(A, 7, 8)))),
    "acknowledgement": (FOLDER, Status(Acknowledgement(2, 5))),
    "status-request": (FOLDER, StatusRequest()),
    "leaving": (FOLDER, StatusRequest(5)),
}
GOLDEN = Path(__file__).parents[1] / "data" / "replication"


def bundle(name: str) -> Bundle:
    """One message to one store, but for a bundle of two folders that goes along a tree."""
    folder, body = BODIES[name]
    if name != "broadcast":
        said = (Message(SENDER, b"e" * 16, folder, STATEMENT, body),)
        return Bundle(SENDER, 77, Class.URGENT, 9, (), said, b"e" * 16)
    said = tuple(Message(SENDER, EVERYONE, each, STATEMENT, body) for each in (folder, ObjectId(A, 2)))
    return Bundle(SENDER, 77, Class.CHANGES, 9, TREE_OF_SITES, said)


def sealed(name: str, signer: Signer = SIGNER) -> bytes:
    return sealed_bundle(bundle(name), signer, 1_800_000_000_001, [b"From: a\r\n\r\nb"])


def sealed_bundle(
    sent: Bundle, signer: Signer = SIGNER, made_ms: int = 1, contents: Iterable[bytes] = (), version: int = 2
) -> bytes:
    return seal(sent, TREE, signer, made_ms, pack_messages(sent.messages, contents), version)


def opened(data: bytes, tree: Tree, peers: Mapping[bytes, Peer]) -> Opened:
    """What a bundle holds; raises the error by which it is refused."""
    found = unseal(data, tree, peers)
    if isinstance(found, Refusal):
        raise found.error
    return found


@pytest.mark.parametrize("name", BODIES)
def test_a_bundle_comes_out_as_it_went_in(name: str) -> None:
    found = opened(sealed(name), TREE, PEERS)
    assert found.bundle == bundle(name)
    assert found.contents == (b"From: a\r\n\r\nb",)
    assert found.header.key == bundle(name).key and found.header.made_ms == 1_800_000_000_001


@pytest.mark.parametrize("name", BODIES)
def test_version_2_is_still_read(name: str) -> None:
    data = (GOLDEN / f"message_2_{name}.bin").read_bytes()
    assert opened(data, TREE, PEERS).bundle == bundle(name)
    header, now = Header.decode(data), Header.decode(sealed(name))
    assert header._replace(signature_bytes=0) == now._replace(signature_bytes=0), (
        "the format changed: a new version"
    )


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("message_1_*.bin")), ids=lambda path: path.stem)
def test_version_1_which_no_node_ever_sent_is_refused_by_name(path: Path) -> None:
    with pytest.raises(UnsupportedVersion, match="version 1"):
        opened(path.read_bytes(), TREE, PEERS)


@pytest.mark.parametrize(
    ("mine", "others", "spoken"),
    [
        ({2}, [], 2),
        ({2, 3}, [{2, 3}, {2, 3}], 3),
        ({2, 3}, [{2, 3}, {2}, {2, 3}], 2),
        ({2, 3, 4}, [{2, 3}, {3, 4}], 3),
        ({3, 4}, [{3, 4}, {3}, {2}], 3),
    ],
    ids=["alone", "all are new", "one is old", "oldest and newest", "one is too old for all"],
)
def test_a_store_speaks_in_the_highest_version_that_the_most_read(
    mine: set[int], others: list[set[int]], spoken: int
) -> None:
    assert frame.common_version(mine, others) == spoken


def test_a_bundle_of_a_later_version_is_read_by_those_alone_that_say_so() -> None:
    data = sealed_bundle(bundle("status"), version=3)
    refused = unseal(data, TREE, PEERS)
    assert isinstance(refused, Refusal) and refused.reason is Reason.VERSION
    found = unseal(data, TREE, PEERS, {2, 3})
    assert isinstance(found, Opened) and found.bundle == bundle("status")


def test_messages_of_two_types_make_no_bundle() -> None:
    said = tuple(message for name in ("request", "status") for message in bundle(name).messages)
    with pytest.raises(ValueError, match="one type"):
        sealed_bundle(replace(bundle("request"), messages=said))


@pytest.mark.parametrize(
    "route",
    [
        [],
        [["a"], []],
        [["a", "b"], [1]],
        [["a", "b"], [-1]],
        [["a", "a"], [0]],
        [["a", ""], [0]],
        [["a", "b"], ["a"]],
    ],
)
def test_a_way_that_leads_in_a_circle_or_nowhere_is_refused(route: Any) -> None:
    data = sealed("broadcast")
    header = Header.decode(data)
    packed = data[HEADER_BYTES + header.route_bytes :][: header.packed_bytes]
    hostile = msgpack.packb(route)
    header = header._replace(route_bytes=len(hostile), signature_bytes=0)
    signature = KEY.sign(header.encode() + hostile + packed, ec.ECDSA(_sha256()))
    signed = header._replace(signature_bytes=len(signature)).encode() + hostile + packed + signature
    with pytest.raises(InvalidContent, match="way"):
        opened(signed, TREE, PEERS)


LABEL = Label(b"e" * 16, 3, True, 70_000)
RECEIPT = Receipt(BundleKey(b"d" * 16, 3, 77), b"e" * 16)


def test_labels_and_receipts_keep_their_bytes_and_are_small() -> None:
    label, receipt = encode_label(LABEL), encode_receipt(RECEIPT)
    assert decode_label(label + sealed("broadcast")) == LABEL
    assert decode_receipt(receipt) == RECEIPT and len(receipt) < 60
    refused = RECEIPT._replace(says=Says.REFUSED)
    assert decode_receipt(encode_receipt(refused)) == refused
    assert label == b"PBRL\x01\x01\x03\x00" + b"e" * 16 + (70_000).to_bytes(4, "little")
    assert receipt[:8] == b"PBRR\x01\x01\x00\x00" and receipt[24:28] == b"\x03\0\0\0"


@pytest.mark.parametrize("frame_bytes", [encode_label(LABEL), encode_receipt(RECEIPT)])
def test_frames_that_are_none_are_refused(frame_bytes: bytes) -> None:
    decode: Any = decode_label if frame_bytes[3:4] == b"L" else decode_receipt
    wrong = [b"", frame_bytes[:-1], b"XXXX" + frame_bytes[4:], frame_bytes[:7] + b"\x09" + frame_bytes[8:]]
    for data in wrong:
        with pytest.raises(InvalidContent):
            decode(data)
    with pytest.raises(UnsupportedVersion):
        decode(frame_bytes[:4] + b"\x02" + frame_bytes[5:])


def test_a_simulation_is_the_same_with_all_messages_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(steps=80)
    plain: list[str] = []
    Scenario(11, settings, plain.append).run()
    send, pass_on = World.send, World._pass

    def wired_bundle(self: World, sent: Bundle) -> Bundle:
        signer = Signer(KEY, sent.sender.database * 2)
        peers = {signer.fingerprint: Peer(sent.sender.database, KEY.public_key())}
        packed = pack_messages(sent.messages)
        found = opened(seal(sent, self.tree, signer, self.now_ms, packed), self.tree, peers)
        assert found.bundle == sent
        return found.bundle

    def send_sealed(self: World, sent: Message) -> int:
        (message,) = wired_bundle(
            self, Bundle(sent.sender, 1, Class.URGENT, 0, (), (sent,), sent.to)
        ).messages
        return send(self, message)

    def pass_sealed(self: World, machine: Any, label: Label, sent: Bundle) -> None:
        pass_on(self, machine, decode_label(encode_label(label)), wired_bundle(self, sent))

    monkeypatch.setattr(World, "send", send_sealed)
    monkeypatch.setattr(World, "_pass", pass_sealed)
    wired: list[str] = []
    Scenario(11, settings, wired.append).run()
    assert wired == plain


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda data: b"", InvalidContent, "begin"),
        (lambda data: data[:-1], InvalidContent, "length"),
        (lambda data: data + b"x", InvalidContent, "length"),
        (lambda data: b"PBXX" + data[4:], InvalidContent, "begin"),
        (lambda data: data[:4] + b"\x03" + data[5:], UnsupportedVersion, "version 3"),
        (lambda data: data[:5] + b"\x50" + data[6:], InvalidContent, "type 0x50"),
        (lambda data: data[:7] + b"\x09" + data[8:], InvalidContent, "class 9"),
        (lambda data: data[:76] + b"\x40" + data[77:], InvalidContent, "bucket 64"),
        (lambda data: data[:77] + b"\x01" + data[78:], InvalidContent, "zero"),
        (lambda data: data[:8] + b"x" * 16 + data[24:], AccessDenied, "another tree"),
        (lambda data: data[:24] + b"x" * 16 + data[40:], AccessDenied, "not in the tree"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), AccessDenied, "signature"),
        (lambda data: data[:60] + b"x" * 16 + data[76:], AccessDenied, "signature"),
    ],
)
def test_what_is_wrong_is_named(change: Any, error: type[PillarboxError], text: str) -> None:
    with pytest.raises(error, match=text):
        opened(change(sealed("broadcast")), TREE, PEERS)


def test_a_message_signed_by_another_store_is_refused() -> None:
    other = ec.derive_private_key(8, ec.SECP256R1())
    with pytest.raises(AccessDenied, match="signature"):
        opened(sealed("broadcast", Signer(other, b"f" * 32)), TREE, PEERS)
    with pytest.raises(AccessDenied, match="not in the tree"):
        opened(sealed("broadcast", Signer(other, b"g" * 32)), TREE, PEERS)


@pytest.mark.parametrize("body_bytes", [1 << 30, (1 << 32) - 1])
def test_a_claim_of_a_gigabyte_is_refused_before_any_memory_is_taken(body_bytes: int) -> None:
    data = sealed("broadcast")
    header = Header.decode(data)._replace(body_bytes=body_bytes)
    with pytest.raises(OverLimit):
        opened(header.encode() + data[HEADER_BYTES:], TREE, PEERS)


@pytest.mark.parametrize("limit", ["BODY_BYTES_MAX", "PACKED_BYTES_MAX"])
def test_what_nobody_would_take_is_not_sealed(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_seal, limit, 100)
    with pytest.raises(OverLimit, match="would have"):
        sealed("broadcast")


def signed_with_body(name: str, body: bytes, body_bytes: int | None = None) -> bytes:
    """A message with a body of the enemy's making, signed well: an enemy with a store's key."""
    data = sealed(name)
    header = Header.decode(data)
    route, packed = data[HEADER_BYTES : HEADER_BYTES + header.route_bytes], frame.pack(body)
    header = header._replace(
        packed_bytes=len(packed),
        body_bytes=len(body) if body_bytes is None else body_bytes,
        signature_bytes=0,
    )
    signature = KEY.sign(header.encode() + route + packed, ec.ECDSA(_sha256()))
    return header._replace(signature_bytes=len(signature)).encode() + route + packed + signature


def _sha256() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_not_of_their_type_are_refused(name: str) -> None:
    for other in BODIES:
        data = sealed(other)
        if Header.decode(data)[:2] != Header.decode(sealed(name))[:2]:
            with pytest.raises(InvalidContent):
                opened(signed_with_body(name, frame.unpack(Header.decode(data), data)), TREE, PEERS)
    for hostile in (b"", b"\xc1", msgpack.packb([1, 2, 3]), msgpack.packb([[]] * 3), b"\x91" * 5000):
        with pytest.raises(InvalidContent):
            opened(signed_with_body(name, hostile), TREE, PEERS)
    with pytest.raises(InvalidContent, match="as long as"):
        opened(signed_with_body(name, b"x" * 10_000, body_bytes=10), TREE, PEERS)


@pytest.mark.parametrize(
    ("context", "text"), [({A: 9, B: 4}, "own context"), ({A: 8, B: 5}, "object's context")]
)
def test_a_message_whose_context_lacks_its_id_or_a_version_is_refused(
    context: dict[bytes, int], text: str
) -> None:
    version = MESSAGES[0][1].siblings[ChangeNumber(A, 9)]
    objects = ((MESSAGE, Versions(context, {ChangeNumber(A, 9): version})),)
    sent = Message(SENDER, B, FOLDER, STATEMENT, Changes(objects, PAIR))
    data = sealed_bundle(Bundle(SENDER, 0, Class.CHANGES, 9, (), (sent,), B))
    with pytest.raises(InvalidContent, match=text):
        opened(data, TREE, PEERS)


def mutations(rng: random.Random, count: int) -> None:
    originals = [sealed(name) for name in BODIES]
    for _ in range(count):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        with pytest.raises(PillarboxError):
            opened(bytes(data), TREE, PEERS)


def inner_mutations(rng: random.Random, count: int) -> None:
    """Mutated bodies that are signed well: read as some message, or refused as content."""
    for _ in range(count):
        name = rng.choice(sorted(BODIES))
        data = sealed(name)
        body = bytearray(frame.unpack(Header.decode(data), data))
        body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            opened(signed_with_body(name, bytes(body)), TREE, PEERS)
        except (InvalidContent, UnsupportedVersion):
            continue


def test_mutated_messages_are_refused() -> None:
    mutations(random.Random(1), 300)
    inner_mutations(random.Random(2), 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_campaign_of_mutated_messages(seed: int) -> None:
    mutations(random.Random(seed), 8_000)
    inner_mutations(random.Random(seed), 2_000)
