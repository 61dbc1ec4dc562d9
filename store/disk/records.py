"""Stored records: a checksum bound to table and key, a version, then msgpack.

Layout of a value in LMDB: body, then 4 bytes of XXH3-64 over key and body, seeded with the table's number,
so that a value that slid under another key or into another table is found as surely as a flipped bit.
A record's body begins with its version byte; index values are bare bytes (docs/format.md, "Records").
"""

from __future__ import annotations

import threading
from typing import Any, Final

import msgpack
from xxhash import xxh3_64_digest

from pillarbox.store.errors import Corrupt, UnsupportedVersion

CHECKSUM_BYTES: Final = 4
RECORD_VERSION: Final = 1
_VERSION_BYTE: Final = bytes([RECORD_VERSION])


_local = threading.local()


def pack(value: Any) -> bytes:
    """`value` as msgpack. Raises TypeError, ValueError or OverflowError on what msgpack cannot hold."""
    try:
        packer = _local.packer
    except AttributeError:
        # One a thread: a packer that two use at once mixes their bytes.
        packer = _local.packer = msgpack.Packer()
    packed: bytes = packer.pack(value)
    return packed


def _refuse_extension(code: int, _: bytes) -> Any:
    # msgpack would give a tuple, which elsewhere is a list of fields.
    raise ValueError(f"extension type {code}")


def unpack(data: bytes | memoryview) -> Any:
    """Decode one msgpack value; arrays come as tuples. Raises ValueError on anything that is none.

    No length in it is believed beyond that of `data`, so that a damaged one does not ask for gigabytes.
    """
    try:
        return msgpack.unpackb(data, use_list=False, strict_map_key=False, ext_hook=_refuse_extension)
    except (ValueError, TypeError, msgpack.UnpackException) as error:  # TypeError: a map as a key of a map
        raise ValueError(f"not a record: {error}") from error


def seal(table: int, key: bytes, body: bytes) -> bytes:
    """`body` with its checksum, ready to be stored under `key`."""
    return body + xxh3_64_digest(key + body, table)[:CHECKSUM_BYTES]


def unseal(table: int, key: bytes, value: bytes, table_name: str) -> bytes:
    """The body of a stored value. Raises Corrupt when the checksum does not hold."""
    body = value[:-CHECKSUM_BYTES]
    if body + xxh3_64_digest(key + body, table)[:CHECKSUM_BYTES] != value:
        raise Corrupt(f"checksum of {table_name}[{key.hex()}] does not hold", table=table_name, key=key)
    return body


def seal_record(table: int, key: bytes, fields: tuple[Any, ...]) -> bytes:
    """The fields of a record as a sealed value."""
    return seal(table, key, _VERSION_BYTE + pack(fields))


def open_record(table: int, key: bytes, value: bytes, table_name: str) -> tuple[Any, ...]:
    """The fields of a sealed record. Raises Corrupt or UnsupportedVersion."""
    # Not by `unseal`: this is read by the million.
    body = value[:-CHECKSUM_BYTES]
    if not value.endswith(xxh3_64_digest(key + body, table)[:CHECKSUM_BYTES]):
        unseal(table, key, value, table_name)
    if not body.startswith(_VERSION_BYTE):
        version = value[0] if len(value) > CHECKSUM_BYTES else "none"
        raise UnsupportedVersion(
            f"{table_name}[{key.hex()}] is of record version {version}",
            hint=f"this program reads version {RECORD_VERSION}; use a newer one",
        )
    try:
        fields = unpack(body[1:])  # for short records a copy costs less than a view
    except ValueError as error:
        raise Corrupt(f"{table_name}[{key.hex()}]: {error}", table=table_name, key=key) from error
    if not isinstance(fields, tuple):
        raise Corrupt(f"{table_name}[{key.hex()}]: not a list of fields", table=table_name, key=key)
    return fields
