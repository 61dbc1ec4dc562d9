"""Packs: many blobs in one file, so that a repository has few and large ones.

    header  40 bytes   magic, version, kind, encryption, salt
    blobs              each compressed or not, sealed for its offset; no gaps
    footer             where each blob lies, sealed
    trailer  8 bytes   length of the footer, magic

The file is named for its BLAKE3, so anybody can tell whether it is whole. Blobs are named by a keyed BLAKE3
of kind and content: their names tell nothing to who has no key (docs/repository-format.md).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, NewType

import msgpack
import zstandard
from blake3 import blake3

from pillarbox.backup.repository.crypto import HEADER_BYTES, TAG_BYTES, Cipher, Sealer, derive
from pillarbox.backup.repository.damage import damaged_file
from pillarbox.store.errors import InvalidContent, OverLimit, UnsupportedVersion

BlobId = NewType("BlobId", bytes)

BLOB_ID_BYTES: Final = 32
BLOB_BYTES_MAX: Final = 32 << 20
PACK_BYTES: Final = 16 << 20
PACK_LETTER: Final = b"P"
TRAILER_BYTES: Final = 8

_RECORD: Final = struct.Struct(">B32sIII")
RECORD_BYTES: Final = 45
assert _RECORD.size == RECORD_BYTES
_TRAILER: Final = struct.Struct(">I4s")
_TRAILER_MAGIC: Final = b"PBXE"
_FOOTER_CONTEXT: Final = b"footer"

_STORED: Final = b"\x00"
_ZSTD: Final = b"\x01"
COMPRESSION_LEVEL: Final = 3


class BlobKind(IntEnum):
    """Data is bytes of which a repository knows nothing; a tree names the blobs below it."""

    DATA = 1
    TREE = 2


class Record(NamedTuple):
    """Where one blob lies in its pack."""

    kind: BlobKind
    blob_id: BlobId
    offset: int
    length: int
    content_bytes: int


class Child(NamedTuple):
    """A blob that a tree names."""

    kind: BlobKind
    blob_id: BlobId


class Tree(NamedTuple):
    """A tree blob: what lies below it, in order, and a small value of the program that made it.

    The value must not hold blob ids: a copy to a repository with other secrets gives every blob a new one.
    It speaks of children by their place in `children`.
    """

    children: tuple[Child, ...]
    meta: Any


class BlobNaming:
    """Names blobs with the secrets of one repository."""

    def __init__(self, ids_secret: bytes) -> None:
        self._keys = {
            kind: derive(ids_secret, f"pillarbox repository 1 {kind.name} ids") for kind in BlobKind
        }

    def name(self, kind: BlobKind, content: bytes) -> BlobId:
        return BlobId(blake3(content, key=self._keys[kind]).digest())


# --- content of one blob ------------------------------------------------------------------------------------

_local = threading.local()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """The compressor of the calling thread: they are dear to make and must not be shared by threads."""
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=False)
    return made[level]


def compress(content: bytes, level: int) -> bytes:
    """A blob's stored form: a byte that says how, then the content. Level 0 stores it as it is.

    Raises: OverLimit when it has more than `BLOB_BYTES_MAX`.
    """
    if len(content) > BLOB_BYTES_MAX:
        raise OverLimit(f"a blob has at most {BLOB_BYTES_MAX} bytes, this one {len(content)}")
    if level and content:
        packed = _compressor(level).compress(content)
        if len(packed) < len(content):
            return _ZSTD + packed
    return _STORED + content


def decompress(stored: bytes, content_bytes: int, file: str) -> bytes:
    """The content of a stored form. Raises: Corrupt when it has not exactly `content_bytes`."""
    how, payload = stored[:1], stored[1:]
    content = b""
    if how == _STORED:
        content = payload
    elif how == _ZSTD and content_bytes <= BLOB_BYTES_MAX:
        try:
            # A frame's own claim is believed by the decompressor: check it before memory is taken.
            if zstandard.get_frame_parameters(payload).content_size == content_bytes:
                content = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise damaged_file(f"{file}: {error}", file=file) from error
    if len(content) != content_bytes or how not in (_STORED, _ZSTD):
        raise damaged_file(f"{file} holds a blob that does not unpack to its size", file=file)
    return content


def _blob_context(kind: BlobKind, blob_id: BlobId) -> bytes:
    return bytes([kind]) + blob_id


def open_blob(
    cipher: Cipher, naming: BlobNaming, record: Record, sealed: bytes, file: str
) -> tuple[bytes, bytes]:
    """The stored form and the content of a blob as it lies in its pack.

    Raises: Corrupt when the content is not what the id names.
    """
    context = _blob_context(record.kind, record.blob_id)
    stored = cipher.decrypt(record.offset, sealed, context, file)
    content = decompress(stored, record.content_bytes, file)
    if naming.name(record.kind, content) != record.blob_id:
        message = f"{file} holds other content than blob {record.blob_id.hex()}"
        raise damaged_file(message, file=file, offset=record.offset)
    return stored, content


# --- trees --------------------------------------------------------------------------------------------------

_TREE_VERSION: Final = 1
_TREE_FIELDS_MAX: Final = 16  # of a tree of any version
_CHILD_BYTES: Final = 1 + BLOB_ID_BYTES
TREE_META_BYTES_MAX: Final = 1 << 20


def pack_value(value: Any) -> bytes:
    """A value as msgpack. Raises: ValueError or TypeError when it is not one that can be read back."""
    packed: bytes = msgpack.packb(value)
    unpack_value(packed)
    return packed


def unpack_value(packed: bytes) -> Any:
    """A value from msgpack. Raises: ValueError, TypeError or UnpackException when it is none."""
    return msgpack.unpackb(packed, strict_map_key=False)


def encode_tree(children: Sequence[Child], meta: Any) -> bytes:
    """The content of a tree blob. Raises: OverLimit when `meta` is over `TREE_META_BYTES_MAX` encoded."""
    packed_meta = pack_value(meta)
    if len(packed_meta) > TREE_META_BYTES_MAX:
        raise OverLimit(f"a tree's own value has at most {TREE_META_BYTES_MAX} bytes; put the rest in a blob")
    below = b"".join(_blob_context(child.kind, child.blob_id) for child in children)
    packed: bytes = msgpack.packb([_TREE_VERSION, below, packed_meta])
    return packed


def decode_tree(content: bytes) -> Tree:
    """The tree of a blob's content. Raises: InvalidContent, UnsupportedVersion."""
    try:
        version, *fields = msgpack.unpackb(
            content, max_array_len=_TREE_FIELDS_MAX, max_map_len=0, max_bin_len=BLOB_BYTES_MAX
        )
        if isinstance(version, int) and version > _TREE_VERSION:
            raise UnsupportedVersion(
                f"a tree blob is of version {version}",
                hint=f"this program reads version {_TREE_VERSION}; use a newer one",
            )
        below, packed_meta = fields
        if version != _TREE_VERSION or len(below) % _CHILD_BYTES or len(packed_meta) > TREE_META_BYTES_MAX:
            raise ValueError("its version, its list of children or its value is not ours")
        starts = range(0, len(below), _CHILD_BYTES)
        children = tuple(
            Child(BlobKind(below[at]), BlobId(below[at + 1 : at + _CHILD_BYTES])) for at in starts
        )
        return Tree(children, unpack_value(packed_meta))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InvalidContent(f"a tree blob is no tree: {error}") from error


# --- the file -----------------------------------------------------------------------------------------------


class PackFile(NamedTuple):
    """A finished pack, ready to be stored."""

    name: str
    header: bytes
    records: bytes
    data: bytes


class PackBuilder:
    """One pack in the making, in memory."""

    def __init__(self, sealer: Sealer) -> None:
        self._header = sealer.new_header(PACK_LETTER)
        self._cipher = sealer.cipher(self._header, PACK_LETTER, "a new pack")
        self._parts = [self._header]
        self._records: list[bytes] = []
        self.size_bytes = HEADER_BYTES

    def __len__(self) -> int:
        return len(self._records)

    def add(self, kind: BlobKind, blob_id: BlobId, stored: bytes, content_bytes: int) -> None:
        """Append a blob in its stored form."""
        sealed = self._cipher.encrypt(self.size_bytes, stored, _blob_context(kind, blob_id))
        self._records.append(_RECORD.pack(kind, blob_id, self.size_bytes, len(sealed), content_bytes))
        self._parts.append(sealed)
        self.size_bytes += len(sealed)

    def finish(self) -> PackFile:
        """The whole file. The builder is of no further use."""
        records = b"".join(self._records)
        footer = self._cipher.encrypt(self.size_bytes, records, _FOOTER_CONTEXT)
        data = b"".join([*self._parts, footer, _TRAILER.pack(len(footer), _TRAILER_MAGIC)])
        return PackFile(blake3(data).hexdigest(), self._header, records, data)


def check_records(records: bytes, file: str) -> bytes:
    """`records` itself, when it is a whole number of them. Raises: Corrupt."""
    if len(records) % RECORD_BYTES:
        raise damaged_file(f"{file}: the list of blobs is cut", file=file)
    return records


def blob_ids_of(records: bytes) -> list[BlobId]:
    """The ids in the records of a pack."""
    return [BlobId(records[at + 1 : at + 1 + BLOB_ID_BYTES]) for at in range(0, len(records), RECORD_BYTES)]


def decode_record(record: bytes, pack_bytes: int, file: str) -> Record:
    """One record of a footer or an index. Raises: Corrupt when it is impossible in a pack of that size."""
    kind, blob_id, offset, length, content_bytes = _RECORD.unpack(record)
    possible = kind in (BlobKind.DATA, BlobKind.TREE) and content_bytes <= BLOB_BYTES_MAX
    if not possible or offset < HEADER_BYTES or length <= TAG_BYTES or offset + length > pack_bytes:
        raise damaged_file(f"{file}: the list of blobs has an impossible entry", file=file)
    return Record(BlobKind(kind), BlobId(blob_id), offset, length, content_bytes)


def locate_footer(trailer: bytes, pack_bytes: int, file: str) -> int:
    """The offset of the footer, from a pack's last `TRAILER_BYTES`. Raises: Corrupt."""
    if len(trailer) == TRAILER_BYTES:
        length, magic = _TRAILER.unpack(trailer)
        offset = pack_bytes - TRAILER_BYTES - length
        if magic == _TRAILER_MAGIC and offset >= HEADER_BYTES and length >= TAG_BYTES:
            return int(offset)
    raise damaged_file(f"{file} has no valid trailer", file=file, offset=pack_bytes - TRAILER_BYTES)


def open_footer(cipher: Cipher, offset: int, sealed: bytes, file: str) -> bytes:
    """The records in a sealed footer. Raises: Corrupt."""
    return cipher.decrypt(offset, sealed, _FOOTER_CONTEXT, file)
