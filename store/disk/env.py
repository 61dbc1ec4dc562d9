"""The only module that talks to LMDB: opening, snapshot reads, applying groups, checkpoints, page statistics.

LMDB commits here are never flushed; `redo` and `checkpoint` make them durable (docs/architecture.md,
"Why a commit is one flush"). The invariant that rests on this module: between two checkpoints a read
transaction pins every page of the last one, so putting its meta pages back gives exactly its data.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import struct
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

import lmdb

from pillarbox.store.disk.stream import disk_error, preallocate
from pillarbox.store.disk.tables import KEY_BYTES_MAX, NAMES, Table
from pillarbox.store.errors import (
    Corrupt,
    DiskFull,
    Dismounted,
    NoPermission,
    PillarboxError,
    Refused,
    Retryable,
)

PAGE_BYTES: Final = 4096
META_BYTES: Final = 2 * PAGE_BYTES
DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"
# LMDB maps its lock file and writes there: where the disk has no room for a page of it the process ends. With
# as much for its head as for a reader the file is shorter than LMDB makes it, and has the same pages.
_LOCK_BYTES_OF_A_READER: Final = 64
_FULL_BELOW_BYTES: Final = 1 << 20
# Address space, not memory or disk: the file grows page by page below it.
MAP_BYTES_DEFAULT: Final = 1 << 40
_READERS_MAX: Final = 1024
_LOOK_AGAIN_S: Final = 0.05
_OPEN_TRIES: Final = 3
_VIEWS_CLOSED_MAX: Final = 64
_FLUSH_HINT: Final = "look at the disk: the system could not write what it had taken"
# Each of LMDB's two meta pages: mm_magic, mm_version, mm_address, mm_mapsize; the trees of free pages and of
# names, of which the first begins with the size of a page; mm_last_pg, mm_txnid.
_META: Final = struct.Struct("<2I2QI44x48x2Q")
_META_AT: Final = 16  # behind the header of the page
_TRANSACTION_AT: Final = 144
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_MAP_BYTES_MAX: Final = 1 << 46  # half of the address space that a process has
_READER_LINE = re.compile(r"^\s*(\d+)\s+[0-9a-f]+\s+(\d+)", re.MULTILINE)

Changes = Mapping[Table, Mapping[bytes, bytes | None]]

# Keys that often come in ascending order: told of it, LMDB leaves full pages behind, not half full ones.
_APPENDED: Final = frozenset({Table.ITEM, Table.LOCATION, Table.TOMBSTONE})

# A map that the writing process has made larger is followed before its error is translated (`Env._begin`).
_DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.PanicError,
    lmdb.MapResizedError,
)
# The system says so of a copy of pages that a meta page has and the file has not.
_BAD_ADDRESS: Final = os.strerror(errno.EFAULT)

# What LMDB also says when the disk took a part of what it wrote.
_IO_ERROR: Final = os.strerror(errno.EIO)


def _is_full(path: Path) -> bool:
    return shutil.disk_usage(path).free < _FULL_BELOW_BYTES


def _translate(error: lmdb.Error, path: Path) -> PillarboxError:
    """The error of the project for one of LMDB's."""
    if isinstance(error, _DAMAGE) or _BAD_ADDRESS in str(error):
        return Corrupt(f"{path}: LMDB says {error}", file=str(path))
    if "closed/deleted/dropped" in str(error):
        return Dismounted(f"{path}: it was dismounted meanwhile", hint="mount the database again")
    if "No space left" in str(error) or (_IO_ERROR in str(error) and _is_full(path)):
        return DiskFull(f"{path}: no space left on the disk", hint="free some disk space and try again")
    if "Permission denied" in str(error):
        return NoPermission(
            f"{path}: permission denied",
            hint="look at the owner and mode of the files and their directory",
        )
    if isinstance(error, lmdb.ReadersFullError):
        return Retryable(
            f"{path}: {_READERS_MAX} reads are open at once", hint="close snapshots that are no longer needed"
        )
    return PillarboxError(f"{path}: {error}")


class Pin(NamedTuple):
    """A state of the tables that stays readable: the read transaction that holds it, and its meta pages."""

    transaction: Any
    meta_pages: bytes


class TableReader(NamedTuple):
    """A read of some process: LMDB's number of the transaction that made the state it looks at."""

    process_id: int
    transaction_id: int


class MapFull(Retryable):
    """LMDB's address space is used up; it grows and the same changes are applied again."""


def _ended() -> Refused:
    return Refused("this transaction has ended", hint="begin another one")


class _EndedTransaction:
    """Stands in for the transaction of a view that is closed."""

    def get(self, *_: Any, **__: Any) -> Any:
        raise _ended()

    cursor = stat = id = get


_ENDED: Final[Any] = _EndedTransaction()


class ReadView:
    """A snapshot of the tables. Never blocks, never changes; close it, or use it as a context."""

    __slots__ = ("__weakref__", "_env", "_handles", "_txn")

    def __init__(self, env: Env, txn: lmdb.Transaction, handles: Mapping[Table, Any]) -> None:
        """`handles` has the tables that are there; one that an older program never made is empty."""
        self._env = env
        self._txn = txn
        self._handles = handles

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The stored value, still sealed, or None. Raises Corrupt when the pages lead past it."""
        if not 0 < len(key) <= KEY_BYTES_MAX:
            return None  # asked for with what a bent page gave as a key
        try:
            value: bytes | None = self._txn.get(key, db=self._handles[table])
            if value is None:
                with self._txn.cursor(db=self._handles[table]) as cursor:
                    if self._seek(cursor, table, key) and cursor.key() == key:
                        raise self._misplaced(table, key)
        except KeyError:
            return None
        except lmdb.Error as error:
            raise self._error(error) from error
        return value

    def _seek(self, cursor: lmdb.Cursor, table: Table, start: bytes) -> bool:
        """Go to the first key that is not below `start`; False when there is none.

        LMDB finds its way by the keys of branch pages, which have no checksum: a bent one leads past rows, or
        to rows before `start`. So both neighbours of the place are looked at. Raises Corrupt.
        """
        if not cursor.set_range(start):
            if cursor.last() and cursor.key() >= start:
                raise self._misplaced(table, start)
            return False
        if cursor.key() < start or (cursor.prev() and cursor.key() >= start):
            raise self._misplaced(table, start)
        return bool(cursor.set_range(start))

    def _misplaced(self, table: Table, key: bytes) -> Corrupt:
        name, path = table.name.lower(), self._env.path / DATA_FILE
        problem = f"{path}: the pages of table {name} lead past [{key.hex()}]"
        return Corrupt(problem, file=str(path), table=name, key=key)

    def _error(self, error: lmdb.Error) -> PillarboxError:
        return _ended() if self._txn is _ENDED else _translate(error, self._env.path)

    def scan(
        self, table: Table, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop in key order, or from the last to the first. No stop: to the end.

        Raises Corrupt when the pages lead elsewhere than to `start` and `stop`, or rows are out of order.
        """
        handle = self._handles.get(table)
        if handle is None:
            return
        try:
            with self._txn.cursor(db=handle) as cursor:
                if reverse:
                    yield from self._scan_reverse(cursor, table, start, stop)
                elif cursor.first() if not start else self._seek(cursor, table, start):
                    last = b""
                    for row in cursor.iternext():
                        if stop is not None and row[0] >= stop:
                            return
                        if row[0] <= last:
                            raise self._misplaced(table, row[0])
                        last = row[0]
                        yield row
        except lmdb.Error as error:
            raise self._error(error) from error

    def _scan_reverse(
        self, cursor: lmdb.Cursor, table: Table, start: bytes, stop: bytes | None
    ) -> Iterator[tuple[bytes, bytes]]:
        positioned = stop is not None and self._seek(cursor, table, stop)
        if not (cursor.prev() if positioned else cursor.last()):
            return
        last = stop
        for row in cursor.iterprev():
            if row[0] < start:
                return
            if last is not None and row[0] >= last:
                raise self._misplaced(table, row[0])
            last = row[0]
            yield row

    def all_rows(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        """Every row as the pages give them, in whatever order: for a reader that proves each by itself."""
        handle = self._handles.get(table)
        if handle is None:
            return
        try:
            with self._txn.cursor(db=handle) as cursor:
                yield from cursor
        except lmdb.Error as error:
            raise self._error(error) from error

    def count(self, table: Table) -> int:
        """The number of rows of the table."""
        handle = self._handles.get(table)
        if handle is None:
            return 0
        try:
            return int(self._txn.stat(handle)["entries"])
        except lmdb.Error as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Let the snapshot's pages go. Closing twice is harmless."""
        if self._txn is not _ENDED:
            # LMDB's reader slot is given back only once nothing refers to the transaction any more.
            txn, self._txn = self._txn, _ENDED
            txn.abort()
            self._env.view_closed()

    @property
    def is_open(self) -> bool:
        """True while the view shows its snapshot."""
        return self._txn is not _ENDED

    @property
    def transaction_id(self) -> int:
        """LMDB's number of the state this view shows."""
        return int(self._txn.id())

    def __enter__(self) -> ReadView:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Env:
    """One database's LMDB environment, opened at most once in a process."""

    def __init__(
        self, path: Path, *, create: bool = False, read_only: bool = False, map_bytes: int = 0
    ) -> None:
        self.path = path
        self._data = path / DATA_FILE
        if create:
            path.mkdir(parents=True, exist_ok=True)
        if not create or (self._data.exists() and self.file_bytes()):
            _refuse_damaged(self._data)
        if not read_only:
            _reserve_lock_file(path / LOCK_FILE)
        try:
            self._env = _opened(
                path,
                map_size=map_bytes or MAP_BYTES_DEFAULT,
                max_dbs=len(Table) + 4,
                max_readers=_READERS_MAX,
                readonly=read_only,
                sync=False,
                metasync=False,
                readahead=False,
                create=create,
                meminit=False,
                max_spare_txns=32,
            )
            self._env.reader_check()
            self._read_only = read_only
            self._handles: Mapping[Table, Any] = {}
            self._open_tables(create=create)
        except lmdb.Error as error:
            raise _translate(error, path) from error
        # Counted by looking at them: a count would be wrong for ever once a thread is interrupted between.
        self._views: list[weakref.ref[ReadView]] = []
        self._views_looked_through = _VIEWS_CLOSED_MAX
        self._opening = threading.Lock()
        self._growing = False
        self._closed: SimpleQueue[None] = SimpleQueue()
        self._checkpoint_pin: Pin | None = None
        self.flush_failed = False

    def _open_tables(self, *, create: bool) -> None:
        """Open the tables that are not open yet, those that are there or, with `create`, all.

        Views keep the handles that they began with: LMDB knows a handle only in transactions begun later.
        """
        handles = dict(self._handles)
        for table in Table:
            if table not in handles:
                with suppress(lmdb.NotFoundError):
                    handles[table] = self._env.open_db(NAMES[table], create=create)
        self._handles = handles

    @property
    def lacks_tables(self) -> bool:
        """True when the program that made the environment did not know all tables."""
        return len(self._handles) < len(Table)

    def make_missing_tables(self) -> None:
        """Make the tables that the program which made the environment did not know.

        Call it before anything is applied, and only once a pin holds the checkpoint's state.
        """
        try:
            self._open_tables(create=True)
        except lmdb.Error as error:
            raise _translate(error, self.path) from error

    def view(self) -> ReadView:
        """A snapshot of the last applied group. Raises Retryable when too many are open."""
        with self._opening:
            try:
                if self._read_only and self.lacks_tables:
                    self._open_tables(create=False)  # the process that writes may have made them since
                view = ReadView(self, self._begin(), self._handles)
            except lmdb.Error as error:
                raise _translate(error, self.path) from error
            if len(self._views) >= self._views_looked_through:
                self._views_open()
            self._views.append(weakref.ref(view))
        return view

    def _begin(self) -> lmdb.Transaction:
        try:
            return self._env.begin()
        except lmdb.MapResizedError:
            self._follow_map()
            return self._env.begin()

    def _follow_map(self) -> None:
        """Take over the size of the map after another process, the one that writes, has made it larger.

        Only while nothing here looks at it, and never the size that a bent meta page has: LMDB lets go of the
        map that it has before it asks for the other. Raises Retryable, Corrupt. For who holds `_opening`.
        """
        if not self._read_only:
            raise Corrupt(f"{self._data}: a meta page has pages outside of the map", file=str(self._data))
        _refuse_damaged(self._data)
        if held_open := self._views_open():
            raise Retryable(
                f"{self.path}: another process has made the map larger, and {held_open} snapshots are open",
                hint="close them, then try again",
            )
        self._env.set_mapsize(0)

    def _views_open(self) -> int:
        """The number of views that are open; those that are not are forgotten. For who holds `_opening`."""
        found = [(each, each()) for each in self._views]
        self._views = [each for each, view in found if view is not None and view.is_open]
        self._views_looked_through = 2 * len(self._views) + _VIEWS_CLOSED_MAX
        return len(self._views)

    def view_closed(self) -> None:
        """Called by a view that ends."""
        if self._growing:
            self._closed.put(None)

    def apply(self, changes: Changes, before_commit: Callable[[], None] | None = None) -> None:
        """Put a group's changes into the tables, all or nothing, without flushing.

        `before_commit` is called when all is put and nobody sees it yet; what it raises undoes it. Raises
        MapFull when the map must grow first (`grow`, after a checkpoint).
        """
        try:
            self._apply_once(changes, before_commit)
        except lmdb.MapFullError as error:
            raise MapFull(
                f"{self.path}: the LMDB map of {self._env.info()['map_size']} bytes is full"
            ) from error
        except lmdb.Error as error:
            raise _translate(error, self.path) from error

    def _apply_once(self, changes: Changes, before_commit: Callable[[], None] | None) -> None:
        with self._env.begin(write=True) as txn:
            for table, rows in changes.items():
                appends = table in _APPENDED
                cursor = txn.cursor(self._handles[table])
                put = cursor.put
                for key, value in sorted(rows.items()):  # neighbours share their page's path
                    if value is None:
                        if cursor.set_key(key):
                            cursor.delete()
                    elif not appends or not put(key, value, append=True):
                        put(key, value)
            if before_commit is not None:
                before_commit()

    def grow(self, patience_s: float) -> None:
        """Double the map. Reads that are open end first; new ones wait meanwhile.

        The caller has just made a checkpoint: the pin on it is let go and taken again, and nothing is
        written in between. Raises Retryable when a read stays open longer than `patience_s` seconds,
        PillarboxError when the system gives no more room.
        """
        with self._opening:
            self._growing = True
            try:
                self._wait_for_views(patience_s)
                if self._checkpoint_pin is not None:
                    self._checkpoint_pin.transaction.abort()
                self._env.set_mapsize(2 * self._env.info()["map_size"])
                self._checkpoint_pin = self.pin()
            except lmdb.Error as error:
                raise _translate(error, self.path) from error
            finally:
                self._growing = False

    def _wait_for_views(self, patience_s: float) -> None:
        while held_open := self._views_open():
            if patience_s <= 0:
                raise Retryable(
                    f"{self.path}: the map is full and {held_open} snapshots are held open",
                    hint="close long snapshots, then mount the database again",
                )
            try:
                self._closed.get(timeout=_LOOK_AGAIN_S)
            except Empty:
                patience_s -= _LOOK_AGAIN_S  # looked at again: one that was dropped does not tell

    def pin(self) -> Pin:
        """Hold the state that is applied now; call it while nothing is being applied.

        Raises Retryable when too many reads are open, PillarboxError when the file cannot be read.
        """
        try:
            transaction = self._env.begin()
        except lmdb.Error as error:
            raise _translate(error, self.path) from error
        try:
            with self._data.open("rb") as file:
                return Pin(transaction, file.read(META_BYTES))
        except OSError as error:
            transaction.abort()
            raise disk_error(error, str(self._data)) from error

    def sync(self) -> None:
        """Make all that is applied so far durable. Others may apply more meanwhile.

        Raises PillarboxError, never DiskFull: after a failed flush the system takes the pages for written, so
        nothing of this environment is believed any more (`flush_failed`), and no flush is made again.
        """
        failed = f"{self._data}: flush failed"
        if self.flush_failed:
            raise PillarboxError(failed, hint=_FLUSH_HINT)
        try:
            self._env.sync(True)
        except lmdb.Error as error:
            translated = _translate(error, self.path)
            if isinstance(translated, Dismounted):
                raise translated from error
            self.flush_failed = True
            raise PillarboxError(f"{failed}: {error}", hint=_FLUSH_HINT) from error

    def keep(self, pin: Pin) -> None:
        """The checkpoint of `pin` is on disk: pages that only the one before needed may be used again.

        So may those that only readers needed whose process was killed.
        """
        previous, self._checkpoint_pin = self._checkpoint_pin, pin
        if previous is not None:
            previous.transaction.abort()
        with suppress(lmdb.Error):  # the next one looks again
            self._env.reader_check()

    def pages_used_and_total(self) -> tuple[int, int]:
        """Pages that hold something, from the statistics of every tree, and pages in the file."""
        used = 2
        try:
            with self._env.begin() as txn:
                for stat in [*map(txn.stat, self._handles.values()), self._env.stat()]:
                    used += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        except lmdb.Error as error:
            raise _translate(error, self.path) from error
        return used, self._data.stat().st_size // PAGE_BYTES

    def file_bytes(self) -> int:
        """Size of the file."""
        return self._data.stat().st_size

    def last_page(self) -> int:
        """Number of the highest page ever used; it grows by what the pin on a checkpoint costs."""
        try:
            return int(self._env.info()["last_pgno"])
        except lmdb.Error as error:
            raise _translate(error, self.path) from error

    def last_transaction(self) -> int:
        """LMDB's number of the last transaction that was applied."""
        try:
            return int(self._env.info()["last_txnid"])
        except lmdb.Error as error:
            raise _translate(error, self.path) from error

    def readers(self) -> list[TableReader]:
        """The reads of all processes that are open now."""
        try:
            self._env.reader_check()  # a process that was killed looks at nothing any more
            found = _READER_LINE.finditer(self._env.readers())
        except lmdb.Error as error:
            raise _translate(error, self.path) from error
        return [TableReader(int(line[1]), int(line[2])) for line in found]

    def oldest_reader(self) -> int | None:
        """The lowest LMDB transaction id any reader of any process still looks at."""
        return min((reader.transaction_id for reader in self.readers()), default=None)

    def copy_to(self, directory: Path, view: ReadView) -> None:
        """Write a compacted image of exactly what `view` shows into an empty directory."""
        try:
            self._env.copy(str(directory), compact=True, txn=view._txn)
        except lmdb.Error as error:
            raise _translate(error, self.path) from error

    def copy_pages_to(self, directory: Path) -> None:
        """Write all pages of one moment, sound or not, into an empty directory. Others go on meanwhile."""
        with self._opening:
            try:
                _copy_pages(self._env, directory, self._follow_map)
            except lmdb.Error as error:
                raise _translate(error, self.path) from error

    def forget_inherited(self) -> None:
        """Never close this in a process that was forked: LMDB would end the reads of the parent.

        Python would close it as it ends, so it is given a reference that nobody lets go.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def close(self) -> None:
        """Close the environment; views must be closed by now."""
        if self._checkpoint_pin is not None:
            self._checkpoint_pin.transaction.abort()
            self._checkpoint_pin = None
        self._env.close()


def _opened(path: Path, *, readonly: bool, **settings: Any) -> lmdb.Environment:
    """LMDB's environment, in which a transaction begins with the last state of the file.

    Who opens it alone sets the lock file up, and who opens it meanwhile waits. Killed in between, it leaves
    there that there was no transaction at all: who had waited would look at whichever meta page comes first,
    and write transaction 1 behind it. A reader has LMDB look at both pages then. Raises Retryable.
    """
    for _ in range(_OPEN_TRIES):
        env = lmdb.open(str(path), readonly=readonly, **settings)
        try:
            if readonly or _begins_with_last(env):
                return env
        except BaseException:
            env.close()  # a process may open it only once
            raise
        env.close()  # opened once more by who is alone the lock file is set up anew
    raise _read_by_others(path)


def _begins_with_last(env: lmdb.Environment) -> bool:
    with env.begin() as transaction:
        return bool(transaction.id() == env.info()["last_txnid"])


def _reserve_lock_file(path: Path) -> None:
    with _own_errors(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            preallocate(file, 0, (_READERS_MAX + 1) * _LOCK_BYTES_OF_A_READER)
        finally:
            os.close(file)


def _refuse_damaged(data: Path) -> None:
    """Raise Corrupt when LMDB's file is not there, lacks pages that it says it has, or has no meta pages.

    LMDB would make an empty one; to read a page that its mapped file does not have ends the process, and so
    may a size of pages or of the map that no program has given it.
    """
    with _own_errors(data), data.open("rb") as file:
        meta = file.read(META_BYTES)
        size_bytes = file.seek(0, 2)
    if len(meta) < META_BYTES:
        raise Corrupt(f"{data}: the file is cut short", file=str(data), offset=size_bytes)
    for page in (0, PAGE_BYTES):
        magic, version, _, map_bytes, page_bytes, last_page, _ = _META.unpack_from(meta, page + _META_AT)
        is_map = (last_page + 1) * PAGE_BYTES <= map_bytes <= _MAP_BYTES_MAX
        if (magic, version, page_bytes) != (_MAGIC, _VERSION, PAGE_BYTES) or not is_map:
            raise Corrupt(f"{data}: page {page // PAGE_BYTES} is no meta page", file=str(data), offset=page)
        if (last_page + 1) * PAGE_BYTES > size_bytes:
            raise Corrupt(f"{data}: the file is cut short", file=str(data), offset=size_bytes)


def refuse_other_processes(path: Path) -> None:
    """Raise Retryable when another process has the environment open: LMDB locks a byte while it has."""
    lock = path / LOCK_FILE
    if lock.exists():
        with _own_errors(lock), lock.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            except (BlockingIOError, PermissionError) as error:
                raise _read_by_others(path) from error


def _read_by_others(path: Path) -> Retryable:
    return Retryable(
        f"{path}: another process still reads the tables, which must be exchanged",
        hint="mount the database again once that process has ended",
    )


def put_back_meta_pages(path: Path, pages: bytes) -> None:
    """Rewind an environment that nobody has open to the checkpoint `pages` belong to.

    Raises Retryable when a process has it open, Corrupt when its file is not there, or a disk error.
    """
    refuse_other_processes(path)
    data = path / DATA_FILE
    with _own_errors(data), data.open("r+b") as file:
        if os.pwrite(file.fileno(), pages, 0) != len(pages):
            raise DiskFull(f"{path}: the checkpoint's meta pages could not be written back")
        os.fsync(file.fileno())


def meta_pages_of(path: Path) -> bytes:
    """The meta pages in the file of an environment that nobody writes. Raises OSError."""
    with (path / DATA_FILE).open("rb") as file:
        return file.read(META_BYTES)


def transaction_id_of(meta_pages: bytes) -> int:
    """LMDB's number of the transaction that made the state of two meta pages."""
    return max(int.from_bytes(meta_pages[page + _TRANSACTION_AT :][:8], "little") for page in (0, PAGE_BYTES))


def _copy_pages(env: lmdb.Environment, directory: Path, follow_map: Callable[[], None]) -> None:
    try:
        env.copy(str(directory), compact=False)
    except lmdb.MapResizedError:
        follow_map()
        env.copy(str(directory), compact=False)


def copy_pages_in_use(path: Path, directory: Path) -> None:
    """`Env.copy_pages_to` of an environment that another process has open, and this one has not.

    No tree is looked at. Raises Corrupt, Retryable, DiskFull.
    """
    _refuse_damaged(path / DATA_FILE)
    try:
        with lmdb.open(str(path), readonly=True, create=False, max_readers=_READERS_MAX) as env:
            _copy_pages(env, directory, lambda: env.set_mapsize(0))
    except lmdb.Error as error:
        raise _translate(error, path) from error


def copy_compacted(path: Path, target: Path) -> None:
    """Write an environment that nobody has open into an empty directory, without its free pages.

    Raises Corrupt when the copy has not as many rows; DiskFull. A bent page ends the process.
    """
    try:
        with _unlocked(path) as source:
            source.copy(str(target), compact=True)
            counts = _row_counts(source)
        with _unlocked(target) as copy:
            if _row_counts(copy) != counts:
                raise Corrupt(f"{target / DATA_FILE}: the copy lacks rows", file=str(path / DATA_FILE))
    except lmdb.Error as error:
        raise _translate(error, path) from error


def _unlocked(path: Path) -> lmdb.Environment:
    """Open without LMDB's lock file, for who alone has the environment: closing it would let go of locks."""
    return lmdb.open(
        str(path), readonly=True, lock=False, create=False, max_dbs=len(Table) + 4, readahead=False
    )


def _row_counts(env: lmdb.Environment) -> list[int]:
    counts = [int(env.stat()["entries"])]
    for name in NAMES.values():
        with suppress(lmdb.NotFoundError):
            handle = env.open_db(name, create=False)
            with env.begin() as txn:
                counts.append(int(txn.stat(handle)["entries"]))
    return counts


@contextmanager
def _own_errors(data: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Corrupt(f"{data} is missing", file=str(data)) from error
    except OSError as error:
        raise disk_error(error, str(data)) from error


@contextmanager
def scratch_env(path: Path) -> Iterator[Env]:
    """A new environment at `path`, for rebuilding."""
    env = Env(path, create=True)
    try:
        yield env
    finally:
        env.close()
