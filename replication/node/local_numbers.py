"""The numbers that a store gave its own changes since the replicator looked last, by folder.

The change feed of the database says where to look, the version index what is there. A number that was
replaced since is in neither, and is a gap. Of a message that was moved the feed tells only where it is now:
where some number is in no row of the feed, all folders are looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import NamedTuple

from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.node.identifiers import Identifiers
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.disk.tables import (
    DATABASE_SCOPE,
    HIERARCHY_SCOPE,
    ObjectKind,
    Table,
    pair_key,
    split_feed_value,
    split_pair_key,
    split_triple_key,
    triple_key,
)
from pillarbox.store.engine import withheld
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.ids import COUNTER_BITS, LOCAL_BASE, counter_of

_FOLDER_KINDS = (ObjectKind.FOLDER, ObjectKind.FOLDER_GONE)


class Counters(NamedTuple):
    """Counters of the database, as of its own change numbers: those to look at, and those not to yet."""

    new: CNSet
    withheld: CNSet


def counters_since(txn: WriteTransaction, last: int, withheld_before: CNSet) -> Counters:
    """The counters above `last` and those that were withheld then, but for those that are withheld now."""
    now = withheld.not_told_yet(txn)
    new = CNSet.of_range(txn.files.guid, last + 1, txn.counter) | withheld_before
    return Counters(new - now, now)


def changes_of(
    txn: WriteTransaction,
    ids: Identifiers,
    replicas: Collection[int],
    counters: CNSet,
    folders: Iterable[ObjectId],
) -> dict[ObjectId, CNSet]:
    """By folder the numbers of own numberings with these counters that objects have.

    `folders` are those of which the store holds a replica.
    """
    scopes, told = _scopes(txn, counters)
    if not told.covers(counters):
        scopes.update(map(ids.id, folders))
    held = {scope: _numbers(txn, scope, replicas, counters) for scope in sorted(scopes)}
    return {ids.object_id(scope): ids.cnset(sorted(numbers)) for scope, numbers in held.items() if numbers}


def _scopes(txn: WriteTransaction, counters: CNSet) -> tuple[set[int], CNSet]:
    """The folders in which the feed tells of these counters, and the counters that it tells of."""
    scopes, told, guid = set(), [], txn.files.guid
    for first, last in counters.ranges(guid):
        start = pair_key(DATABASE_SCOPE, LOCAL_BASE | first)
        stop = pair_key(DATABASE_SCOPE, (LOCAL_BASE | last) + 1)
        for key, body in txn.indexes(Table.FEED, start, stop):
            kind, _, folder_id, _ = split_feed_value(body)
            scopes.add(HIERARCHY_SCOPE if ObjectKind(kind) in _FOLDER_KINDS else folder_id)
            told.append(ChangeNumber(guid, counter_of(split_pair_key(key)[1])))
    return scopes, CNSet.of(told)


def _numbers(txn: WriteTransaction, scope: int, replicas: Collection[int], counters: CNSet) -> set[int]:
    numbers: set[int] = set()
    for replica, (first, last) in product(replicas, counters.ranges(txn.files.guid)):
        start = triple_key(scope, replica << COUNTER_BITS | first, 0)
        stop = triple_key(scope, (replica << COUNTER_BITS | last) + 1, 0)
        numbers.update(split_triple_key(key)[1] for key, _ in txn.indexes(Table.VERSION, start, stop))
    return numbers
