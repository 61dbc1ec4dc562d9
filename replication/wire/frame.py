"""The outside of a bundle: a header of fixed length, the way it takes, the packed body, and the seal.

Everything that decides whether a bundle is looked into stands in the header, so that a forged one is refused
before anything is unpacked; and what a forwarder needs stands before the body, so that it unpacks nothing
(docs/replication.md, "Messages on the wire").
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterable
from enum import IntFlag
from typing import Any, Final, NamedTuple

import msgpack
import zstandard

from pillarbox.replication.wire.messages import BundleKey, Class, MessageType, Sender
from pillarbox.store.errors import InvalidContent, OverLimit, UnsupportedVersion

MAGIC: Final = b"PBRM"
VERSION: Final = 2
VERSIONS_READ: Final = frozenset({VERSION})
"""The versions that this program reads. It writes each of them too, for those that read no later one."""
ROUTE_BYTES_MAX: Final = 64 << 10
PACKED_BYTES_MAX: Final = 64 << 20
BODY_BYTES_MAX: Final = 256 << 20  # unpacked
FINGERPRINT_BYTES: Final = 32
SIGNATURE_BYTES_MAX: Final = 128
BUCKETS_MAX: Final = 64
SITE_BYTES_MAX: Final = 256

_HEADER: Final = struct.Struct("<4sBBBB16s16sI16s16sB3xQQIII32sH2x")
HEADER_BYTES: Final = _HEADER.size
TYPE_AT: Final = 5
CLASS_AT: Final = 7
"""Where the type and the class of a bundle stand in it."""
assert HEADER_BYTES == 144


def common_version(mine: Collection[int], others: Iterable[Collection[int]]) -> int:
    """The version in which a store that writes `mine` speaks to all others: the highest that the most read.

    So a newer program speaks as the oldest does until the last one is updated. Who reads none that the others
    read hears nothing of them until then, and holds none of them up.
    """
    read = Counter(version for versions in others for version in set(versions))
    return max(mine, key=lambda version: (read[version], version))


class Flag(IntFlag):
    """The flags of a message."""

    NONE = 0
    BACKFILL = 1
    DELETE_PENDING = 2
    ACKNOWLEDGEMENT = 4
    RECONCILE = 8
    FETCHING = 16
    REST = 32
    FOLDERS = 64


class Header(NamedTuple):
    """The header of a bundle, in a version of the wire. `number` is the sender's own count of its bundles."""

    kind: MessageType
    flags: Flag
    of: Class
    tree: bytes
    sender: Sender
    to: bytes
    bucket: int
    number: int
    made_ms: int
    route_bytes: int
    packed_bytes: int
    body_bytes: int
    fingerprint: bytes
    signature_bytes: int
    version: int = VERSION

    @property
    def key(self) -> BundleKey:
        """The name of the bundle."""
        return BundleKey(self.sender.database, self.sender.incarnation, self.number)

    def encode(self) -> bytes:
        """The header as bytes."""
        sender = self.sender
        return _HEADER.pack(
            MAGIC,
            self.version,
            self.kind,
            self.flags,
            self.of,
            self.tree,
            sender.database,
            sender.incarnation,
            sender.origin,
            self.to,
            self.bucket,
            self.number,
            self.made_ms,
            self.route_bytes,
            self.packed_bytes,
            self.body_bytes,
            self.fingerprint,
            self.signature_bytes,
        )

    @classmethod
    def decode(cls, data: bytes, reads: Collection[int] = VERSIONS_READ) -> Header:
        """The header of a bundle; `data` may come from anyone and holds the whole bundle.

        Raises InvalidContent, UnsupportedVersion, or OverLimit for a body that is larger than is accepted.
        """
        if len(data) < HEADER_BYTES or data[:4] != MAGIC:
            raise _invalid("it does not begin as one")
        if data[4] not in reads:
            raise UnsupportedVersion(
                f"a replication message is of version {data[4]}",
                hint=f"this program reads {', '.join(map(str, sorted(reads)))}: update the older one",
            )
        (_, version, kind, flags, of, tree, database, incarnation, origin, to, *rest) = _HEADER.unpack(
            data[:HEADER_BYTES]
        )
        if (
            kind not in MessageType.__members__.values()
            or flags & ~0x7F
            or of not in Class.__members__.values()
        ):
            raise _invalid(f"type {kind:#x} with flags {flags:#x} in class {of} is unknown")
        header = cls(
            MessageType(kind),
            Flag(flags),
            Class(of),
            tree,
            Sender(database, incarnation, origin),
            to,
            *rest,
        )._replace(version=version)
        if header.packed_bytes > PACKED_BYTES_MAX or header.body_bytes > BODY_BYTES_MAX:
            raise OverLimit(f"a replication message claims a body of {header.body_bytes} bytes")
        if header.route_bytes > ROUTE_BYTES_MAX:
            raise OverLimit(f"a replication message claims a way of {header.route_bytes} bytes")
        signed = HEADER_BYTES + header.route_bytes + header.packed_bytes
        if header.signature_bytes > SIGNATURE_BYTES_MAX or len(data) != signed + header.signature_bytes:
            raise _invalid("its length is not what its header says")
        if header.bucket >= BUCKETS_MAX:
            raise _invalid(f"bucket {header.bucket} is unknown")
        if header.encode() != data[:HEADER_BYTES]:
            raise _invalid("bytes that must be zero are not")
        return header


def pack_route(tree: tuple[tuple[str, str], ...]) -> bytes:
    """The way of a bundle: the names of its sites, the maker's first, and the place of each one's parent."""
    places: dict[str, int] = {}
    parents = []
    for parent, site in tree:
        places.setdefault(parent, len(places))
        places[site] = len(places)
        parents.append(places[parent])
    return msgpack.packb([list(places), parents]) if tree else b""


def unpack_route(header: Header, data: bytes) -> tuple[tuple[str, str], ...]:
    """The way of a bundle, each parent before its children and each site once. Raises InvalidContent."""
    packed = data[HEADER_BYTES : HEADER_BYTES + header.route_bytes]
    if not packed:
        return ()
    try:
        read = msgpack.unpackb(packed, use_list=True, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise _invalid(f"its way is no msgpack: {error}") from error
    if not isinstance(read, list) or len(read) != 2 or not all(isinstance(each, list) for each in read):
        raise _invalid("its way is none")
    sites, parents = read
    if len(sites) != len(parents) + 1 or len(sites) < 2 or not all(map(_is_site, sites)):
        raise _invalid("its way is none")
    if len(set(sites)) < len(sites) or not all(_is_before(place, k) for k, place in enumerate(parents, 1)):
        raise _invalid("its way leads in a circle")
    return tuple((sites[place], sites[k]) for k, place in enumerate(parents, 1))


def _is_site(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name.encode()) <= SITE_BYTES_MAX


def _is_before(place: Any, later: int) -> bool:
    return type(place) is int and 0 <= place < later


def pack(body: bytes) -> bytes:
    """A body as one zstd frame that states its length."""
    return zstandard.ZstdCompressor(level=3).compress(body)


def unpack(header: Header, data: bytes) -> bytes:
    """The body of a message. Takes no more memory than the header says. Raises InvalidContent."""
    begin = HEADER_BYTES + header.route_bytes
    packed = data[begin : begin + header.packed_bytes]
    try:
        stated = zstandard.frame_content_size(packed)
        if stated != header.body_bytes:
            raise _invalid("its body is not as long as its header says")
        return zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _invalid(f"its body is not one whole zstd frame: {error}") from error


def _invalid(reason: str) -> InvalidContent:
    return InvalidContent(
        f"not a replication message: {reason}", hint="it is refused; its sender will be asked again"
    )
