"""Identity: no number may ever be given twice, and a copy that went back in time would do just
that.
"""

from __future__ import annotations

from typing import Any, Final

from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.replica import Replica, ReplicaRecord
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.wire.messages import Sender
from pillarbox.store.change_number import CNSet

LEFT_OUT_COUNT: Final = 1 << 16  # more numbers than a crash can have lost


def leave_out_after_unclean_end(record: ReplicaRecord) -> CNSet:
    """Number on above all that may have been given and lost; the numbers left out, which nobody waits for."""
    origin, last = record.sender.origin, record.counter
    left_out = CNSet.of_range(origin, last + 1, last + LEFT_OUT_COUNT)
    record.left_out |= left_out
    record.counter = left_out.highest(origin)
    return left_out


def begin_incarnation(record: ReplicaRecord, sender: Sender) -> None:
    """Number from 1 under a new replica GUID: the store was restored, copied or rolled back.

    What it knows stays known, its own changes of before as anybody's; its objects keep their numbers.
    """
    record.sender, record.counter = sender, 0
    record.owners[sender.origin] = (sender.database, sender.incarnation)
    for state in record.folders.values():
        state.own_last = state.broadcast_to = 0


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
