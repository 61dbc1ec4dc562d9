"""Messages keep their bytes, and what is not exactly a message is refused by name and changes nothing."""

from __future__ import annotations

import random
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
from pillarbox.replication.wire.frame import HEADER_BYTES, Header
from pillarbox.replication.wire.messages import (
    Acknowledgement,
    AnswerTo,
    BackfillRequest,
    Body,
    Changes,
    Hello,
    HelloAnswer,
    Life,
    Message,
    Numberings,
    ReconcileAnswer,
    ReconcileQuestion,
    Sender,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.replication.wire.seal import Peer, Signer, seal, unseal
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
    "status": (TREE.hierarchy, Status(None, Numberings({A: (B, 3)}, CNSet.of_range(A, 7, 8)))),
    "acknowledgement": (FOLDER, Status(Acknowledgement(2, 5))),
    "status-request": (FOLDER, StatusRequest()),
    "leaving": (FOLDER, StatusRequest(5)),
}
GOLDEN = Path(__file__).parents[1] / "data" / "replication"


def message(name: str) -> Message:
    folder, body = BODIES[name]
    return Message(SENDER, b"e" * 16, folder, STATEMENT, body)


def sealed(name: str, signer: Signer = SIGNER) -> bytes:
    return seal(message(name), TREE, signer, 77, 1_800_000_000_001, [b"From: a\r\n\r\nb"])


@pytest.mark.parametrize("name", BODIES)
def test_a_message_comes_out_as_it_went_in(name: str) -> None:
    opened = unseal(sealed(name), TREE, PEERS)
    assert opened.message == message(name)
    assert opened.contents == (b"From: a\r\n\r\nb",)
    assert (opened.header.number, opened.header.made_ms) == (77, 1_800_000_000_001)


@pytest.mark.parametrize("name", BODIES)
def test_version_1_is_still_read(name: str) -> None:
    data = (GOLDEN / f"message_1_{name}.bin").read_bytes()
    assert unseal(data, TREE, PEERS).message == message(name)
    assert data[: HEADER_BYTES - 44] == sealed(name)[: HEADER_BYTES - 44], "the format changed: a new version"


def test_a_simulation_is_the_same_with_all_messages_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(steps=80)
    plain: list[str] = []
    Scenario(11, settings, plain.append).run()
    send = World.send

    def send_sealed(self: World, sent: Message) -> None:
        signer = Signer(KEY, sent.sender.database * 2)
        peers = {signer.fingerprint: Peer(sent.sender.database, KEY.public_key())}
        opened = unseal(seal(sent, self.tree, signer, 1, self.now_ms), self.tree, peers)
        assert opened.message == sent
        send(self, opened.message)

    monkeypatch.setattr(World, "send", send_sealed)
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
        (lambda data: data[:4] + b"\x02" + data[5:], UnsupportedVersion, "version 2"),
        (lambda data: data[:5] + b"\x40" + data[6:], InvalidContent, "type 0x40"),
        (lambda data: data[:7] + b"\x01" + data[8:], InvalidContent, "zero"),
        (lambda data: data[:8] + b"x" * 16 + data[24:], AccessDenied, "another tree"),
        (lambda data: data[:24] + b"x" * 16 + data[40:], AccessDenied, "not in the tree"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), AccessDenied, "signature"),
        (lambda data: data[:60] + b"x" * 16 + data[76:], AccessDenied, "signature"),
    ],
)
def test_what_is_wrong_is_named(change: Any, error: type[PillarboxError], text: str) -> None:
    with pytest.raises(error, match=text):
        unseal(change(sealed("broadcast")), TREE, PEERS)


def test_a_message_signed_by_another_store_is_refused() -> None:
    other = ec.derive_private_key(8, ec.SECP256R1())
    with pytest.raises(AccessDenied, match="signature"):
        unseal(sealed("broadcast", Signer(other, b"f" * 32)), TREE, PEERS)
    with pytest.raises(AccessDenied, match="not in the tree"):
        unseal(sealed("broadcast", Signer(other, b"g" * 32)), TREE, PEERS)


@pytest.mark.parametrize("body_bytes", [1 << 30, (1 << 32) - 1])
def test_a_claim_of_a_gigabyte_is_refused_before_any_memory_is_taken(body_bytes: int) -> None:
    data = sealed("broadcast")
    header = Header.decode(data)._replace(body_bytes=body_bytes)
    with pytest.raises(OverLimit):
        unseal(header.encode() + data[HEADER_BYTES:], TREE, PEERS)


def signed_with_body(name: str, body: bytes, body_bytes: int | None = None) -> bytes:
    """A message with a body of the enemy's making, signed well: an enemy with a store's key."""
    header = Header.decode(sealed(name))
    packed = frame.pack(body)
    header = header._replace(
        packed_bytes=len(packed),
        body_bytes=len(body) if body_bytes is None else body_bytes,
        signature_bytes=0,
    )
    signature = KEY.sign(header.encode() + packed, ec.ECDSA(_sha256()))
    return header._replace(signature_bytes=len(signature)).encode() + packed + signature


def _sha256() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_not_of_their_type_are_refused(name: str) -> None:
    for other in BODIES:
        data = sealed(other)
        if other != name:
            with pytest.raises(InvalidContent):
                unseal(signed_with_body(name, frame.unpack(Header.decode(data), data)), TREE, PEERS)
    for hostile in (b"", b"\xc1", msgpack.packb([1, 2, 3]), msgpack.packb([[]] * 3), b"\x91" * 5000):
        with pytest.raises(InvalidContent):
            unseal(signed_with_body(name, hostile), TREE, PEERS)
    with pytest.raises(InvalidContent, match="as long as"):
        unseal(signed_with_body(name, b"x" * 10_000, body_bytes=10), TREE, PEERS)


def mutations(rng: random.Random, count: int) -> None:
    originals = [sealed(name) for name in BODIES]
    for _ in range(count):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        with pytest.raises(PillarboxError):
            unseal(bytes(data), TREE, PEERS)


def inner_mutations(rng: random.Random, count: int) -> None:
    """Mutated bodies that are signed well: read as some message, or refused as content."""
    for _ in range(count):
        name = rng.choice(sorted(BODIES))
        data = sealed(name)
        body = bytearray(frame.unpack(Header.decode(data), data))
        body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            unseal(signed_with_body(name, bytes(body)), TREE, PEERS)
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
