"""Messages of the NATS transport: a frame as one message, or in parts where the server takes none so large.

The header `Nats-Msg-Id` says which frame of which run of the sender's program a message is of, and which part
of it. NATS drops a second message of one id; a frame that is given twice has two. The header
`Pillarbox-Digest` has the digest of what is in the message.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final, Generic, NamedTuple, TypeVar

from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX
from pillarbox.store.errors import InvalidContent

M = TypeVar("M")

ID_HEADER: Final = "Nats-Msg-Id"
DIGEST_HEADER: Final = "Pillarbox-Digest"
HEADERS_BYTES_MAX: Final = 1024
"""What headers take of the server's bound, at most."""
MESSAGE_BYTES_MAX: Final = 1_000_000
PARTS_MAX: Final = 256
RUN_BYTES: Final = 16
_ID: Final = re.compile(r"([0-9a-f]{32})-([0-9]{1,15})(?:-([0-9]{1,3})-([0-9]{1,3}))?")


class MessageId(NamedTuple):
    """A run of a program, the number of a frame in it, and which of how many parts of that."""

    run: bytes
    number: int
    part: int = 0
    parts: int = 1

    def __str__(self) -> str:
        of_frame = f"{self.run.hex()}-{self.number}"
        return of_frame if self.parts == 1 else f"{of_frame}-{self.part}-{self.parts}"


def digest_of(payload: bytes) -> str:
    """The digest of what is in a message (BLAKE2b-128, hex)."""
    return blake2b(payload, digest_size=16).hexdigest()


def parse_message_id(text: str) -> MessageId:
    """The id in a header. Raises InvalidContent."""
    found = _ID.fullmatch(text)
    made = found and MessageId(bytes.fromhex(found[1]), int(found[2]), int(found[3] or 0), int(found[4] or 1))
    if not made or made.part >= made.parts or made.parts > PARTS_MAX or str(made) != text:
        raise InvalidContent(
            f"{text[:80]!r} is no id of a message", hint="look who else writes to the stream"
        )
    return made


def cut(frame: bytes, run: bytes, number: int, payload_bytes_max: int) -> list[tuple[MessageId, bytes]]:
    """A frame as messages, for a server that takes so many bytes with the headers. Raises InvalidContent
    where it would be more than PARTS_MAX."""
    part_bytes = min(MESSAGE_BYTES_MAX, payload_bytes_max) - HEADERS_BYTES_MAX
    count = -(-len(frame) // part_bytes) if part_bytes > 0 else PARTS_MAX + 1
    if count > PARTS_MAX:
        raise InvalidContent(
            f"messages of {payload_bytes_max} bytes are too small for a frame of {len(frame)} bytes",
            hint="raise max_payload of the NATS server",
        )
    return [
        (MessageId(run, number, part, count), frame[part * part_bytes : (part + 1) * part_bytes])
        for part in range(count)
    ]


class Whole(NamedTuple, Generic[M]):
    """A frame that is whole, and the messages that it came in."""

    frame: bytes
    messages: list[M]


class _Unfinished(NamedTuple, Generic[M]):
    pieces: dict[int, bytes]
    messages: list[M]


class Unfinished(Generic[M]):
    """The parts of frames of one sender, until they are whole: no more than the longest frame takes."""

    def __init__(self) -> None:
        self._frames: dict[tuple[bytes, int, int], _Unfinished[M]] = {}
        self.held_bytes = 0

    def take(self, of: MessageId, piece: bytes, message: M) -> Whole[M] | None:
        """The frame that is whole with this message, None before."""
        if of.parts == 1:
            return Whole(piece, [message])
        key = of.run, of.number, of.parts
        frame = self._frames.setdefault(key, _Unfinished({}, []))
        frame.messages.append(message)
        if of.part not in frame.pieces:
            frame.pieces[of.part] = piece
            self.held_bytes += len(piece)
        if len(frame.pieces) < of.parts:
            return None
        self._forget(key)
        return Whole(b"".join(frame.pieces[part] for part in range(of.parts)), frame.messages)

    def forgotten(self) -> list[M]:
        """The messages of frames for which there is no room any more: the oldest go first."""
        forgotten: list[M] = []
        while self.held_bytes > FRAME_BYTES_MAX:
            forgotten += self._forget(next(iter(self._frames)))
        return forgotten

    def clear(self) -> list[M]:
        """Let go of all; the messages that it came in."""
        return [message for key in list(self._frames) for message in self._forget(key)]

    def _forget(self, key: tuple[bytes, int, int]) -> list[M]:
        pieces, messages = self._frames.pop(key)
        self.held_bytes -= sum(map(len, pieces.values()))
        return messages
