"""Sums over the folders of a store, for each site 256 of them: equal where two sites hold the same.

A folder adds a digest of its numbers to the sum of its bucket for each other site that has a replica, at the
one store of its site that is first for it. To the sums of its own site the first adds the digest once for
each of the other replicas there, and these subtract theirs, so that they are 0 where the site agrees.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Final

from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.rounds import FolderSums, Share
from pillarbox.replication.core.state import FolderState, expired_by_all
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation import bridgeheads
from pillarbox.replication.wire.messages import BUCKETS_COUNT, SUM_BYTES, Silent

_MODULUS: Final = 1 << (8 * SUM_BYTES)


def refresh(replica: Replica, silent: Silent) -> None:
    """Bring the sums in line with what the store holds: a subtraction and an addition for each folder that
    changed; all anew where servers changed or others are silent.
    """
    sums = replica.rounds.sums
    if sums.organisation is not replica.organisation or sums.silent != silent:
        sums.organisation, sums.silent = replica.organisation, silent
        sums.shares.clear()
        sums.of_site.clear()
        sums.changed = set(replica.record.folders)
    for folder in sums.changed:
        before, now = sums.shares.pop(folder, None), _share(replica, folder, silent)
        if before is not None:
            _add(sums, before, -1)
        if now is not None:
            _add(sums, now, 1)
            sums.shares[folder] = now
    sums.changed = set()


def _add(sums: FolderSums, share: Share, sign: int) -> None:
    value = int.from_bytes(share.digest, "big")
    for site, factor in share.factors.items():
        of_site = sums.of_site.setdefault(site, [0] * BUCKETS_COUNT)
        of_site[share.bucket] = (of_site[share.bucket] + sign * factor * value) % _MODULUS


def _share(replica: Replica, folder: ObjectId, silent: Silent) -> Share | None:
    """The share of a folder here; None where it has none."""
    state = replica.record.folders.get(folder)
    mine = replica.site
    if state is None or not state.is_held or folder == replica.tree.hierarchy:
        return None
    if replica.me.database in silent.get(mine, ()) or not replica.is_live(folder):
        return None
    factors: dict[str, int] = {}
    mates = []
    for peer in replica.peers(folder):
        site = replica.organisation.servers[peer].site
        if peer in silent.get(site, ()):
            continue
        factors[site] = 1
        if site == mine:
            mates.append(peer)
    is_first = bridgeheads.rank(replica.me.database, mates, folder) == 0
    factors = factors if is_first else {}
    if mates:
        factors[mine] = len(mates) if is_first else -1
    if not factors:
        return None
    digest, bucket = digest_of(folder, state), bridgeheads.hash_byte(folder)
    return Share(state.knowledge.had, dict(state.rows), digest, bucket, factors)


def digest_of(folder: ObjectId, state: FolderState) -> bytes:
    """Digest what a store has of a folder; what it expired, and what all others expired, counts as had."""
    had = state.knowledge.had | expired_by_all(state.rows)
    name = folder.origin + folder.counter.to_bytes(8, "big")
    return hashlib.blake2b(name + had.encode(), digest_size=SUM_BYTES).digest()


def added(sums: list[Mapping[str, bytes]]) -> dict[str, list[int]]:
    """The sums of several stores together."""
    together: dict[str, list[int]] = {}
    for of_site in sums:
        for site, packed in of_site.items():
            before = together.setdefault(site, [0] * BUCKETS_COUNT)
            for bucket, value in enumerate(unpacked(packed)):
                before[bucket] = (before[bucket] + value) % _MODULUS
    return together


def total(sums: list[int]) -> bytes:
    """The sum of all buckets."""
    return (sum(sums) % _MODULUS).to_bytes(SUM_BYTES, "big")


def packed(sums: list[int]) -> bytes:
    """The sums of all buckets, one behind the other."""
    return b"".join(each.to_bytes(SUM_BYTES, "big") for each in sums)


def unpacked(data: bytes) -> list[int]:
    """The sums that `packed` wrote."""
    halves = struct.unpack(f">{len(data) // 8}Q", data)
    return [high << 64 | low for high, low in zip(halves[::2], halves[1::2], strict=True)]
