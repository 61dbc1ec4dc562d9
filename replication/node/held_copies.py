"""Copies of other stores' bundles that wait for other sites: durable, since a receipt was given for them.

They are rows of the replication state table, in the transactions of the receipts and of those that come back,
as their makers signed them. Of a copy there is one small row, which changes with each site that takes it, and
its bytes in rows that do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pillarbox.replication.core.state import Passing
from pillarbox.replication.ground.records import Tree
from pillarbox.replication.node.kept_values import packed, unpacked
from pillarbox.replication.wire.messages import BundleKey
from pillarbox.replication.wire.seal import open_again
from pillarbox.store.engine import replication_state
from pillarbox.store.engine.replication_state import Kept
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt

SLICE_BYTES: Final = 8 << 20  # of a row of the store, which bounds what is kept in one
_SLICES_BITS: Final = 8

Waiting = Mapping[str, Mapping[BundleKey, Passing]]
"""By the neighbour site that is next the copies that wait for it."""


class _Place(NamedTuple):
    """Where a copy is kept: its number, its count of slices, and the sites that it waits for."""

    number: int
    slices_count: int
    sites: tuple[str, ...]


class HeldCopies:
    """The copies that a store holds for others, within its transactions. `load` comes first, and again after
    a transaction that failed.
    """

    def __init__(self) -> None:
        self._places: dict[BundleKey, _Place] = {}
        self._last = 0

    def load(self, reader: Reader, tree: Tree) -> dict[str, dict[BundleKey, Passing]]:
        """The copies that wait, as they were kept. Raises Corrupt; UnsupportedVersion for a newer form."""
        self._places.clear()
        waiting: dict[str, dict[BundleKey, Passing]] = {}
        for number, database, value in replication_state.all_kept(reader, Kept.COPY):
            fields = unpacked(value, "a copy for other sites")
            incarnation, count, hops, behind_ms, slices_count, sites = fields
            key = BundleKey(database, incarnation, count)
            self._places[key] = _Place(number, slices_count, tuple(sites))
            bundle = open_again(self.data(reader, key), tree)
            for site in sites:
                waiting.setdefault(site, {})[key] = Passing(bundle, hops, behind_ms)
        self._last = max((place.number for place in self._places.values()), default=0)
        return waiting

    def data(self, reader: Reader, key: BundleKey) -> bytes:
        """A copy as its maker signed it. Raises Corrupt."""
        place = self._places[key]
        slices = [
            replication_state.kept(reader, Kept.COPY_SLICE, _slice(place.number, k), key.database)
            for k in range(place.slices_count)
        ]
        found = [each for each in slices if each is not None]
        if len(found) < place.slices_count:
            raise Corrupt("a copy for other sites lacks a part", table="replication")
        return b"".join(found)

    def __contains__(self, key: BundleKey) -> bool:
        return key in self._places

    def keep(self, txn: WriteTransaction, waiting: Waiting, arrived: Mapping[BundleKey, bytes]) -> None:
        """Keep the copies that wait, and no others. `arrived` has the bytes of those that are new."""
        sites: dict[BundleKey, list[str]] = {}
        for site, copies in waiting.items():
            for key in copies:
                sites.setdefault(key, []).append(site)
        for key in self._places.keys() - sites.keys():
            self._forget(txn, key)
        for key, wanted in sites.items():
            place = self._places.get(key)
            if place is None:
                place = self._put(txn, key, arrived[key])
            if set(place.sites) != set(wanted):
                self._places[key] = place = place._replace(sites=tuple(sorted(wanted)))
                copy = waiting[wanted[0]][key]
                fields = (key.incarnation, key.number, copy.hops, copy.behind_ms)
                value = packed(*fields, place.slices_count, place.sites)
                replication_state.keep(txn, Kept.COPY, value, place.number, key.database)

    def _put(self, txn: WriteTransaction, key: BundleKey, data: bytes) -> _Place:
        self._last += 1
        slices = [data[at : at + SLICE_BYTES] for at in range(0, len(data), SLICE_BYTES)]
        for k, each in enumerate(slices):
            replication_state.keep(txn, Kept.COPY_SLICE, each, _slice(self._last, k), key.database)
        return _Place(self._last, len(slices), ())

    def _forget(self, txn: WriteTransaction, key: BundleKey) -> None:
        place = self._places.pop(key)
        replication_state.keep(txn, Kept.COPY, None, place.number, key.database)
        for k in range(place.slices_count):
            replication_state.keep(txn, Kept.COPY_SLICE, None, _slice(place.number, k), key.database)


def _slice(number: int, k: int) -> int:
    return number << _SLICES_BITS | k
