"""Numbers of changes for other stores, in a database that has joined an organisation.

A change takes a change number of this database as any change does; the feed, captures and clients go by that
alone. Beside it stands its *replicated* number: a replica number of this database and the same counter. It is
one number of the *context* of an object, which says for each replica the highest number that went into it
(REPLICATION.md, section 2). In a record both are u64, as ids are: replica number, then counter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.disk.tables import (
    MEMBERSHIP_KEY,
    MembershipRecord,
    ReplicaRecord,
    Table,
    replica_key,
    split_replica_key,
)
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt, OverLimit, Refused
from pillarbox.store.hybrid_clock import HybridClock, Stamp
from pillarbox.store.ids import COUNTER_BITS, counter_of

REPLICAS_MAX: Final = (1 << 16) - 1
FIRST_NUMBERING: Final = 1

Versions = tuple[int, ...]
"""The number of a version and the other entries of its object's context, ascending."""


def membership(reader: Reader) -> MembershipRecord | None:
    """The tree that the database has joined, None when it has not. Raises Corrupt."""
    return cast(MembershipRecord | None, reader.record(Table.META, MEMBERSHIP_KEY))


def nonces(reader: Reader) -> bytes:
    """The nonce of the last mount that took one, and behind it that which was kept outside; b"" for none."""
    joined = membership(reader)
    return b"" if joined is None else joined.nonce


def renew_nonce(txn: WriteTransaction, before: bytes = b"") -> bytes:
    """Give this mount a nonce of its own, to be compared with what is kept outside the database.

    `before` is the nonce that is kept there now: a crash may come before the new one is. Raises Refused in a
    database that has joined no organisation.
    """
    joined = membership(txn)
    if joined is None:
        raise Refused("the database has joined no organisation", hint="join it first: `joining.join`")
    nonce = txn.new_guid()
    txn.put(Table.META, MEMBERSHIP_KEY, joined._replace(nonce=nonce + before))
    return nonce


# -- replicas


def replicas(reader: Reader) -> Iterator[tuple[int, ReplicaRecord]]:
    """(replica number, replica) of every numbering that objects of this database may name."""
    for key, record in reader.records(Table.REPLICA, b"", None):
        yield split_replica_key(key)[0], record


def own_replicas(reader: Reader) -> Iterator[tuple[int, bytes]]:
    """(replica number, replica GUID) of every numbering of this database's own, the first one first."""
    for number, record in replicas(reader):
        if record.database == reader.files.guid:
            yield number, record.origin


def replica(reader: Reader, number: int) -> ReplicaRecord:
    """The replica of that number. Raises Corrupt when there is none."""
    key = replica_key(number)
    found: ReplicaRecord | None = reader.record(Table.REPLICA, key)
    if found is None:
        raise Corrupt(f"replica[{key.hex()}] is missing", table="replica", key=key)
    return found


def replica_number(txn: WriteTransaction, origin: bytes, database: bytes, incarnation: int) -> int:
    """The replica number of a numbering, given now if it has none.

    Raises OverLimit once 65,535 are known.
    """
    numbers = {record.origin: number for number, record in replicas(txn)}
    if origin in numbers:
        return numbers[origin]
    number = max(numbers.values(), default=0) + 1
    if number > REPLICAS_MAX:
        raise OverLimit(
            f"{REPLICAS_MAX} replicas are known, and no more can be told apart",
            hint="no database has had so many numberings: look for one that takes a new one again and again",
        )
    txn.insert(
        Table.REPLICA,
        replica_key(number),
        ReplicaRecord(origin=origin, database=database, incarnation=incarnation, first_seen_ms=txn.now_ms),
    )
    return number


def begin_numbering(txn: WriteTransaction, origin: bytes, at_least: int = 0) -> int:
    """Number changes under a new replica GUID from now on: the first time, or after going back in time.

    Objects keep the numbers they have. The incarnation that begins: above all that are known here, and
    `at_least` what others know.
    """
    own = (record.incarnation for _, record in replicas(txn) if record.database == txn.files.guid)
    incarnation = max(1 + max(own, default=0), at_least)
    txn.numbering = replica_number(txn, origin, txn.files.guid, incarnation)
    txn.restored = False
    return incarnation


def as_change_number(reader: Reader, number: int) -> ChangeNumber:
    """A replicated number as all stores know it. Raises Corrupt."""
    return ChangeNumber(replica(reader, number >> COUNTER_BITS).origin, counter_of(number))


def as_cnset(reader: Reader, numbers: list[int]) -> CNSet:
    """Replicated numbers as a set that all stores understand. Raises Corrupt."""
    origins = {number >> COUNTER_BITS for number in numbers}
    known = {origin: replica(reader, origin).origin for origin in origins}
    return CNSet.of(ChangeNumber(known[number >> COUNTER_BITS], counter_of(number)) for number in numbers)


# -- numbers and stamps of changes made here


def own_number(txn: WriteTransaction, cn: int) -> int:
    """The replicated number of a change made here under a change number."""
    _leave_old_numbering(txn)
    return txn.numbering << COUNTER_BITS | counter_of(cn)


def _leave_old_numbering(txn: WriteTransaction) -> None:
    """Begin a numbering where the old one went back in time, or may have: it gave these numbers already."""
    if txn.numbering and (txn.restored or txn.numbering == txn.files.unsure_numbering):
        begin_numbering(txn, txn.new_guid())


def next_stamp(txn: WriteTransaction) -> tuple[int, int]:
    """The stamp of one more change made here: later than all that this database has seen."""
    _leave_old_numbering(txn)
    clock = HybridClock(*txn.clock).next(txn.now_ms)
    txn.clock = clock.time_ms, clock.counter
    return txn.clock


def witness(txn: WriteTransaction, stamp: tuple[int, int]) -> None:
    """See the stamp of a change that was made elsewhere; one that is far ahead moves no clock."""
    clock = HybridClock(*txn.clock).witnessed(Stamp(*stamp, b""), txn.now_ms)
    txn.clock = clock.time_ms, clock.counter


def context_of(versions: Versions) -> dict[int, int]:
    """The context in `versions`: by replica number the highest counter that went into the object."""
    context: dict[int, int] = {}
    for entry in versions:
        if entry:
            origin = entry >> COUNTER_BITS
            context[origin] = max(context.get(origin, 0), counter_of(entry))
    return context


def with_context(number: int, context: dict[int, int]) -> Versions:
    """`versions` of a version of that number, 0 for none, in an object of that context."""
    entries = sorted(origin << COUNTER_BITS | counter for origin, counter in context.items())
    return (number, *(entry for entry in entries if entry != number))


def written(txn: WriteTransaction, before: Versions, cn: int) -> Versions:
    """`versions` after a change made here under a change number, which saw all there was before."""
    number = own_number(txn, cn)
    return with_context(number, {**context_of(before), txn.numbering: counter_of(cn)})
