"""Sizing: the sizes with CRLF line ends that messages of layout 1 lack, filled in by daily maintenance.

A pass goes through all items in the order of their keys, and keeps in META how far it has come. A message may
move behind it meanwhile: passes are made until one has found nothing. Whatever is missed has its size
computed whenever somebody asks (`messages.size_crlf`).
"""

from __future__ import annotations

from itertools import islice
from typing import Final, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import SIZING_KEY, ItemRecord, SizingRecord, Table
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import Corrupt, NotFound
from pillarbox.store.mail import messages

# In one transaction: deliveries wait meanwhile.
_BATCH_MESSAGES: Final = 256
# Looked at together: an item whose size is known costs microseconds.
_BATCH_LOOKED_AT: Final = 10_000


class _Batch(NamedTuple):
    """Sizes that records lack, with the digest, by key; `last` is the last key looked at, None at the end."""

    sizes: dict[bytes, tuple[bytes, int]]
    last: bytes | None


def fill_in_sizes(database: Database, actor: Actor, *, until_ms: int | None = None) -> int:
    """Fill in the sizes with CRLF line ends that records lack, in batches; how many.

    Takes no change number: to clients nothing has changed. After `until_ms` (ms UTC) no further batch is
    begun, and the next run goes on there. A message whose content is damaged is passed over. Raises
    Dismounted, ReadOnly, DiskFull.
    """
    filled = 0
    while until_ms is None or database.clock.now_ms() < until_ms:
        with database.read(actor) as reader:
            place: SizingRecord | None = reader.record(Table.META, SIZING_KEY)
            if place is None:
                break
            batch = _next_batch(reader, place.after)
        filled += _fill_in(database, actor, batch)
    return filled


def _next_batch(reader: Reader, after: bytes) -> _Batch:
    sizes: dict[bytes, tuple[bytes, int]] = {}
    last = None
    for key, item in islice(reader.records(Table.ITEM, after + b"\0", None), _BATCH_LOOKED_AT):
        last = key
        if item.size_crlf is None:
            try:
                sizes[key] = item.digest, messages.size_crlf(reader, item)
            except (Corrupt, NotFound):
                continue  # the check names it
        if len(sizes) == _BATCH_MESSAGES:
            break
    return _Batch(sizes, last)


def _fill_in(database: Database, actor: Actor, batch: _Batch) -> int:
    filled = 0
    with database.transaction(actor) as txn:
        for key, (digest, size_crlf) in batch.sizes.items():
            item: ItemRecord | None = txn.record(Table.ITEM, key)
            if item is not None and item.digest == digest:
                txn.put(Table.ITEM, key, item._replace(size_crlf=size_crlf))
                filled += 1
        place: SizingRecord | None = txn.record(Table.META, SIZING_KEY)
        found = filled + (place.filled if place else 0)
        if batch.last is not None:
            txn.put(Table.META, SIZING_KEY, SizingRecord(after=batch.last, filled=found))
        elif found:
            txn.put(Table.META, SIZING_KEY, SizingRecord(after=b"", filled=0))
        else:
            txn.delete(Table.META, SIZING_KEY)
    return filled
