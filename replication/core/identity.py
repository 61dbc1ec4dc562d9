"""Identity: no number may ever be given twice, and a copy that went back in time would do just that.

A store that starts goes on with its old numbering only once a `hello` has shown that nobody knows more of it
than the store itself. A number that is needed before that is given under a replica GUID that is new, and so
is every number after a return in time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.replica import Replica, ReplicaRecord
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.store.change_number import CNSet

LEFT_OUT_COUNT: Final = 1 << 16  # more numbers than a crash can have lost


# --- what a start finds on the machine ----------------------------------------------------------------------


class Mark(NamedTuple):
    """The mount that the database itself tells of, and the one before it. No nonce: it was never mounted."""

    incarnation: int
    nonce: bytes
    nonce_before: bytes


class Place(NamedTuple):
    """Where a fence lies: the id of the machine, and the number of the file on its disk."""

    machine: bytes
    inode: int


class Fence(NamedTuple):
    """The mount that a file outside the database tells of. `is_open`: it was not ended properly.
    `is_doubted`: a change may have been numbered anew since, where no node could ask others what they know.
    """

    database: bytes
    incarnation: int
    nonce: bytes
    place: Place
    is_open: bool
    is_doubted: bool = False


class Return(StrEnum):
    """Reasons for which a database is not, or may not be, the one that numbered its changes before."""

    RESTORED = "the database was restored, or a repair lost records of it"
    NO_FENCE = "the file that tells of its last mount is missing: the database came from elsewhere"
    COPIED_FENCE = "the file that tells of its last mount was copied from elsewhere"
    OTHER_MOUNT = "the database is not as its last mount left it: it was put back, or copied"


def reason_to_number_anew(
    database: bytes, is_restored: bool, mark: Mark, fence: Fence | None, place: Place | None
) -> Return | None:
    """Decide at a mount between going on with the numbering and a new one; None to go on.

    A mount writes its nonce into the database first and then into the fence, so the database may be exactly
    one mount ahead; a new incarnation likewise. `place` is where the fence was found.
    """
    if is_restored:
        return Return.RESTORED
    if not mark.nonce:
        return None
    if fence is None or fence.database != database:
        return Return.NO_FENCE
    if fence.place != place:
        return Return.COPIED_FENCE
    is_same = fence.incarnation <= mark.incarnation and fence.nonce in (mark.nonce, mark.nonce_before)
    return None if is_same else Return.OTHER_MOUNT


# --- numberings ---------------------------------------------------------------------------------------------


def leave_out_after_unclean_end(record: ReplicaRecord) -> CNSet:
    """Number on above all that may have been given and lost; the numbers left out.

    Others are told of them, and wait for none of them, once a hello has shown that none was given after all.
    """
    origin, last = record.sender.origin, record.counter
    left_out = CNSet.of_range(origin, last + 1, last + LEFT_OUT_COUNT)
    record.unsure |= left_out
    record.counter = left_out.highest(origin)
    return left_out


def open_quarantines(record: ReplicaRecord) -> tuple[bytes, ...]:
    """The quarantined replica GUIDs of which no operator has chosen a copy yet. The chosen one numbers under
    a later incarnation; what comes under the old one stays refused."""
    last: dict[bytes, int] = {}
    for database, incarnation in record.owners.values():
        last[database] = max(incarnation, last.get(database, 0))
    return tuple(
        origin
        for origin in sorted(record.quarantined)
        if (owner := record.owners.get(origin)) is None or last[owner[0]] <= owner[1]
    )


def check_numbers(replica: Replica, folder: ObjectId, mine: Versions[Any], arrived: Versions[Any]) -> bool:
    """True when all numbers that both states hold are of the same changes.

    If not, two copies of one store gave them: its incarnation is quarantined here, and what it says is
    refused until an operator has decided which copy goes on under a new one.
    """
    for number, version in arrived.siblings.items():
        if mine.siblings.get(number, version) != version:
            replica.record.quarantined |= {number.origin}
            replica.report(Notice.NUMBER_GIVEN_TWICE, folder, CNSet.of([number]))
            return False
    return True
