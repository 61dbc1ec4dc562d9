"""Group commit: the one writer of a mounted database, and what "acknowledged" means.

A transaction runs alone, but not until it is durable: at its commit it joins the group that waits, and the
next may begin. One of those that wait writes the whole group to the stream and puts it into the tables, makes
one flush, commits the tables, and wakes the others. A commit returns when its group is flushed and applied:
durable, and seen by every read that begins later (docs/architecture.md, "How a commit goes").

Locks, in the order they are taken: `_checkpoint_wanted`, leadership (`_flushing` under `_turns`), `_writing`,
`_checkpointing`. Whoever holds `_writing` may change what is pending; whoever leads may touch the stream and
apply to the tables. Making a checkpoint needs neither, so waiting for one under both is no deadlock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.clock import Clock
from pillarbox.store.disk.env import Env, MapFull, Pin
from pillarbox.store.disk.redo import build_redo
from pillarbox.store.disk.stream import SEGMENT_BYTES_DEFAULT, SEGMENT_HEADER_BYTES, Position, Stream
from pillarbox.store.disk.tables import STATE_KEY, StateRecord, Table, decode_record
from pillarbox.store.engine.replay import read_state
from pillarbox.store.engine.transaction import DatabaseFiles, Layer, WriteTransaction
from pillarbox.store.errors import DiskFull, Dismounted, PillarboxError, Refused, Retryable

_GROW_PATIENCE_S: Final = 30.0
# Every delivery changes one of each.
_RECENT_TABLES: Final = (Table.MAILBOX, Table.FOLDER, Table.SEGMENT)
_RECENT_MAX: Final = 64
_FREE_GROWTHS_MAX: Final = 8
# Commits wait for a checkpoint that is being made once so many would be due.
_BEHIND: Final = 4


class Tuning(NamedTuple):
    """When segments and checkpoints begin: sizes in bytes, pages of 4096 bytes, times in ms.

    `checkpoint_beside` has a checkpoint that comes due made by a thread of its own while commits go on;
    otherwise the commit that finds it due makes it.
    """

    segment_bytes: int = SEGMENT_BYTES_DEFAULT
    checkpoint_stream_bytes: int = 64 << 20
    checkpoint_pages: int = 1024
    checkpoint_interval_ms: int = 300_000
    checkpoint_beside: bool = True


class FlushedState(NamedTuple):
    """A state that is in the stream and in the tables."""

    sequence: int
    position: Position


class _Group(Layer):
    """Transactions that are flushed together. `turn` wakes those that wait for it, and nobody else."""

    def __init__(self, first_sequence: int, turns: threading.Lock) -> None:
        super().__init__()
        self.turn = threading.Condition(turns)
        self.first_sequence = first_sequence
        self.last_sequence = first_sequence - 1
        self.chunks: list[tuple[Position, list[bytes]]] = []
        self.end = Position(0, 0)
        self.is_flushed = False
        self.done = False
        self.error: PillarboxError | None = None


class GroupCommit:
    """The writer of one database. Any thread may begin a transaction; they take turns."""

    def __init__(
        self,
        files: DatabaseFiles,
        stream: Stream,
        state: StateRecord,
        position: Position,
        *,
        clock: Clock,
        tuning: Tuning,
        checkpoint: Callable[[Pin, FlushedState], None],
        checkpoint_failed: Callable[[PillarboxError], None],
    ) -> None:
        """`checkpoint` makes a pinned state the one that replay starts from; `checkpoint_failed` is told when
        one that came due by itself could not be made. `broken` is what ended all writing, or None."""
        self._files = files
        self._stream = stream
        self._state = state
        self._end = position
        self._clock = clock
        self._tuning = tuning
        self._checkpoint = checkpoint
        self._checkpoint_failed = checkpoint_failed
        self._writing = threading.Lock()
        self._writer: int | None = None
        self._open: WriteTransaction | None = None
        self._turns = threading.Lock()
        self._pause_turn = threading.Condition(self._turns)
        self._flushing = False
        self._pending = _Group(state.sequence + 1, self._turns)
        self._in_flight: _Group | None = None
        self._recent = Layer()
        self._flushed = FlushedState(state.sequence, position)
        self._flushed_state = state
        self.broken: PillarboxError | None = None
        self._checkpoint_wanted = threading.Lock()
        self._checkpointing = threading.Lock()
        self._checkpoint_due = _CheckpointDue(tuning, files.env, clock)
        self._checkpoint_due.made(position)

    # -- transactions

    def refuse_within_transaction(self) -> None:
        """Raise Refused when this thread has a transaction open: it would wait for itself."""
        if self._writer == threading.get_ident():
            raise Refused("this thread has a transaction open already", hint="end it first: they do not nest")

    def begin(self, actor: Actor) -> WriteTransaction:
        """A transaction of this thread's, when it is its turn. Raises Dismounted; Refused within another.

        Whatever happens, call `abort` or `commit` from the same thread.
        """
        self.refuse_within_transaction()
        self._writing.acquire()
        self._writer = threading.get_ident()
        self._refuse_if_broken()
        self._open = WriteTransaction(
            self._files, actor, self._layers(), self._state, self._next_position(), self._clock.now_ms()
        )
        return self._open

    def abort(self, transaction: WriteTransaction | None = None) -> None:
        """Forget a transaction, whoever began it, or this thread's, if it is open. Nothing was written."""
        is_open = transaction is not None and self._open is transaction
        if is_open or self._writer == threading.get_ident():
            try:
                self._read_again()
            finally:
                self._end_turn()

    def _read_again(self) -> None:
        """A transaction that failed may have changed what is in the records that it was given."""
        self._recent.records.clear()
        for layer in filter(None, (self._pending, self._in_flight)):
            for table, records in layer.records.items():
                for key, record in records.items():
                    value = layer.changes[table][key]
                    if record is not None and value is not None:
                        records[key] = decode_record(table, key, value)

    def commit(self, transaction: WriteTransaction) -> None:
        """Make a transaction durable and visible. Raises what kept it from that; then it did not happen.

        One that changed nothing waits for what it saw. After Dismounted alone it may have happened: the next
        mount tells.
        """
        try:
            self._refuse_if_broken()
            if transaction.changed:
                # What it saw is in the group that waits, or was flushed before that is.
                group: _Group | None = self._enqueue(transaction)
            else:
                group = self._pending if self._pending.chunks else self._in_flight
        except BaseException:
            if self.broken is None:
                self._read_again()
            raise
        finally:
            self._end_turn()
        if group is not None:
            self._wait_for(group)

    def _layers(self) -> list[Layer]:
        """What is committed and not applied, the newest first, and then what was applied last."""
        groups: tuple[Layer | None, ...] = (self._pending, self._in_flight, self._recent)
        return [each for each in groups if each is not None and each.records]

    def _next_position(self) -> Position:
        if self._end.offset < self._tuning.segment_bytes:
            return self._end
        return Position(self._end.segment + 1, SEGMENT_HEADER_BYTES)

    def _enqueue(self, transaction: WriteTransaction) -> _Group:
        group = self._pending
        rows, records, changes = transaction.finish()
        state = transaction.state()
        frames = transaction.frames
        redo = build_redo(rows, state.sequence, group.first_sequence, len(frames))
        position = transaction.position
        start = Position(position.segment, position.offset - sum(map(len, frames)))
        end = Position(position.segment, position.offset + len(redo))
        try:
            group.chunks.append((start, [*frames, redo]))
            group.take(records, changes)
            group.placed.update(transaction.placed)
            group.last_sequence = state.sequence
            self._state = state
            self._end = group.end = end
        except BaseException as error:
            self._break(error)  # half of it may be in the group
            raise
        return group

    def _end_turn(self) -> None:
        try:
            if self._open is not None:
                self._open.close()
        finally:
            self._open = None
            self._writer = None
            self._writing.release()

    def _refuse_if_broken(self) -> None:
        """A database that was dismounted says so itself; a failed write is told with its cause."""
        if isinstance(self.broken, Dismounted):
            raise self.broken
        if self.broken is not None:
            raise Dismounted(f"the database takes no more changes: {self.broken}", hint=self.broken.hint)

    def _break(self, error: BaseException) -> None:
        """Let nothing more be written: a thread was interrupted, and how far it came nobody knows."""
        self.broken = Dismounted(
            f"a write was interrupted: {error!r}", hint="mount the database again: it tells what happened"
        )

    # -- flushing

    def _wait_for(self, group: _Group) -> None:
        leads = False
        try:
            with self._turns:
                while not group.done and self._flushing:
                    _wait(group.turn)
                leads = not group.done
                self._flushing = self._flushing or leads
            if leads:
                self._flush(self._writing)  # others may begin transactions meanwhile
        finally:
            if leads:
                self._end_lead()
        if group.error is not None:
            raise group.error
        if leads:
            self.checkpoint_if_due()

    def _end_lead(self) -> None:
        """Let the next lead: who wants to pause, or one of those that wait for the next group."""
        with self._turns:
            self._flushing = False
            self._pause_turn.notify()
            self._pending.turn.notify()

    def _take_pending(self) -> _Group:
        group = self._in_flight = self._pending
        self._pending = _Group(group.last_sequence + 1, self._turns)
        return group

    def _done(self, group: _Group, error: PillarboxError | None = None) -> None:
        with self._turns:
            group.error = error
            group.done = True
            group.turn.notify_all()

    def _flush(self, writing: AbstractContextManager[object]) -> None:
        """Write and apply the group that waits. `writing` is to be held when that changes what is pending."""
        group: _Group | None = None
        try:
            with writing:
                group = self._take_pending()
            error = self._stored(group)
            with writing:
                if error is None:
                    self._publish(group)
                else:
                    self._fail(group, error)
            self._done(group, error)
        except BaseException as error:
            if group is not None or self._in_flight is not None:
                self._break(error)
                # Nobody goes on from here, so what waits may be ended without waiting for a turn.
                for each in (group, self._in_flight, self._pending):
                    if each is not None:
                        self._done(each, self.broken)
            raise

    def _stored(self, group: _Group) -> PillarboxError | None:
        """Store a group; what kept it from that."""
        try:
            self._refuse_if_broken()
            self._store(group)
        except PillarboxError as error:
            return error
        return None

    def _publish(self, group: _Group) -> None:
        self._remember(group)
        self._flushed = FlushedState(group.last_sequence, group.end)
        self._flushed_state = self._state_of(group)
        self._in_flight = None

    def _remember(self, group: _Group) -> None:
        """Keep the records that the next transaction changes again: it need not decode them."""
        for table in _RECENT_TABLES:
            if len(self._recent.records[table]) > _RECENT_MAX:
                del self._recent.records[table]  # a transaction may be looking at these rows
            self._recent.records[table].update(group.records.get(table, ()))

    @staticmethod
    def _state_of(group: _Group) -> StateRecord:
        state = group.records[Table.META][STATE_KEY]
        assert isinstance(state, StateRecord)
        return state

    def _store(self, group: _Group) -> None:
        """Put a group into the stream and the tables, which show it only once the stream is flushed."""
        try:
            self._append(group)
            self._put_into_tables(group)
        except PillarboxError as error:
            if group.is_flushed and not self._tables_lack(group):
                self.broken = error
                raise Dismounted(
                    f"it is durable but cannot be shown before the next mount: {error}", hint=error.hint
                ) from error
            # Cut off from the stream, it never happened.
            self._cut_back()
            # On a full disk there may be space for less. Anything else leaves what nobody knows: a flush that
            # failed must not be made again as if nothing had happened. Said only now: who dismounts a broken
            # database does not wait, and a mount that follows must find nothing left to be cut.
            if not isinstance(error, DiskFull):
                self.broken = error
            raise

    def _append(self, group: _Group) -> None:
        # Without content it deletes, as a rule: on a full disk that must not be refused first.
        adds_content = any(len(frames) > 1 for _, frames in group.chunks)
        for start, chunks in _runs(group.chunks):
            self._stream.append(start, chunks, to_the_last=not adds_content)

    def _put_into_tables(self, group: _Group) -> None:
        """Put a group, flush the stream and commit, doubling the map of the tables as often as it needs.

        On a full disk a checkpoint makes room in the tables' file once.
        """

        def flush() -> None:
            self._stream.flush()
            group.is_flushed = True

        freed = False
        while True:
            try:
                self._files.env.apply(group.changes, before_commit=flush)
                return
            except MapFull:
                self._grow()
            except DiskFull as full:
                if freed:
                    raise
                # Pages that only the last checkpoint needs become free with another one.
                try:
                    with self._checkpointing:
                        self._make_checkpoint(self._files.env.pin(), self._flushed)
                except PillarboxError as error:
                    if self.broken is not None:
                        raise
                    raise full from error
                freed = True

    def _cut_back(self) -> None:
        """Remove what is behind the last flushed transaction, so that no mount takes it for one."""
        try:
            self._stream.truncate(self._flushed.position)
        except PillarboxError as error:
            self.broken = error

    def _tables_lack(self, group: _Group) -> bool:
        """Whether the tables certainly took nothing of a group."""
        try:
            return read_state(self._files.env).sequence < group.first_sequence
        except PillarboxError:
            return False

    def _grow(self) -> None:
        with self._checkpointing:
            self._make_checkpoint(self._files.env.pin(), self._flushed)
            self._files.env.grow(_GROW_PATIENCE_S)

    def _fail(self, group: _Group, error: PillarboxError) -> None:
        """All that waits stood on what failed, so it fails too; then go on from what is flushed."""
        self._done(self._pending, error)
        self._in_flight = None
        self._state, self._end = self._flushed_state, self._flushed.position
        self._pending = _Group(self._state.sequence + 1, self._turns)

    # -- pausing and checkpoints

    @contextmanager
    def paused(self, timeout_ms: int | None = None) -> Iterator[FlushedState]:
        """Hold all writes for a `with` block; all that was committed before is flushed and applied.

        Raises Dismounted; Refused within a transaction of this thread's; Retryable when a transaction stays
        open for longer than `timeout_ms`, if given.
        """
        with self._held(timeout_ms):
            self._refuse_if_broken()
            yield self._flushed

    @contextmanager
    def _held(self, timeout_ms: int | None = None) -> Iterator[None]:
        """Hold all writes; what waits is flushed before. Whoever committed that is told how it went."""
        self.refuse_within_transaction()
        started_ms = self._clock.monotonic_ms()

        def left_s() -> float:
            if timeout_ms is None:
                return threading.TIMEOUT_MAX
            return max(0, started_ms + timeout_ms - self._clock.monotonic_ms()) / 1000

        leads = False
        try:
            with self._turns:
                while self._flushing:
                    if not _wait(self._pause_turn, left_s()):
                        raise _not_paused(timeout_ms)
                leads = self._flushing = True
            if not self._writing.acquire(timeout=left_s()):
                raise _not_paused(timeout_ms)
            try:
                if self._pending.chunks:
                    self._flush(nullcontext())
                yield
            finally:
                self._writing.release()
        finally:
            if leads:
                self._end_lead()

    @contextmanager
    def ended(self, reason: PillarboxError) -> Iterator[FlushedState | None]:
        """Let every transaction have `reason` from now on; for the `with` block nothing else is under way.

        Gives the state that is flushed, None when writing had ended already. Until the block is entered
        nothing has changed, also when the wait for it is interrupted. Raises Refused within a transaction of
        this thread's.
        """
        with self._held(), self._checkpointing:
            flushed = None if self.broken is not None else self._flushed
            self.broken = self.broken or reason
            yield flushed

    def checkpoint_if_due(self) -> None:
        """Have a checkpoint made when enough was written or time has passed, unless somebody is at it.

        Raises nothing: what was committed is durable without it.
        """
        if not self._is_due():
            return
        if not self._checkpoint_wanted.acquire(blocking=False):
            if self._is_due(_BEHIND):
                with self._checkpoint_wanted:  # a slow disk holds the writers up, or the tables' file grows
                    return
            return
        if self._tuning.checkpoint_beside:
            with suppress(RuntimeError):  # no more threads can be had
                threading.Thread(target=self._make_due_checkpoint, name="pillarbox-checkpoint").start()
                return
        self._make_due_checkpoint()

    def _is_due(self, times: int = 1) -> bool:
        try:
            return self._checkpoint_due.is_due(self._end, times)
        except Dismounted:  # by another thread, since the commit; that made a checkpoint of its own
            return False

    def _make_due_checkpoint(self) -> None:
        """Make a checkpoint unless one was made meanwhile, and let the next be wanted."""
        error: PillarboxError | None = None
        try:
            if self._is_due():
                self._checkpoint_now()
        except Dismounted:
            return
        except PillarboxError as failed:
            with suppress(PillarboxError):  # dismounted since then, or as many reads open as there can be
                self._checkpoint_due.made(self._end)
            error = failed
        finally:
            self._checkpoint_wanted.release()
        if error is not None:
            self._checkpoint_failed(error)

    def checkpoint(self) -> None:
        """Flush the tables, so that the next mount starts from here. Writes go on meanwhile.

        Raises DiskFull or PillarboxError: the checkpoint before then stays.
        """
        with self._checkpoint_wanted:
            self._checkpoint_now()

    def _checkpoint_now(self) -> None:
        # Whoever else holds `_checkpointing` leads, so writes pause for the pin only, never for a flush.
        with self.paused() as flushed:
            self._checkpointing.acquire()
            try:
                pin = self._files.env.pin()
            except BaseException:
                self._checkpointing.release()
                raise
        try:
            self._make_checkpoint(pin, flushed)
        finally:
            self._checkpointing.release()

    def _make_checkpoint(self, pin: Pin, flushed: FlushedState) -> None:
        try:
            self._checkpoint(pin, flushed)
        except BaseException as error:
            pin.transaction.abort()
            if self._files.env.flush_failed and isinstance(error, PillarboxError):
                self.broken = self.broken or error
            raise
        self._checkpoint_due.made(flushed.position)


class _CheckpointDue:
    """How much has happened since the last checkpoint."""

    def __init__(self, tuning: Tuning, env: Env, clock: Clock) -> None:
        self._tuning = tuning
        self._env = env
        self._clock = clock

    def made(self, position: Position) -> None:
        """A checkpoint was made, or could not be."""
        self._position = position
        self._at_ms = self._clock.monotonic_ms()
        self._last_page = self._env.last_page()
        # Pages freed since a checkpoint wait for the next one, and the file grows in their place. A large
        # file may grow by more, since a checkpoint costs in proportion to the pages written; with enough
        # free pages in it already, these are used up and the next checkpoint is made.
        used, _ = self._env.pages_used_and_total()
        self._pages = max(self._tuning.checkpoint_pages, used // 8)
        free_pages_max = _FREE_GROWTHS_MAX * self._pages
        free_pages = self._last_page - used
        self._grows_by = max(1, min(self._pages, free_pages_max - free_pages))
        # Commits go on while a checkpoint is made, and the file grows by them: by less the more is free in
        # it already.
        self._behind_pages = max(1, min(self._pages, (2 * free_pages_max - free_pages) // _BEHIND))

    def is_due(self, end: Position, times: int) -> bool:
        """Whether `times` as much has happened as makes the next one due.

        Only asked after commits, so never without a change.
        """
        segments = end.segment - self._position.segment
        stream_bytes = segments * self._tuning.segment_bytes + end.offset - self._position.offset
        return (
            stream_bytes >= times * self._tuning.checkpoint_stream_bytes
            # Of many free pages the last being used up makes one due: that is no sign of being far behind.
            or self._env.last_page() - self._last_page >= self._grows_by + (times - 1) * self._behind_pages
            or self._clock.monotonic_ms() - self._at_ms >= times * self._tuning.checkpoint_interval_ms
        )


def _wait(turn: threading.Condition, timeout_s: float | None = None) -> bool:
    """Whether it came to be this thread's turn within the time."""
    try:
        if turn.wait(timeout_s):
            return True
    except BaseException:
        turn.notify()  # it may have been this thread that was to lead
        raise
    turn.notify()  # as above
    return False


def _not_paused(timeout_ms: int | None) -> Retryable:
    return Retryable(
        f"changes could not be paused within {timeout_ms} ms: a transaction is still open",
        hint="try again once it has ended",
    )


def _runs(chunks: list[tuple[Position, list[bytes]]]) -> Iterator[tuple[Position, list[bytes]]]:
    """Frames that follow one another as one run each; a new segment begins a new run."""
    start: Position | None = None
    run: list[bytes] = []
    for position, frames in chunks:
        if start is not None and position.segment != start.segment:
            yield start, run
            start, run = None, []
        if start is None:
            start = position
        run += frames
    if start is not None:
        yield start, run
