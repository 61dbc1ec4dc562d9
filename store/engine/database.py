"""A database: one mailbox store or public folder store; mount, dismount, and who may do what with its files.

    <database>/properties/      LMDB: records and indexes
    <database>/stream/          segments: content and redo records
    <database>/checkpoint       where replay starts
    <database>/lock             held by the process that writes

One process mounts it for writing; any number read meanwhile (`read_only`). Mounting for writing after a crash
replays the stream; nothing else needs to be done (docs/format.md, "Crash table").
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from pillarbox.store.access import Actor
from pillarbox.store.arguments import PathLike, as_path, check_kind
from pillarbox.store.clock import Clock, SystemClock
from pillarbox.store.content.blocks import Dictionaries
from pillarbox.store.disk import death_mark
from pillarbox.store.disk.checkpoint import (
    Checkpoint,
    boot_identity,
    doubt_tables,
    read_checkpoint,
    refuse_newer_program,
    write_checkpoint,
)
from pillarbox.store.disk.env import Env, meta_pages_of, put_back_meta_pages, refuse_other_processes
from pillarbox.store.disk.file_lock import PASSING, FileLock, Opening, is_held_to_write, is_locked
from pillarbox.store.disk.mailbox_names import MailboxNames
from pillarbox.store.disk.page_sums import PageSums
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, Position, Stream, disk_error, flush_directory
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    LAYOUT_VERSION,
    STATE_KEY,
    DatabaseKind,
    IdentityRecord,
    StateRecord,
    Table,
    encode_record,
    refuse_unknown_layout,
    segment_key,
)
from pillarbox.store.engine.changes import SMALL_BYTES_MAX, Change
from pillarbox.store.engine.checkpointer import (
    Checkpointer,
    FlushedState,
    Tuning,
    flush_tables,
    write_clean_checkpoint,
)
from pillarbox.store.engine.commit_notification import CommitNotification
from pillarbox.store.engine.database_limits import (
    DatabaseLimits,
    Edition,
    limits_from_settings,
)
from pillarbox.store.engine.disk_floor import DiskFloor
from pillarbox.store.engine.held_space import GrowthWatch, is_mostly_free
from pillarbox.store.engine.removal import Remover, give_up_copies, has_copies, pending
from pillarbox.store.engine.replay import Replayed, find_transaction, read_state, replay_stream
from pillarbox.store.engine.tables_compaction import Compaction, end_interrupted_compaction
from pillarbox.store.engine.tables_proof import refuse_bent_pages, refuse_changed_tables, sequence_reached
from pillarbox.store.engine.transaction import (
    DatabaseFiles,
    NamedMailboxes,
    ReadTransaction,
    WriteTransaction,
)
from pillarbox.store.engine.transaction_blocks import PauseBlock, PreparingBlock, TransactionBlock
from pillarbox.store.engine.uninterrupted import Uninterrupted
from pillarbox.store.engine.upgrade import upgrade
from pillarbox.store.engine.writer import Writer
from pillarbox.store.errors import (
    AlreadyExists,
    Corrupt,
    Dismounted,
    NotFound,
    PillarboxError,
    ReadOnly,
    RecoveryNeeded,
    Refused,
    Retryable,
    UnsupportedVersion,
)
from pillarbox.store.events import EventId, Reporter, make_event
from pillarbox.store.ids import guid_text

PROPERTIES: Final = "properties"
STREAM: Final = "stream"
LOCK: Final = "lock"
FIRST_POSITION: Final = Position(1, SEGMENT_HEADER_BYTES)
# Many of this size at once take less memory than the threads that bring them.
_LARGE_BYTES: Final = 1 << 20
_PROOF_TRIES: Final = 10

ResultT = TypeVar("ResultT")
PreparedT = TypeVar("PreparedT")


class MountState(Enum):
    """The ways in which a database is mounted, or is not."""

    DISMOUNTED = "dismounted"
    MOUNTED = "mounted"
    READ_ONLY = "mounted read-only"


class NoReporter:
    """Takes no notice of events."""

    def report(self, event: object) -> None:
        """Do nothing."""


def empty_tables(env: Env) -> None:
    """Make new tables those of a database before its first transaction."""
    state = StateRecord(sequence=0, counter=0, content_bytes=0, live_bytes=0, checked_ms=0)
    value = encode_record(Table.META, STATE_KEY, state)
    env.apply({Table.META: {STATE_KEY: value}})


_DATABASES: Final[weakref.WeakSet[Database]] = weakref.WeakSet()
_INHERITED: Final[set[Path]] = set()  # databases that the process which this one was forked from had open


def _forget_in_child() -> None:
    for database in list(_DATABASES):
        database.forget_inherited()


os.register_at_fork(after_in_child=_forget_in_child)


@atexit.register
def _end_writers() -> None:
    """The interpreter stops threads wherever they are: let none be inside LMDB or half through a write."""
    for database in list(_DATABASES):
        database.end_at_exit()


def _refuse_no_actor(actor: object) -> None:
    check_kind(actor, "actor", Actor, "who asks, such as `Actor.user(account)`")


class Database:
    """One database of a server. Its methods may be called from any thread.

    `label` is what people find it by and events call it: its name, or `Storage Group/Database` where another
    group of its server has a database of that name.
    `mailbox_names` is where a server has the names of its mailboxes for the time when it is not mounted.
    A process that is forked has none of its parent's mounted, and cannot mount those: LMDB does not survive a
    fork. A process that is started anew mounts what it needs, for reading as a rule.
    """

    def __init__(
        self,
        path: PathLike,
        guid: bytes,
        name: str,
        kind: DatabaseKind,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        reporter: Reporter | None = None,
        limits: DatabaseLimits | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        """Nothing is opened before `mount`. Without `rng` GUIDs come from the system's random source."""
        self.path = as_path(path, "path")
        self.guid = guid
        self.name = self.label = name
        self.kind = kind
        self.limits = limits or limits_from_settings({}, Edition.STANDARD).limits
        self.clock: Clock = clock or SystemClock()
        self.rng = rng or random.SystemRandom()
        self.reporter: Reporter = reporter or NoReporter()
        self.tuning = tuning or Tuning()
        self.mailbox_names: MailboxNames | None = None
        self.state = MountState.DISMOUNTED
        self.dismount_reason = "nobody has mounted it"
        self._mounting = threading.RLock()
        self._uninterrupted = Uninterrupted()
        self._lock: FileLock | None = None
        self._is_passing = False
        self._stream = Stream(self.path / STREAM, guid)
        self._files: DatabaseFiles | None = None
        self._writer: Writer | None = None
        self._notification: CommitNotification | None = None
        self._remover = Remover(self.transaction, self.clock)
        self._tables_doubted = False
        self._disk_floor = DiskFloor(self.path, self.clock)
        _DATABASES.add(self)

    def __repr__(self) -> str:
        return f"<Database {self.label!r}, {self.kind.name.lower().replace('_', ' ')}, {self.state.value}>"

    def forget_inherited(self) -> None:
        """Be dismounted in a process that was forked, and leave what is the parent's. Not for callers."""
        if self._files is not None:
            _INHERITED.add(self.path.resolve())
        if self.state is not MountState.DISMOUNTED:
            self.dismount_reason = "the process that this one was forked from has it"
        if self._writer is not None:
            self._writer.forget_inherited(self._not_mounted())
        if self._files is not None:
            self._files.env.forget_inherited()
        if self._lock is not None:
            self._lock.forget_inherited()
        self.state = MountState.DISMOUNTED
        self._files = self._writer = self._lock = self._notification = None
        self._mounting = threading.RLock()
        self._uninterrupted = Uninterrupted()
        self._remover = Remover(self.transaction, self.clock)
        self._stream = Stream(self.path / STREAM, self.guid)

    # -- creating

    def create(self) -> None:
        """Make the files of a new, empty database; complete or not at all. Raises AlreadyExists, DiskFull."""
        self._uninterrupted(self._create)

    def _create(self) -> None:
        if self.path.exists():
            raise AlreadyExists(f"{self.path} exists already")
        new = self.path.with_name(self.path.name + ".new")
        try:
            shutil.rmtree(new, ignore_errors=True)
            (new / STREAM).mkdir(parents=True)
        except OSError as error:
            raise disk_error(error, str(new)) from error
        env = Env(new / PROPERTIES, create=True)
        try:
            empty_tables(env)
            pin = env.pin()
            env.sync()
            first = FlushedState(0, FIRST_POSITION)
            write_clean_checkpoint(new, self.guid, env, pin.meta_pages, first)
            pin.transaction.abort()
        finally:
            env.close()
        try:
            for directory in (new / PROPERTIES, new):
                flush_directory(directory)
            new.rename(self.path)
            flush_directory(self.path.parent)
        except OSError as error:
            raise disk_error(error, str(self.path)) from error
        self.mount()
        self.dismount()

    def _identify(self, writer: Writer, files: DatabaseFiles) -> None:
        """Take the last steps of `create`; a mount takes them for a `create` that was interrupted."""
        with ReadTransaction(files, files.env.view(), Actor.task("mount")) as read:
            if read.record(Table.META, IDENTITY_KEY) is not None:
                return
        with TransactionBlock(writer, Actor.task("setup"), self) as txn:
            identity = IdentityRecord(
                layout_version=LAYOUT_VERSION,
                guid=self.guid,
                kind=self.kind,
                created_ms=txn.now_ms,
                roots={},
            )
            txn.insert(Table.META, IDENTITY_KEY, identity)

    # -- mounting

    def mount(self, *, read_only: bool = False, wait_ms: int = 0) -> None:
        """Open the database; after a crash this replays what the tables lack. Mounted already: nothing.

        `read_only` needs no lock and works beside a process that writes. Raises NotFound, WriterBusy,
        RecoveryNeeded (read-only and the last writer crashed), Corrupt, UnsupportedVersion, DiskFull; and
        PillarboxError for files that may not be read and other errors of the system. Interrupted, it goes on.
        """
        self._uninterrupted(lambda: self._mount(read_only, wait_ms))

    def recover(self, *, wait_ms: int = 0) -> None:
        """Replay what a process that was killed has left, for who only reads, and be dismounted again.

        A process that mounts the database meanwhile waits for the end of it. Raises as `mount`.
        """
        self._is_passing = True
        try:
            self.mount(wait_ms=wait_ms)
            self.dismount("its recovery is complete")
        finally:
            self._is_passing = False

    def _mount(self, read_only: bool, wait_ms: int) -> None:
        with self._mounting:
            if self.state is not MountState.DISMOUNTED:
                return
            recovered: int | None = None
            try:
                self._refuse_inherited()
                self._refuse_missing_files()
                if read_only:
                    self._mount_read_only()
                else:
                    recovered = self._mount_for_writing(wait_ms)
            except OSError as error:
                self._close()
                raise disk_error(error, str(self.path)) from error
            except BaseException:
                self._close()
                raise
            if not read_only:
                if recovered is not None:
                    self.report(EventId.RECOVERY_DONE, transactions=recovered)
                self.report(EventId.DATABASE_MOUNTED)
                self._resume_removals()

    def _give_up_copies(self, writer: Writer, files: DatabaseFiles) -> None:
        """Before anybody can begin a copy: whoever had begun one is gone."""
        try:
            with ReadTransaction(files, files.env.view(), Actor.task("mount"), self._report_damage) as read:
                if not has_copies(read):
                    return
            with TransactionBlock(writer, Actor.task("mount"), self) as txn:
                give_up_copies(txn)
        except Corrupt:
            return  # reported; what was copied stays hidden until a repair

    def _resume_removals(self) -> None:
        self._remover = Remover(self.transaction, self.clock)
        try:
            with self.read(Actor.task("mount")) as read:
                is_left = pending(read)
        except Corrupt:
            return  # reported by the read; what was deleted stays hidden until a repair
        if is_left and self.tuning.remove_beside:
            self._remover.wake()

    def _refuse_inherited(self) -> None:
        if self.path.resolve() in _INHERITED:
            raise Refused(
                f"database {self.name} was open in the process that this one was forked from",
                hint="use it in a process that is started anew (multiprocessing: spawn), or in that one",
            )

    def _refuse_missing_files(self) -> None:
        properties = self.path / PROPERTIES
        if not properties.is_dir():
            if (self.path / STREAM).is_dir():
                raise Corrupt(
                    f"{properties} is missing",
                    file=str(properties),
                    hint="run `pillarbox repair`: it makes the tables anew from the stream",
                )
            raise NotFound(
                f"the files of database {self.name} are not at {self.path}",
                hint="restore it from a backup, or remove it from the server",
            )

    def _mount_read_only(self) -> None:
        with Opening(self.path / PROPERTIES, self.clock):
            checkpoint = self._read_checkpoint()
            if not checkpoint.clean and (
                checkpoint.boot != boot_identity() or not is_held_to_write(self.path / LOCK)
            ):
                raise RecoveryNeeded(
                    f"database {self.name} was not closed cleanly",
                    hint="mount it for writing once; any command that changes it does",
                )
            self._refuse_bent_pages_after_fault(checkpoint)
            if checkpoint.clean:  # else the process that writes has proved them as it mounted them
                self.prove_tables()
            death_mark.set_mark(self.path)
            env = Env(self.path / PROPERTIES, read_only=True)
        self._open_files(env)
        self.state = MountState.READ_ONLY

    def _refuse_bent_pages_after_fault(self, checkpoint: Checkpoint) -> None:
        if not death_mark.tells_of_fault(self.path) or is_locked(self.path / LOCK):
            return
        try:
            refuse_bent_pages(self.path / PROPERTIES, self.clock, self.report)
        except Corrupt:
            if not is_locked(self.path / LOCK) and self._read_checkpoint() == checkpoint:
                raise  # else another process mounts it, and has verified what changes meanwhile

    def prove_tables(self) -> None:
        """Raise Corrupt when a page of the last checkpoint's state is not as it was.

        Also beside a process that writes, which writes to none of these before the next checkpoint is there.
        Nothing is proved where a checkpoint has no sums, or they follow one another faster than the file is
        read.
        """
        for _ in range(_PROOF_TRIES):
            checkpoint = self._read_checkpoint()
            try:
                refuse_changed_tables(self.path / PROPERTIES, checkpoint)
            except Corrupt:
                if self._read_checkpoint() == checkpoint:
                    raise
                continue
            return

    def _mount_for_writing(self, wait_ms: int) -> int | None:
        """Mount, and return the number of transactions replayed after a crash, None when there was none."""
        refuse_newer_program(self.path)
        self._lock = FileLock(
            self.path / LOCK,
            f"database {self.name}",
            self.clock,
            wait_ms=wait_ms,
            word=PASSING if self._is_passing else b"",
        )
        checkpoint = self._read_checkpoint()
        end_interrupted_compaction(self.path, self.path / PROPERTIES)
        env, replayed, sums = self._open_and_replay(checkpoint)
        try:
            self._stream.truncate(replayed.end)
            if not checkpoint.clean:
                # What a killed process wrote may be in the system's memory only, its flush may have failed.
                self._stream.rewrite(checkpoint.position)
            if is_mostly_free(env, self.tuning):
                compaction = Compaction(self.path, self.path / PROPERTIES, self.guid, self.clock, self.report)
                env, sums = compaction(env, FlushedState(replayed.sequence, replayed.end)), None
            files = self._open_files(env)
            notification = CommitNotification(read_state(env).counter)
            writer = self._start_writer(files, replayed.end, notification, sums)
        except BaseException:
            self._close_env(env)  # a process may open it only once
            raise
        # Only now: a mount that fails closes what no other thread may be writing to.
        self._tables_doubted = False
        self._writer, self._notification = writer, notification
        self.state = MountState.MOUNTED
        return None if checkpoint.clean else replayed.transactions

    def _open_and_replay(self, checkpoint: Checkpoint) -> tuple[Env, Replayed, PageSums | None]:
        """The tables as they were left, with all that the stream tells behind them.

        Nobody begins to read tables that are put back to an older state before they have it all again.
        """
        properties = self.path / PROPERTIES
        with nullcontext() if checkpoint.clean else Opening(properties, self.clock, alone=True):
            env = self._open_tables(checkpoint)
            try:
                replayed, sums = self._replay(env, checkpoint)
                self._end_doubt()
                return env, replayed, sums
            except BaseException:
                self._close_env(env)  # a process may open it only once
                raise

    def _end_doubt(self) -> None:
        """Let others read tables that were put back to their checkpoint and have all again (`_go_back`)."""
        checkpoint = self._read_checkpoint()
        # Without sums the next mount would take the tables as they are, flushed or not.
        if not checkpoint.clean and checkpoint.tables_sums and checkpoint.boot != boot_identity():
            write_checkpoint(self.path, checkpoint._replace(boot=boot_identity()))

    def _keep_mailbox_names(self, files: DatabaseFiles) -> None:
        """Make the file of mailbox names say what the tables do; a fault of the file fails no mount."""
        names = self.mailbox_names
        if names is None:
            return
        try:
            with ReadTransaction(files, files.env.view(), Actor.task("mount")) as read:
                held = dict(read.indexes(Table.MAILBOX_NAME, b"", None))
        except Corrupt as error:
            self._report_damage(error)  # the file keeps every name that was acknowledged
            return
        try:
            names.replace(held)
        except PillarboxError as error:
            self.report(EventId.REQUEST_FAILED, request="mailbox names", error=str(error))
            if not isinstance(error, UnsupportedVersion):
                with suppress(PillarboxError):
                    names.forget()

    def _start_writer(
        self, files: DatabaseFiles, end: Position, notification: CommitNotification, sums: PageSums | None
    ) -> Writer:
        state = read_state(files.env)
        checkpointer = Checkpointer(
            self.path,
            self.guid,
            files.env,
            end,
            clock=self.clock,
            tuning=self.tuning,
            sums=sums,
            kept=GrowthWatch(files.env, self.tuning, self.report).checkpoint_made,
        )
        checkpointer.make(FlushedState(state.sequence, end))
        writer = Writer(
            files,
            self._stream,
            state,
            end,
            checkpointer,
            clock=self.clock,
            tuning=self.tuning,
            advanced=notification.advance,
            checkpoint_failed=self._checkpoint_failed,
            broke=self._dismount_if_broken,
        )
        try:
            self._identify(writer, files)
            before = upgrade(lambda: TransactionBlock(writer, Actor.task("mount"), self))
            if before != LAYOUT_VERSION:
                self.report(EventId.DATABASE_UPGRADED, before=before, layout=LAYOUT_VERSION)
            self._keep_mailbox_names(files)
            self._give_up_copies(writer, files)
        except BaseException:
            writer.end(self._not_mounted(), clean=False)
            raise
        return writer

    def _replay(self, env: Env, checkpoint: Checkpoint) -> tuple[Replayed, PageSums | None]:
        """Replay behind a pin: a crash meanwhile needs the checkpoint's pages once more.

        Returns the sums of the state that is pinned, too, where they are known.
        """
        pin = env.pin()
        held = read_state(env).sequence
        position = find_transaction(self._stream, checkpoint.position, checkpoint.sequence, held)
        is_ahead = pin.meta_pages != checkpoint.meta_pages
        if is_ahead:
            # The pin of the process that was killed is gone with it, so what it had applied is flushed first.
            flush_tables(self.path, env)
            pages = pin.meta_pages
            write_checkpoint(self.path, Checkpoint(self.guid, False, boot_identity(), held, position, pages))
        env.keep(pin)
        if env.lacks_tables and checkpoint.clean and checkpoint.tables_sums:
            write_checkpoint(self.path, checkpoint._replace(tables_sums=b""))
        env.make_missing_tables()
        sums = None
        if checkpoint.tables_sums and not is_ahead:
            sums = PageSums.known(checkpoint.tables_sums)
        return replay_stream(env, self._stream, position, held), sums

    def _read_checkpoint(self) -> Checkpoint:
        checkpoint = read_checkpoint(self.path)
        if checkpoint.database != self.guid:
            raise Corrupt(
                f"{self.path} holds database {guid_text(checkpoint.database)}, not {guid_text(self.guid)}",
                file=str(self.path / "checkpoint"),
            )
        return checkpoint

    def _open_tables(self, checkpoint: Checkpoint) -> Env:
        """The tables as the last writer left them, or as they were at the checkpoint."""
        path = self.path / PROPERTIES
        refuse_changed_tables(path, checkpoint)
        is_new_boot = checkpoint.boot != boot_identity()
        is_doubted = not checkpoint.clean and (is_new_boot or self._tables_doubted)
        if is_doubted:
            # After a new start of the machine only the checkpoint's pages are sure to be on disk.
            put_back_meta_pages(path, checkpoint.meta_pages)
        elif not checkpoint.clean and checkpoint.tables_sums:
            self._go_back(checkpoint)
        is_unproved = is_new_boot and not checkpoint.tables_sums
        if is_doubted or is_unproved or death_mark.tells_of_fault(self.path):
            refuse_bent_pages(path, self.clock, self.report)
        death_mark.remove_old_marks(self.path)
        death_mark.set_mark(self.path)
        return Env(path)

    def _go_back(self, checkpoint: Checkpoint) -> None:
        """Begin with the checkpoint's state, whose pages are proved, and not with what a killed process left.

        That stays where other processes read it, and where the stream lacks something that it has.
        """
        path = self.path / PROPERTIES
        if meta_pages_of(path) == checkpoint.meta_pages:
            return
        try:
            refuse_other_processes(path)
        except Retryable:
            return
        find_transaction(self._stream, checkpoint.position, checkpoint.sequence, sequence_reached(path))
        # Killed from now on, this mount leaves tables that lack what was acknowledged: nobody begins to read
        # them before the next mount has replayed it, whoever holds the lock.
        doubt_tables(self.path)
        put_back_meta_pages(path, checkpoint.meta_pages)

    def _open_files(self, env: Env) -> DatabaseFiles:
        dictionaries = Dictionaries(find=self._find_dictionary)
        files = self._files = DatabaseFiles(self.guid, env, self._stream, dictionaries, self.rng)
        with ReadTransaction(files, env.view(), Actor.task("mount")) as read:
            for key, record in read.records(Table.DICTIONARY, b"", None):
                frame = self._stream.read(record.segment, record.offset, record.length)
                dictionaries.add(int.from_bytes(key, "big"), frame.payload)
            identity = read.record(Table.META, IDENTITY_KEY)
        if identity is not None:
            refuse_unknown_layout(identity.layout_version, self.name)
        return files

    def _find_dictionary(self, number: int) -> bytes | None:
        """One that the writing process has trained since this one mounted the database."""
        with self.read(Actor.task("mount")) as read:
            record = read.record(Table.DICTIONARY, segment_key(number))
        if record is None:
            return None
        return self._stream.read(record.segment, record.offset, record.length).payload

    def _checkpoint_failed(self, error: PillarboxError) -> None:
        self.report(EventId.REQUEST_FAILED, request="checkpoint", error=str(error))

    def _dismount_if_broken(self, writer: Writer) -> None:
        """After a failed write nothing is read or written any more until a mount."""
        if writer.broken is not None:
            self._uninterrupted(lambda: self._dismount_broken(writer))

    def _dismount_broken(self, writer: Writer) -> None:
        with self._mounting:
            if writer is self._writer:
                self.report(EventId.WRITE_FAILURE_DISMOUNTED, error=str(writer.broken))
                self._dismount(f"a write failed: {writer.broken}")

    def dismount(self, reason: str = "it was dismounted") -> None:
        """Close the database; those who wait for a transaction get Dismounted. Not mounted: nothing.

        Waits for the transaction that is open; interrupted, it goes on beside the caller. Raises Refused
        within a transaction of this thread's; DiskFull or PillarboxError when the tables could not be left as
        they are: then it is dismounted nevertheless, and the next mount replays.
        """
        writer = self._writer
        if writer is not None:
            writer.refuse_within_transaction()  # another dismount may wait for that transaction already
        self._uninterrupted(lambda: self._dismount(reason))

    def _dismount(self, reason: str) -> None:
        with self._mounting:
            if self.state is MountState.DISMOUNTED:
                return
            writer = self._writer
            if writer is None:
                self._end(reason)
                return
            try:
                writer.end(Dismounted(f"database {self.name} is dismounted: {reason}"))
            finally:
                self._end(reason)
            self.report(EventId.DATABASE_DISMOUNTED)

    def end_at_exit(self) -> None:
        """Stop writing as the interpreter ends; what was acknowledged the next mount has. Not for callers."""
        writer = self._writer
        if writer is not None:
            writer.end_at_exit()

    def _end(self, reason: str) -> None:
        self.dismount_reason = reason
        self._close()

    def _close(self) -> None:
        """Close what is open. No thread may be writing."""
        self.state = MountState.DISMOUNTED
        self._remover.end()
        if self._files is not None:
            self._close_env(self._files.env)
        self._files = None
        self._writer = None
        if self._notification is not None:
            self._notification.end(self._not_mounted())
            self._notification = None
        self._stream.close()
        death_mark.remove_mark(self.path)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _close_env(self, env: Env) -> None:
        self._tables_doubted = self._tables_doubted or env.flush_failed
        env.close()

    def _mounted(self) -> DatabaseFiles:
        files = self._files
        if files is None:
            raise self._not_mounted()
        return files

    def _not_mounted(self) -> Dismounted:
        return Dismounted(
            f"database {self.name} is not mounted: {self.dismount_reason}", hint="mount it: `pillarbox mount`"
        )

    def _writing(self) -> Writer:
        writer = self._writer
        if writer is None:
            if self.state is MountState.READ_ONLY:
                raise ReadOnly(f"database {self.name} is mounted for reading only")
            raise self._not_mounted()
        return writer

    # -- transactions

    @property
    def waiting_count(self) -> int:
        """The number of transactions and deliveries that wait for the one writer; 0 when nobody may write."""
        writer = self._writer
        return 0 if writer is None else writer.waiting_count

    def read(self, actor: Actor) -> ReadTransaction:
        """A read of the database as it is now. Raises Dismounted; Retryable when too many are open.

        Damage that ends its `with` block is reported as event 20003.
        """
        _refuse_no_actor(actor)
        files = self._mounted()
        return ReadTransaction(files, files.env.view(), actor, self._report_damage)

    def _report_damage(self, error: Corrupt) -> None:
        self.report(EventId.DAMAGE_FOUND, error=str(error))

    def transaction(self, actor: Actor) -> AbstractContextManager[WriteTransaction]:
        """A transaction for a `with` block: durable and visible when the block has ended, all or nothing.

        An exception in the block undoes it all; damage is reported as event 20003. Raises Dismounted,
        ReadOnly, DiskFull, Refused within another transaction of the same thread. An interrupt undoes it,
        too, unless it was handed to the writer already: then it is made.
        """
        _refuse_no_actor(actor)
        return TransactionBlock(self._writing(), actor, self)

    def before_commit(self, txn: WriteTransaction) -> NamedMailboxes:
        """The mailboxes that lose their name, once those that get one are written down. Not for callers."""
        if self.mailbox_names is None:
            return []
        come, lost = txn.named_mailboxes()
        if come:
            self.mailbox_names.add(come)
        return lost

    def committed(self, txn: WriteTransaction, lost: NamedMailboxes) -> None:
        """Say what a transaction that is durable has changed. Not for callers."""
        if self.mailbox_names is not None and lost:
            with suppress(PillarboxError):  # a name too many, until the next mount
                self.mailbox_names.remove(lost)
        if txn.leaves_rows and self.tuning.remove_beside:
            self._remover.wake()
        for event_id, details in txn.events:
            self.report(event_id, **details)

    def failed(self, writer: Writer, error: BaseException) -> None:
        """Look at what undid a transaction. Not for callers."""
        if isinstance(error, Corrupt):
            self._report_damage(error)
        self._dismount_if_broken(writer)

    def change(
        self,
        actor: Actor,
        prepare: Callable[[], PreparedT],
        make: Callable[[WriteTransaction, PreparedT], ResultT],
        length: int,
    ) -> ResultT:
        """Return or raise what `make` does: with all it changed durable and visible, or with nothing done.

        `make` gets what `prepare` gives, and is called by the writer, in one transaction with others that
        wait, and again where another one fails. `length` is how many bytes are prepared and added: few are
        prepared by the writer, more in this thread, and of much as many at a time as 64 MB hold. `make` names
        no mailbox. Raises as `transaction`, and what `prepare` does; interrupted, it may be made.
        """
        writer = self._writing()
        writer.refuse_within_transaction()  # which the writer would wait for
        change = Change(actor, prepare, make, length)
        if length <= SMALL_BYTES_MAX:
            made = writer.change(change)
        else:
            with PreparingBlock(writer, length) if length >= _LARGE_BYTES else nullcontext():
                change.prepare()
                made = writer.change(change)
        if made.error is not None:
            self.failed(writer, made.error)
            raise made.error
        for event_id, details in made.events:
            self.report(event_id, **details)
        result: ResultT = made.result
        return result

    def wait_for_change(self, after: int, timeout_ms: int | None = None) -> int:
        """Block until a change number above `after` is durable and visible; the last one there is by then.

        Give that back to wait for the next change; 0 returns at once. After `timeout_ms`, if given, it
        returns what there is, changed or not. It is a hint: what has changed the change feed tells.
        Raises Dismounted, with the reason, also when the database is dismounted meanwhile; Refused within a
        transaction of this thread; ReadOnly: changes that another process makes are not heard of here.
        """
        check_kind(after, "after", int, "a change number: what this returned before, 0 at first")
        if timeout_ms is not None:
            check_kind(timeout_ms, "timeout_ms", int, "ms, or None to wait for as long as it takes")
        self.refuse_within_transaction()
        return self.notification.wait(after, timeout_ms, self.clock)

    @property
    def notification(self) -> CommitNotification:
        """Where it is told how far the database has advanced. Raises Dismounted, ReadOnly."""
        notification = self._notification
        if notification is None:
            self._writing()
            raise self._not_mounted()  # it is being mounted, or was just dismounted
        return notification

    def finish_removals(self) -> None:
        """Remove the rows of all that was deleted before, in batches between the transactions of others.

        Without it a thread does so. Raises as `transaction`; what is left then goes after the next mount.
        """
        self._remover.finish()

    def paused(self, timeout_ms: int | None = None) -> AbstractContextManager[FlushedState]:
        """Hold all changes for a `with` block: the freeze of a snapshot. Reads go on.

        Raises Dismounted; Retryable when a transaction stays open for longer than `timeout_ms`, if given.
        """
        return PauseBlock(self._writing(), timeout_ms)

    def seal_segment(self) -> int:
        """Let the next transaction begin a new segment of the stream; the number of the one before.

        Nothing is written to that one any more. Raises as `paused`.
        """
        writer = self._writing()
        with PauseBlock(writer, None) as flushed:
            writer.seal_segment(flushed.position.segment)
            return flushed.position.segment

    def refuse_within_transaction(self) -> None:
        """Call before this thread waits for what others change. Raises Refused, Dismounted, ReadOnly."""
        self._writing().refuse_within_transaction()

    def checkpoint(self) -> None:
        """Make the next mount after a crash start from here."""
        writer = self._writer
        if writer is not None:
            writer.refuse_within_transaction()
            try:
                writer.checkpoint()
            except PillarboxError:
                self._dismount_if_broken(writer)
                raise

    @property
    def files(self) -> DatabaseFiles:
        """The open files, for those who read content. Raises Dismounted."""
        return self._mounted()

    @property
    def stream(self) -> Stream:
        """The segments, for backup, check and compaction."""
        return self._stream

    # -- limits and events

    def refuse_below_disk_floor(self) -> None:
        """Call before a delivery. Raises DiskFull when the disk has less left than the configured floor."""
        self._disk_floor.refuse_below(self.limits, self.report)

    def report(self, event_id: int, **details: Any) -> None:
        """Give an event of this database to the reporter."""
        self.reporter.report(make_event(event_id, self.clock.now_ms(), self.label, **details))
