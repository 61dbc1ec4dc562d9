"""`python -m pillarbox.tools.bench.hostile_messages`: replication messages of an enemy, at a real store.

Messages of an ordinary exchange between two stores are bent, cut, forged, made to claim more than they hold,
signed well with another inside, and replayed. Each is refused by name in at most 1 ms and 1 MB, or is a
message that was applied before; the store stays as it is.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import zstandard
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pillarbox.replication.wire import frame
from pillarbox.replication.wire.frame import HEADER_BYTES, Header
from pillarbox.replication.wire.messages import Label
from pillarbox.replication.wire.transport_frames import LABEL_BYTES, encode_label
from pillarbox.store.clock import VirtualClock
from pillarbox.tools.bench.replicating_side import BEGAN_MS, RECEIVER, SIGNERS, SOURCE, Link, Side
from pillarbox.tools.bench.report import at_least_one

COUNT: Final = 100_000
TIME_MS_AT_MOST: Final = 1.0
MEMORY_AT_MOST: Final = 1_000_000
LABEL: Final = Label(RECEIVER, 0, False, 0)
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())
_GIGABYTE: Final = 1 << 30
_BOMB_BYTES: Final = 64 << 20


class Hostile(NamedTuple):
    """A message of an enemy, and how it was made."""

    kind: str
    data: bytes


class Recorded(Link):
    """A link that keeps what goes over it to the receiver."""

    def __init__(self, one: Side, other: Side) -> None:
        super().__init__(one, other)
        self.arrived: list[bytes] = []

    def hand_over(self, taker: Side, arrived: list[bytes]) -> None:
        """Keep what arrives at the receiver."""
        super().hand_over(taker, arrived)
        if taker.guid == RECEIVER:
            self.arrived += [data[LABEL_BYTES:] for data in arrived]


def exchange(root: Path) -> tuple[Side, list[bytes]]:
    """A store that got changes of another one, and all that came over the link."""
    clock = VirtualClock(BEGAN_MS)
    source, receiver = Side(root / "source", SOURCE, clock), Side(root / "receiver", RECEIVER, clock)
    link = Recorded(source, receiver)
    source.make_folder()
    link.run(receiver.has_folder)
    rng = random.Random(1)
    for size in (200, 2_000, 20_000, 200_000):
        source.post([b"Subject: %d\r\n\r\n" % size + rng.randbytes(size)])
        link.run(lambda: source.known() == receiver.known())
    source.delete(list(source.live())[:1])
    link.run(lambda: source.known() == receiver.known())
    source.close()
    return receiver, link.arrived


def hostile(rng: random.Random, originals: Sequence[bytes], count: int) -> Iterator[Hostile]:
    """Messages of an enemy, of each kind in turn; the store's key is used for those that are signed."""
    makers = (_bent, _cut, _forged, _claiming, _signed_bent, _bomb, _replayed)
    for number in range(count):
        maker = makers[number % len(makers)]
        data = encode_label(LABEL) + maker(rng, rng.choice(originals))
        yield Hostile(maker.__name__[1:].replace("_", " "), data)


def _bent(rng: random.Random, data: bytes) -> bytes:
    bent = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        bent[rng.randrange(len(bent))] ^= rng.randrange(1, 256)
    return bytes(bent)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return (
        data[: rng.randrange(len(data))] if rng.random() < 0.8 else data + rng.randbytes(rng.randint(1, 99))
    )


def _forged(rng: random.Random, data: bytes) -> bytes:
    """A message as the store would make it, signed by another key."""
    return _signed(Header.decode(data), _rest(data), ec.derive_private_key(rng.randint(2, 9), ec.SECP256R1()))


def _claiming(rng: random.Random, data: bytes) -> bytes:
    header, claimed_bytes = Header.decode(data), rng.randint(_GIGABYTE, (1 << 32) - 1)
    claims = (
        header._replace(body_bytes=claimed_bytes),
        header._replace(packed_bytes=claimed_bytes),
        header._replace(route_bytes=claimed_bytes),
    )
    return rng.choice(claims).encode() + data[HEADER_BYTES:]


def _signed_bent(rng: random.Random, data: bytes) -> bytes:
    """A body that is none, and signed well, so that its form alone tells."""
    header = Header.decode(data)
    body = frame.unpack(header, data)
    wrong = rng.choice(
        (
            b"\xc1" + body[1:],
            body[: rng.randrange(len(body))],
            body + b"\x00",
            b"\x91" * 5000,
            b"\x93\xdd\xff\xff\xff\xff" + body,
            b"\x93\xc6\xff\xff\xff\xff" + body,
        )
    )
    return _with_body(header, data, frame.pack(wrong), len(wrong))


def _bomb(rng: random.Random, data: bytes) -> bytes:
    """A body that says to be short, and unpacks to megabytes; signed well."""
    packed = bytearray(_packed_zeros())
    said_bytes = rng.randint(1 << 16, 1 << 17)
    packed[6:10] = said_bytes.to_bytes(4, "little")  # the length that the frame states
    return _with_body(Header.decode(data), data, bytes(packed), said_bytes)


@cache
def _packed_zeros() -> bytes:
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=_BOMB_BYTES)
    return packer.compress(bytes(_BOMB_BYTES)) + packer.flush()


def _replayed(rng: random.Random, data: bytes) -> bytes:
    return data


def _with_body(header: Header, data: bytes, packed: bytes, body_bytes: int) -> bytes:
    """A message with another body, signed by the store that it is of."""
    route = data[HEADER_BYTES : HEADER_BYTES + header.route_bytes]
    header = header._replace(packed_bytes=len(packed), body_bytes=body_bytes)
    return _signed(header, route + packed, SIGNERS[header.sender.database].key)


def _rest(data: bytes) -> bytes:
    header = Header.decode(data)
    return data[HEADER_BYTES : HEADER_BYTES + header.route_bytes + header.packed_bytes]


def _signed(header: Header, rest: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    signature = key.sign(header._replace(signature_bytes=0).encode() + rest, _ALGORITHM)
    return header._replace(signature_bytes=len(signature)).encode() + rest + signature


class Cost(NamedTuple):
    """The costs of the messages of one kind, and how often they were refused for each reason."""

    milliseconds: list[float]
    memory_bytes: int
    refusals: Counter[str]


def measure(receiver: Side, messages: Iterator[Hostile], memory_every: int = 100) -> dict[str, Cost]:
    """Take each message as it comes from the network. Memory is measured of some, since that is slow."""
    costs: dict[str, Cost] = {}
    for number, (kind, data) in enumerate(messages):
        cost = costs.setdefault(kind, Cost([], 0, Counter()))
        if number % memory_every < len(costs):
            tracemalloc.start()
            receiver.open([data])
            _, most_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            cost = costs[kind] = cost._replace(memory_bytes=max(cost.memory_bytes, most_bytes))
        refused_before = receiver.gate.refused_counts.copy()
        began = time.thread_time()
        batch = receiver.open([data])
        cost.milliseconds.append((time.thread_time() - began) * 1000)
        cost.refusals.update(receiver.gate.refused_counts - refused_before)
        if batch.taken:
            cost.refusals["taken"] += len(batch.taken)
            receiver.apply(batch)
    return costs


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code: 0, whether the targets are met or not."""
    parser = argparse.ArgumentParser(
        prog="python -m pillarbox.tools.bench.hostile_messages", description=__doc__
    )
    parser.add_argument("count", nargs="?", type=at_least_one, default=COUNT, help="messages (100000)")
    parser.add_argument("--seed", type=int, default=1, help="of what is bent and where (1)")
    parser.add_argument("--dir", type=Path, help="where the stores are made")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.dir) as root:
        receiver, originals = exchange(Path(root))
        before = receiver.fingerprint()
        costs = measure(receiver, hostile(random.Random(options.seed), originals, options.count))
        is_same = receiver.fingerprint() == before
        receiver.close()
    for kind, cost in costs.items():
        times = sorted(cost.milliseconds)
        named = ", ".join(f"{name} {count}" for name, count in sorted(cost.refusals.items()) if count)
        above = "" if times[-1] <= TIME_MS_AT_MOST and cost.memory_bytes <= MEMORY_AT_MOST else "  above"
        print(
            f"{kind:12}{times[len(times) // 2]:7.3f} ms, 99 % {times[len(times) * 99 // 100]:.3f}, most "
            f"{times[-1]:.3f}; {cost.memory_bytes / 1e6:.2f} MB; {named}{above}"
        )
    print(f"{options.count} messages; the store {'is as it was' if is_same else 'HAS CHANGED'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
