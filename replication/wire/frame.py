"""The outside of a message: a header of fixed length, the packed body, and the seal.

Everything that decides whether a message is looked into stands in the header, so that a forged one is refused
before anything is unpacked (docs/replication.md, "Messages on the wire").
"""

from __future__ import annotations

import struct
from enum import IntFlag
from typing import Final, NamedTuple

import zstandard

from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import MessageType, Sender
from pillarbox.store.errors import InvalidContent, OverLimit, UnsupportedVersion

MAGIC: Final = b"PBRM"
VERSION: Final = 1
PACKED_BYTES_MAX: Final = 64 << 20
BODY_BYTES_MAX: Final = 256 << 20  # unpacked
FINGERPRINT_BYTES: Final = 32
SIGNATURE_BYTES_MAX: Final = 128

_HEADER: Final = struct.Struct("<4sBBBx16s16sI16s16s16sQQQII32sH2x")
HEADER_BYTES: Final = _HEADER.size
assert HEADER_BYTES == 160


class Flag(IntFlag):
    """The flags of a message."""

    NONE = 0
    BACKFILL = 1
    DELETE_PENDING = 2
    ACKNOWLEDGEMENT = 4
    RECONCILE = 8


class Header(NamedTuple):
    """The header of a message. `number` is the sender's own count of its messages."""

    kind: MessageType
    flags: Flag
    tree: bytes
    sender: Sender
    to: bytes
    folder: ObjectId
    number: int
    made_ms: int
    packed_bytes: int
    body_bytes: int
    fingerprint: bytes
    signature_bytes: int

    def encode(self) -> bytes:
        """The header as bytes."""
        sender = self.sender
        return _HEADER.pack(
            MAGIC,
            VERSION,
            self.kind,
            self.flags,
            self.tree,
            sender.database,
            sender.incarnation,
            sender.origin,
            self.to,
            self.folder.origin,
            self.folder.counter,
            self.number,
            self.made_ms,
            self.packed_bytes,
            self.body_bytes,
            self.fingerprint,
            self.signature_bytes,
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """The header of a message; `data` may come from anyone and holds the whole message.

        Raises InvalidContent, UnsupportedVersion, or OverLimit for a body that is larger than is accepted.
        """
        if len(data) < HEADER_BYTES or data[:4] != MAGIC:
            raise _invalid("it does not begin as one")
        if data[4] != VERSION:
            raise UnsupportedVersion(
                f"a replication message is of version {data[4]}", hint=f"this program reads version {VERSION}"
            )
        (_, _, kind, flags, tree, database, incarnation, origin, to, folder, counter, *rest) = _HEADER.unpack(
            data[:HEADER_BYTES]
        )
        if kind not in MessageType.__members__.values() or flags & ~0xF:
            raise _invalid(f"type {kind:#x} with flags {flags:#x} is unknown")
        header = cls(
            MessageType(kind),
            Flag(flags),
            tree,
            Sender(database, incarnation, origin),
            to,
            ObjectId(folder, counter),
            *rest,
        )
        if header.packed_bytes > PACKED_BYTES_MAX or header.body_bytes > BODY_BYTES_MAX:
            raise OverLimit(f"a replication message claims a body of {header.body_bytes} bytes")
        signed = HEADER_BYTES + header.packed_bytes
        if header.signature_bytes > SIGNATURE_BYTES_MAX or len(data) != signed + header.signature_bytes:
            raise _invalid("its length is not what its header says")
        if header.encode() != data[:HEADER_BYTES]:
            raise _invalid("bytes that must be zero are not")
        return header


def signed_part(header: Header, data: bytes) -> bytes:
    """The bytes that are signed: the header, with the signature's length as 0, and the packed body.

    The length is not known before signing (an ECDSA signature has 70 to 72 bytes).
    """
    packed = memoryview(data)[HEADER_BYTES : HEADER_BYTES + header.packed_bytes]
    return b"".join((header._replace(signature_bytes=0).encode(), packed))


def pack(body: bytes) -> bytes:
    """A body as one zstd frame that states its length."""
    return zstandard.ZstdCompressor(level=3).compress(body)


def unpack(header: Header, data: bytes) -> bytes:
    """The body of a message. Takes no more memory than the header says. Raises InvalidContent."""
    packed = data[HEADER_BYTES : HEADER_BYTES + header.packed_bytes]
    try:
        stated = zstandard.frame_content_size(packed)
        if stated != header.body_bytes:
            raise _invalid("its body is not as long as its header says")
        unpacker = zstandard.ZstdDecompressor().decompressobj()
        body = unpacker.decompress(packed)
    except zstandard.ZstdError as error:
        raise _invalid(f"its body does not unpack: {error}") from error
    if len(body) != header.body_bytes or not unpacker.eof or unpacker.unused_data:
        raise _invalid("its body is not one whole zstd frame")
    return body


def _invalid(reason: str) -> InvalidContent:
    return InvalidContent(
        f"not a replication message: {reason}", hint="it is refused; its sender will be asked again"
    )
