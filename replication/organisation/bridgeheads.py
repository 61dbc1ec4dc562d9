"""Bridgeheads: the server of a site that takes the site's copies and hands them on.

No server is appointed: for each bucket of folders a rendezvous hash says whom to try first, so that all agree
without asking, load is spread, and a server that goes moves only its own buckets. The hash only orders: who
receives a site's copy acts as its bridgehead, whatever it believes itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final

from pillarbox.replication.ground.records import ObjectId

BUCKETS_COUNT: Final = 64
CACHED_MAX: Final = 4096


def bucket_of(folder: ObjectId) -> int:
    """The bucket of a folder: the first 6 bits of the hash of its id."""
    return hash_byte(folder) >> 2


def hash_byte(folder: ObjectId) -> int:
    """The first byte of the hash of a folder's id."""
    return _hash(folder.origin + folder.counter.to_bytes(8, "big"))[0]


def in_order(servers: Iterable[bytes], bucket: int, late: Collection[bytes] = ()) -> list[bytes]:
    """The servers of a site, by database GUID, in the order in which they are tried; `late` ones last."""
    order = _ordered(tuple(servers), bucket)
    return sorted(order, key=late.__contains__) if late else list(order)


@lru_cache(CACHED_MAX)
def _ordered(servers: tuple[bytes, ...], bucket: int) -> tuple[bytes, ...]:
    key = bytes([bucket])
    return tuple(sorted(servers, key=lambda server: _hash(server + key), reverse=True))


def rank(server: bytes, servers: Collection[bytes], folder: ObjectId) -> int:
    """The place of a store among its site's replicas of a folder, from 0; last of all where it is none of
    them.

    The first does what would be done by each otherwise: asks over a link, and states what the site has.
    """
    key = folder.origin + folder.counter.to_bytes(8, "big")
    mine = _hash(server + key)
    return sum(_hash(other + key) > mine for other in servers if other != server)


@lru_cache(CACHED_MAX)
def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()
