"""Upgrades: steps that bring the tables of an earlier layout to the one that is written.

A mount for writing takes them, one layout after the other; a mount for reading reads every layout without
them. What new fields with defaults and new tables can say needs no work in a step (docs/format.md, "How the
format evolves").
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from pillarbox.store.disk.tables import IDENTITY_KEY, SIZING_KEY, IdentityRecord, SizingRecord, Table
from pillarbox.store.engine.transaction import WriteTransaction

Step = Callable[[WriteTransaction], bool]
"""Do a batch of a step's work in a transaction; True when nothing is left to do.

A step is called again until it returns True, after a crash by the next mount. It finds what is left from the
tables alone, and is idempotent: a step on tables that have it already does no harm.
"""


def _to_layout_2(txn: WriteTransaction) -> bool:
    """Have daily maintenance fill in the sizes that messages of layout 1 lack."""
    txn.put(Table.META, SIZING_KEY, SizingRecord(after=b"", filled=0))
    return True


def _to_layout_3(_: WriteTransaction) -> bool:
    """Nothing is to be done: a database that has joined no organisation makes no use of what is new."""
    return True


STEPS: Final[dict[int, Step]] = {2: _to_layout_2, 3: _to_layout_3}
"""The steps by the layout that the tables have once they are done."""


def upgrade(transaction: Callable[[], AbstractContextManager[WriteTransaction]]) -> int:
    """Take every step that the tables have not seen; the layout that the tables had before.

    `transaction` begins a transaction for each batch.
    """
    before = 0
    while True:
        with transaction() as txn:
            identity: IdentityRecord = txn.record(Table.META, IDENTITY_KEY)
            before = before or identity.layout_version
            layout = identity.layout_version + 1
            if layout not in STEPS:
                return before
            if STEPS[layout](txn):
                txn.put(Table.META, IDENTITY_KEY, identity._replace(layout_version=layout))
