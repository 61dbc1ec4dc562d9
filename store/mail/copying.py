"""Copies of folders of any size, in transactions so short that mail goes on beside them: all or nothing.

A copy is made hidden, as `Hidden.COPYING`, and shown by its last transaction. Its change numbers are withheld
from the feed until then (`withheld`), so that followers are told of it as a whole. One that is not completed,
since it failed or its process ended, is removed as what was deleted is (`removal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.arguments import check_kind
from pillarbox.store.disk.tables import FolderRecord, Hidden, ItemRecord
from pillarbox.store.engine import content_transfer, removal, withheld
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.pace import Pace
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt, PillarboxError
from pillarbox.store.ids import LOCAL_BASE
from pillarbox.store.mail import folders, messages, replicas
from pillarbox.store.mail.rights import Right, require, require_change


class CopyProgress(NamedTuple):
    """The progress of a copy: messages copied, of those that it is to hold."""

    messages_count: int
    messages_total: int


Progress = Callable[[CopyProgress], None]


def copy_folder(
    database: Database,
    actor: Actor,
    folder_id: int,
    parent_id: int,
    name: str = "",
    *,
    progress: Progress | None = None,
) -> FolderRecord:
    """Copy a folder of any size, with all in it, into another, durably, under `name` or its own.

    The copy holds the folders and messages as they were when it began, with flags and dates, whatever changes
    meanwhile. Nobody meets it before it is complete; the change feed tells of all of it then. Deliveries go
    on beside it. After a failure, an interrupt or a crash there is none of it. Space that others free
    meanwhile is used again only after it. `progress` is called between transactions.

    Raises as `folders.create`, also when it is complete and has no place any more; Dismounted, ReadOnly,
    DiskFull, Corrupt; Refused within a transaction of this thread's.
    """
    check_kind(database, "database", Database, "a mounted database: `server.database(name)`")
    check_kind(actor, "actor", Actor, "who asks, such as `Actor.user(account)`")
    database.refuse_within_transaction()
    with database.read(actor) as source:
        require(source, Right.READ_ITEMS, folder_id)
        return _Copy(database, actor, source, folder_id, parent_id, name, progress).make()


class _Copy:
    """One copy in the making, of the state that `source` reads."""

    def __init__(
        self,
        database: Database,
        actor: Actor,
        source: Reader,
        folder_id: int,
        parent_id: int,
        name: str,
        progress: Progress | None,
    ) -> None:
        top = folders.get(source, folder_id)
        self._database = database
        self._actor = actor
        self._source = source
        self._parent_id = parent_id
        self._name = name or top.name
        self._progress = progress
        self._folders = [top, *(found for _, found in folders.walk(source, folder_id))]
        self._total = sum(found.messages_count for found in self._folders)
        self._copied = 0
        self._copies: dict[int, int] = {}  # ids of folders to those of their copies
        self._first_number = 0
        self._numbers: Iterator[int] = iter(())

    def make(self) -> FolderRecord:
        """Make the copy and show it. Raises as `copy_folder`."""
        try:
            self._begin()
            self._copy_messages()
            return self._show()
        except BaseException:
            with suppress(PillarboxError):  # else the next mount does it
                self._give_up()
            raise

    def _begin(self) -> None:
        copies: dict[int, int] = {}
        try:
            with self._database.transaction(self._actor) as txn:
                require_change(txn, Right.CREATE_SUBFOLDERS, self._parent_id)
                parent = self._place(txn)
                replicas.refuse_posts(txn, parent)
                count = len(self._folders) + self._total
                first = withheld.withhold(txn, count)
                self._numbers = (LOCAL_BASE | counter for counter in range(first, first + count))
                self._first_number = first
                for found in self._folders:
                    copies[found.folder_id] = self._insert_copy(txn, found, parent, copies)
                # Last: what is undone is not to be given up. Another copy may get the same numbers.
                self._copies = copies
        except PillarboxError:
            self._copies = {}
            raise

    def _place(self, txn: WriteTransaction) -> FolderRecord:
        return folders.place_for(txn, self._parent_id, self._name, self._levels())

    def _levels(self) -> int:
        depths = {self._folders[0].folder_id: 1}
        for found in self._folders[1:]:
            depths[found.folder_id] = depths[found.parent_id] + 1
        return max(depths.values())

    def _insert_copy(
        self, txn: WriteTransaction, found: FolderRecord, parent: FolderRecord, copies: dict[int, int]
    ) -> int:
        is_top = not copies
        parent_id = self._parent_id if is_top else copies[found.parent_id]
        name = self._name if is_top else found.name
        record = folders.insert(
            txn, parent.mailbox, parent_id, name, Hidden.COPYING, folder_id=self._next_number()
        )
        return record.folder_id

    def _next_number(self) -> int:
        number = next(self._numbers, None)
        if number is None:
            raise Corrupt("a folder has more messages than it counts", table="folder")
        return number

    def _copy_messages(self) -> None:
        items = (item for found in self._folders for item in folders.messages(self._source, found.folder_id))
        pace = Pace()
        clock = self._database.clock
        while batch := list(islice(items, pace.rows)):
            self._database.refuse_below_disk_floor()
            with self._database.transaction(self._actor) as txn:
                began_ms = clock.monotonic_ms()
                sequence = txn.state().sequence
                for item in batch:
                    self._copy_message(txn, item)
            self._copied += len(batch)
            if self._progress:
                self._progress(CopyProgress(self._copied, self._total))
            if rest_ms := pace.rest_ms(clock.monotonic_ms() - began_ms, sequence):
                clock.sleep_ms(rest_ms)

    def _copy_message(self, txn: WriteTransaction, item: ItemRecord) -> None:
        # Not `hold_again`: the message may be deleted since, and its content gone with it.
        content_transfer.hold(txn, self._source, content_transfer.fetch(self._source, txn, item.digest, {}))
        target = folders.get_or_hidden(txn, self._copies[item.folder_id])
        messages.place_hidden(txn, target, item, self._next_number())

    def _show(self) -> FolderRecord:
        with self._database.transaction(self._actor) as txn:
            require_change(txn, Right.CREATE_SUBFOLDERS, self._parent_id)
            parent = self._place(txn)
            replicas.refuse_posts(txn, parent)
            for copy_id in self._copies.values():
                folders.show(txn, copy_id, parent.mailbox)
            withheld.tell(txn, self._first_number)
            return folders.get(txn, self._copies[self._folders[0].folder_id])

    def _give_up(self) -> None:
        with self._database.transaction(self._actor) as txn:
            removal.give_up_copy(txn, self._copies.values(), self._first_number)
