"""Removal of what was deleted: hidden in one transaction, however much it is, and gone in batches after it.

A folder that is deleted is hidden with all below it (`folders.hide`); its transaction does no more. Messages
go later, so many in a transaction that others hardly wait, and the folder's record last, so that the next
mount finds an interrupted removal. The feed tells of the folders at once, and of each message with its batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import Final

from pillarbox.store.access import Actor
from pillarbox.store.clock import Clock
from pillarbox.store.disk.tables import IS_COPY, FolderRecord, Hidden, ItemRole, Table, id_key, number_of
from pillarbox.store.engine import content_store, withheld
from pillarbox.store.engine.change_feed import bury_message
from pillarbox.store.engine.pace import BATCH_ROWS, Pace
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import PillarboxError

_ACTOR: Final = Actor.task("removal")


def pending(reader: Reader) -> bool:
    """True when rows of deleted folders are left to be removed."""
    return any(body != IS_COPY for _, body in reader.indexes(Table.REMOVAL, b"", None))


def has_copies(reader: Reader) -> bool:
    """True when copies of folders are not complete."""
    return any(body == IS_COPY for _, body in reader.indexes(Table.REMOVAL, b"", None))


def give_up_copies(txn: WriteTransaction) -> None:
    """Have all copies of folders removed that are not complete: for a mount, when nobody completes them."""
    copied = [number_of(key)[0] for key, body in txn.indexes(Table.REMOVAL, b"", None) if body == IS_COPY]
    for folder_id in copied:
        _remove_copied(txn, folder_id)
    withheld.never_tell_any(txn)


def give_up_copy(txn: WriteTransaction, folder_ids: Iterable[int], first_number: int) -> None:
    """Have a copy of folders removed, unless it is complete or was not begun; `first_number` is withheld."""
    is_begun = False
    for folder_id in folder_ids:
        is_begun = _remove_copied(txn, folder_id) or is_begun
    if is_begun:
        withheld.never_tell(txn, first_number)
        txn.leaves_rows = True


def _remove_copied(txn: WriteTransaction, folder_id: int) -> bool:
    """Leave no tombstone: it was never in the tree, and nobody was told of it. False for any other folder."""
    record: FolderRecord | None = txn.record(Table.FOLDER, id_key(folder_id))
    if record is None or record.hidden != Hidden.COPYING:
        return False
    txn.put(Table.FOLDER, id_key(folder_id), record._replace(hidden=int(Hidden.REMOVED)))
    return True


class Batches:
    """Removes rows batch by batch. A new one begins anew, as after a crash, and finds what rows are left."""

    def __init__(self) -> None:
        self._tombstones_from: dict[int, bytes] = {}

    def remove(self, txn: WriteTransaction, rows_max: int = BATCH_ROWS) -> bool:
        """Remove some rows of hidden folders, the oldest folder first; False when none is left."""
        left = rows_max
        removed = (row for row in txn.indexes(Table.REMOVAL, b"", None) if row[1] != IS_COPY)
        folder_ids = [number_of(key)[0] for key, _ in islice(removed, left)]
        for folder_id in folder_ids:
            left -= self._remove_from(txn, folder_id, left)
            if left <= 0:
                break
        return bool(folder_ids)

    def _remove_from(self, txn: WriteTransaction, folder_id: int, rows_max: int) -> int:
        """Remove up to so many rows of one folder, and its record after them all; how many."""
        removed = 0
        start, stop = id_key(folder_id), id_key(folder_id + 1)
        # Messages last: their own tombstones are not to be looked at.
        for remove in (self._remove_tombstones, _remove_seen, _remove_messages):
            removed += remove(txn, start, stop, rows_max - removed)
            if removed >= rows_max:
                return removed
        txn.delete(Table.FOLDER, start)
        self._tombstones_from.pop(folder_id, None)
        return removed + 1

    def _remove_tombstones(self, txn: WriteTransaction, start: bytes, stop: bytes, rows_max: int) -> int:
        """Tombstones of moves away tell only those who follow the folder; deletions concern the database."""
        folder_id = number_of(start)[0]
        looked_at = 0
        begin = self._tombstones_from.get(folder_id, start)
        if begin == stop:
            return 0
        for key, tombstone in list(islice(txn.records(Table.TOMBSTONE, begin, stop), rows_max)):
            if tombstone.moved_to:
                txn.delete(Table.TOMBSTONE, key)
            looked_at += 1
            begin = key + b"\0"
        self._tombstones_from[folder_id] = begin if looked_at == rows_max else stop
        return looked_at


def _remove_seen(txn: WriteTransaction, start: bytes, stop: bytes, rows_max: int) -> int:
    rows = list(islice(txn.records(Table.SEEN, start, stop), rows_max))
    for key, _ in rows:
        txn.delete(Table.SEEN, key)
    return len(rows)


def _remove_messages(txn: WriteTransaction, start: bytes, stop: bytes, rows_max: int) -> int:
    items = list(islice(txn.records(Table.ITEM, start, stop), rows_max))
    for key, item in items:
        txn.delete(Table.ITEM, key)
        content_store.release(txn, item.digest)
        if item.role != ItemRole.VERSION:
            bury_message(txn, item)
    return len(items)


Begin = Callable[[Actor], AbstractContextManager[WriteTransaction]]


class Remover:
    """Removes rows of hidden folders between the transactions of others, in a thread or in the caller's."""

    def __init__(self, begin: Begin, clock: Clock) -> None:
        self._begin = begin
        self._clock = clock
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._again = False
        self._ended = threading.Event()

    def wake(self) -> None:
        """Let a thread remove what is left to be removed; the next wake, if none can be had now."""
        with self._starting, suppress(RuntimeError):  # too many threads, or the interpreter ends
            self._again = True
            if self._thread is None and not self._ended.is_set():
                thread = threading.Thread(target=self._run, name="pillarbox removal", daemon=True)
                thread.start()
                self._thread = thread  # only now: one that was not started would be waited for for ever

    def end(self) -> None:
        """Begin no further batch in the thread. What is left is found by the next mount."""
        self._ended.set()

    def finish(self) -> None:
        """Remove all there is to be removed, in the caller's thread. Raises as `Database.transaction`."""
        batches, pace = Batches(), Pace()
        while self._remove(batches, pace):
            pass

    def _run(self) -> None:
        try:
            while self._is_wanted():
                batches, pace = Batches(), Pace()
                with suppress(
                    PillarboxError
                ):  # the database has told; a deletion, mount or maintenance goes on
                    while not self._ended.is_set() and self._remove(batches, pace):
                        pass
        except BaseException:  # nobody foresaw it: told by the interpreter, and the next wake tries again
            with self._starting:
                self._thread = None
            raise

    def _is_wanted(self) -> bool:
        with self._starting:
            if self._again and not self._ended.is_set():
                self._again = False
                return True
            self._thread = None
            return False

    def _remove(self, batches: Batches, pace: Pace) -> bool:
        """Remove a batch, and rest; False when none is left."""
        with self._begin(_ACTOR) as txn:
            began_ms = self._clock.monotonic_ms()  # not before: the wait for the turn is no work
            sequence = txn.state().sequence
            if not batches.remove(txn, pace.rows):
                return False
        if rest_ms := pace.rest_ms(self._clock.monotonic_ms() - began_ms, sequence):
            self._ended.wait(rest_ms / 1000)
        return True
