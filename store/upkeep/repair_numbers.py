"""The numbers of a repaired database: what lost transactions may have given out does not come again.

Clients, replicas and captures know messages by change number, and IMAP clients by UID. A transaction of which
nothing is left has given out numbers that no record tells of.
"""

from __future__ import annotations

from typing import Final

from pillarbox.store.disk.tables import LEFT_OUT_KEY, UID_END, Hidden, LeftOutRecord, Table
from pillarbox.store.upkeep.repair_draft import Draft

# More than the transactions of a few lost segments give out; there are enough for thousands of repairs.
NUMBERS_LEFT_OUT: Final = 1 << 24
UIDS_LEFT_OUT: Final = 1 << 20


def leave_numbers_out(draft: Draft, counter: int) -> int:
    """Leave numbers out above `counter`, and UIDs above those that each folder knows of; the new counter.

    UIDVALIDITY stays: what a client has of messages that are not lost is still right.
    """
    up_to = counter + NUMBERS_LEFT_OUT
    with draft.reading() as reader:
        before: LeftOutRecord | None = reader.record(Table.META, LEFT_OUT_KEY)
        intervals = (*(before.intervals if before else ()), (counter + 1, up_to))
        draft.put(Table.META, LEFT_OUT_KEY, LeftOutRecord(intervals=intervals))
        for key, record in reader.records(Table.FOLDER, b"", None):
            uid_next = record.uid_next + UIDS_LEFT_OUT
            if record.hidden != Hidden.REMOVED and uid_next < UID_END:
                draft.put(Table.FOLDER, key, record._replace(uid_next=uid_next))
    return up_to + 1  # not among them: a state of now is of this database
