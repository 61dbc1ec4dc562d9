"""The writer: the one thread of a mounted database that changes its stream and tables.

Callers prepare in their own threads, change records in a transaction when it is their turn, hand over and
wait. The writer takes all that waits as a group, stores it, and tells each caller (docs/architecture.md, "How
a commit goes"). No signal interrupts it, and it waits for nothing but its inbox and the disk, so it also ends
the turns of callers that were interrupted.

The inbox takes: None, when commits or a turn's end are to be looked for; a `Watch`; a `Change`;
`_MORE_CHANGES`, when some are left for another group; `Asked` for a checkpoint; the writer's `_Ending`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.clock import Clock
from pillarbox.store.disk.stream import Position, Stream
from pillarbox.store.disk.tables import StateRecord
from pillarbox.store.engine.changes import Change, Made, Together, WaitingChanges
from pillarbox.store.engine.checkpointer import Asked, Checkpointer, FlushedState, Tuning
from pillarbox.store.engine.commits import Commits, wait_for
from pillarbox.store.engine.group_store import GroupStore
from pillarbox.store.engine.transaction import DatabaseFiles, WriteTransaction
from pillarbox.store.engine.turns import Line, Turn, Watch
from pillarbox.store.errors import Dismounted, InvalidSetting, PillarboxError, Refused, Retryable

_PREPARED_BYTES_MAX: Final = 64 << 20
# Callers come back within a tenth of a millisecond of one another when nothing else keeps them.
_NEXT_RETURN_PATIENCE_S: Final = 0.0005
_RETURN_PATIENCE_MS: Final = 2

_MORE_CHANGES: Final = object()

Inbox = SimpleQueue[Any]


class _Ending(NamedTuple):
    """Asks the writer to take no more changes, for a reason, and to leave a clean checkpoint or none."""

    reason: PillarboxError
    clean: bool
    outcome: SimpleQueue[PillarboxError | None]


class Writer:
    """The writer of one mounted database. Its public methods may be called from any thread.

    `advanced` is told the last counter of each group that is durable and visible. `checkpoint_failed` is told
    when a checkpoint that came due could not be made, `broke` once when a failed write has ended all writing,
    each in a thread of theirs.
    """

    def __init__(
        self,
        files: DatabaseFiles,
        stream: Stream,
        state: StateRecord,
        position: Position,
        checkpointer: Checkpointer,
        *,
        clock: Clock,
        tuning: Tuning,
        advanced: Callable[[int], None],
        checkpoint_failed: Callable[[PillarboxError], None],
        broke: Callable[[Writer], None],
    ) -> None:
        self._env = files.env
        self._clock = clock
        self._inbox: Inbox = SimpleQueue()
        self._line = Line()
        self._preparing = Line(_PREPARED_BYTES_MAX)
        self._holder: Turn | None = None
        self._commits = Commits(files, state, position, tuning.segment_bytes)
        self._checkpointer = checkpointer
        self._groups = GroupStore(files.env, stream, checkpointer)
        self._advanced = advanced
        self._checkpoint_failed = checkpoint_failed
        self._broke = broke
        self._is_told_broken = False
        self._changes = WaitingChanges()
        self._turn: Turn | None = None
        self._asked: list[Asked] = []
        self._ending: _Ending | None = None
        # It keeps no program from ending, and no writer that nobody refers to any more.
        own = weakref.ref(self, self._inbox.put)
        threading.Thread(target=_serve, args=(self._inbox, own), name="pillarbox-writer", daemon=True).start()

    @property
    def broken(self) -> PillarboxError | None:
        """The error that ended all writing, or None."""
        return self._groups.broken

    @property
    def waiting_count(self) -> int:
        """The number of transactions, pauses and deliveries that wait for their turn, or for the writer."""
        return max(len(self._line) - 1, 0) + len(self._changes) + self._inbox.qsize()

    # -- for callers

    def new_turn(self) -> Turn:
        """A turn for a transaction or a pause."""
        return Turn(self._inbox)

    def refuse_within_transaction(self) -> None:
        """Raise Refused when this thread has a transaction open: it would wait for itself."""
        holder = self._holder
        if holder is not None and holder.thread_id == threading.get_ident() and holder.is_held:
            raise Refused("this thread has a transaction open already", hint="end it first: they do not nest")

    def begin(self, turn: Turn, actor: Actor) -> WriteTransaction:
        """Wait for a turn and begin a transaction in it, which the end of the turn closes.

        Raises Dismounted; Refused within another transaction of this thread's.
        """
        self._take_turn(turn, None)
        self._groups.refuse_if_broken()
        transaction = self._commits.begin(actor, self._clock.now_ms())
        turn.at_end = transaction.close
        return transaction

    def commit(self, turn: Turn, transaction: WriteTransaction) -> None:
        """Hand a transaction over, end its turn, and wait until it is durable and visible.

        One that changed nothing waits for what it saw. Raises what kept it from that; then it did not happen.
        After Dismounted alone it may have: the next mount tells. Interrupted in the wait, it is made.
        """
        outcome: Asked = SimpleQueue()
        try:
            self._groups.refuse_if_broken()
            commit = self._commits.hand_over(transaction, outcome)
        finally:
            turn.end()  # which also has the writer look for the commit
        if commit is not None:
            wait_for(commit, outcome)

    def change(self, change: Change[Any]) -> Made:
        """Have a change made by the writer, and wait until it is durable and visible, or not made."""
        self._inbox.put(change)
        return change.outcome.get()

    def pause(self, turn: Turn, timeout_ms: int | None) -> FlushedState:
        """Hold all changes until the end of the turn; all committed before are durable and visible.

        Raises Dismounted; Refused within a transaction of this thread's; Retryable when a transaction stays
        open for longer than `timeout_ms`, if given.
        """
        self._take_turn(turn, timeout_ms)
        self._settle()
        self._groups.refuse_if_broken()
        return self._commits.flushed

    def seal_segment(self, segment: int) -> None:
        """Let the next transaction begin a new segment. For the thread that has paused all changes."""
        self._commits.seal(segment)

    def _settle(self) -> None:
        """Wait until all commits are made, or have failed. For the thread whose turn it is."""
        outcome: Asked = SimpleQueue()
        commit = self._commits.hand_over_nothing(outcome)
        self._inbox.put(None)
        with suppress(PillarboxError):  # their callers are told
            wait_for(commit, outcome)

    def _take_turn(self, turn: Turn, timeout_ms: int | None) -> None:
        self.refuse_within_transaction()
        turn.thread_id = threading.get_ident()
        self._line.join(turn)
        if not self._line.wait(turn, None if timeout_ms is None else timeout_ms / 1000):
            raise Retryable(
                f"changes could not be paused within {timeout_ms} ms: a transaction is still open",
                hint="try again once it has ended",
            )
        self._holder = turn

    def preparing_turn(self, length: int) -> Turn:
        """A turn for preparing and delivering `length` bytes. Wait for it with `take_preparing_turn`."""
        return Turn(self._inbox, length)

    def take_preparing_turn(self, turn: Turn) -> None:
        """Wait until all that are prepared at the same time take little enough memory."""
        self._preparing.join(turn)
        self._preparing.wait(turn)

    def checkpoint(self) -> None:
        """Flush the tables, so that the next mount starts from here. Writes go on meanwhile.

        Raises DiskFull or PillarboxError: the checkpoint before then stays.
        """
        asked: Asked = SimpleQueue()
        self._inbox.put(asked)
        error = asked.get()
        if error is not None:
            raise error.anew() from error  # others may have asked for the same checkpoint

    def end(self, reason: PillarboxError, *, clean: bool = True) -> None:
        """Let every transaction have `reason` from now on, once the one that is open has ended.

        What was handed over is made. Then nothing touches the files. `clean` leaves a checkpoint from which
        the next mount need not replay; raises what kept it from that.
        """
        turn = Turn(self._inbox)
        try:
            self._line.join(turn)
            self._line.wait(turn)
            self._end(reason, clean)
        finally:
            turn.end()

    def end_at_exit(self) -> None:
        """Make what was handed over, and nothing more: the interpreter ends."""
        self._end(Dismounted("the program ends"), clean=False)

    def _end(self, reason: PillarboxError, clean: bool) -> None:
        outcome: Asked = SimpleQueue()
        self._inbox.put(_Ending(reason, clean, outcome))
        error = outcome.get()
        if error is not None:
            raise error.anew() from error  # it may be what ended all writing

    def forget_inherited(self, reason: PillarboxError) -> None:
        """End in a process that was forked, which has no writer thread: nothing waits for one."""
        self._groups.broken = reason
        self._commits.end(reason)

    # -- the writer thread

    def serve(self, message: object) -> None:
        """Do what a message asks for, and what those behind it do."""
        try:
            self._take(message)
            self._take_waiting()
            self._store_commits()
            self._make_changes()
            self._begin_asked_checkpoint()
            self._end_if_asked()
        except BaseException as error:
            self._give_up(error)

    def _take(self, message: object) -> None:
        if isinstance(message, Change):
            self._changes.add(message)
            return
        if message is not _MORE_CHANGES:
            self._changes.expect_no_more()  # whoever asks for something else goes first
        if isinstance(message, Watch):
            if message.turn is not None:
                message.turn.end()
        elif isinstance(message, _Ending):
            self._ending = message
        elif isinstance(message, SimpleQueue):
            self._asked.append(message)

    def _take_waiting(self) -> None:
        for _ in range(self._inbox.qsize()):
            self._take(self._inbox.get_nowait())

    def _store_commits(self) -> None:
        """Store what is handed over by now.

        What is handed over meanwhile has a message of its own in the inbox: others wait there, too.
        """
        left = self._commits.waiting_count
        while left > 0 and (group := self._commits.next_group()):
            left -= len(group)
            try:
                self._groups.store(group, self._commits.flushed)
            except PillarboxError as error:
                self._commits.failed(error)
                self._tell_if_broken()
                continue
            self._commits.applied(group)
            try:
                self._checkpointer.make_if_due(self._commits.flushed, self._checkpoint_ended)
            finally:
                for commit in group:
                    commit.outcome.put(None)
                self._advanced(group[-1].state.counter)

    def _make_changes(self) -> None:
        """Make the changes that wait, once it is the writer's turn: it waits for nobody's transaction."""
        if not self._changes:
            return
        if self.broken is not None:
            self._fail_changes()
        if self._changes.are_more_expected:
            self._wait_for_returning()
        self._changes.prepare_next()  # before it is the writer's turn: others may change the database
        if not self._changes:
            return
        if self._turn is None:
            self._turn = Turn(None)
            self._line.join(self._turn)
        if self._line.blockers(self._turn):
            return  # its end is told
        self._take_waiting()
        changes = self._changes.take_group()
        self._changes.expect_return(len(changes))
        try:
            for actor in dict.fromkeys(change.actor for change in changes):
                self._make(actor, [change for change in changes if change.actor == actor])
        except BaseException as error:
            for change in changes:
                change.fail(_interrupted(error))
            raise
        finally:
            turn, self._turn = self._turn, None
            turn.end()
        self._store_commits()
        if self._changes:
            self._inbox.put(_MORE_CHANGES)

    def _wait_for_returning(self) -> None:
        """Let callers who were told together come back, while they do at once: one flush is for all then."""
        until_ms = self._clock.monotonic_ms() + _RETURN_PATIENCE_MS
        while self._changes and self._changes.are_more_expected:
            try:
                self._take(self._inbox.get(timeout=_NEXT_RETURN_PATIENCE_S))
            except Empty:
                self._changes.expect_no_more()
            self._take_waiting()
            if self._clock.monotonic_ms() > until_ms:
                self._changes.expect_no_more()
        self._store_commits()

    def _make(self, actor: Actor, changes: Sequence[Change[Any]]) -> None:
        """Make changes in their order, in one transaction; one that cannot be made costs the others nothing.

        Its failure undoes those before it, which are made again without it in a transaction of their own: so
        each is made twice at most, however many fail.
        """
        runs = [changes]
        while runs:
            runs += reversed(self._make_together(actor, runs.pop()))

    def _make_together(self, actor: Actor, changes: Sequence[Change[Any]]) -> list[Sequence[Change[Any]]]:
        """Make changes in one transaction, or none of them: those to be tried again then, in runs."""
        made: list[tuple[Change[Any], Made]] = []
        try:
            self._groups.refuse_if_broken()
            transaction = self._commits.begin(actor, self._clock.now_ms())
            try:
                for change in changes:
                    events = len(transaction.events)
                    try:
                        result = change.make(transaction)
                    except Exception as error:
                        change.fail(error)
                        return [run for run in (changes[: len(made)], changes[len(made) + 1 :]) if run]
                    made.append((change, Made(result, transaction.events[events:], None)))
                together = Together(made)
                if self._commits.hand_over(transaction, together) is None:
                    together.put(None)
            finally:
                transaction.close()
        except Exception as error:
            if isinstance(error, InvalidSetting) and len(changes) > 1:
                # Something of one of them cannot be stored: alone, each has an outcome of its own.
                return [[change] for change in changes]
            for change in changes:
                change.fail_with_others(error)
        return []

    def _begin_asked_checkpoint(self) -> None:
        if not self._asked:
            return
        if self.broken is not None:
            self._fail_asked()
        elif self._checkpointer.make_beside(
            self._commits.flushed, self._checkpoint_ended, tuple(self._asked)
        ):
            self._asked.clear()

    def _fail_asked(self) -> None:
        for asked in self._asked:
            asked.put(self._refusal())
        self._asked.clear()

    def _checkpoint_ended(self, error: PillarboxError | None, asked: Sequence[Asked]) -> None:
        """In the thread that made it."""
        if error is not None and self._env.flush_failed:
            self._groups.broken = self._groups.broken or error
        for queue in asked:
            queue.put(error)
        if error is not None and not asked:
            self._checkpoint_failed(error)
        self._tell_if_broken()
        self._inbox.put(None)  # another may have been asked for meanwhile

    def _end_if_asked(self) -> None:
        if self._ending is None:
            return
        ending = self._ending  # until it is answered: an error nobody foresaw is answered by `_give_up`
        error: PillarboxError | None = None
        if self.broken is None and ending.clean:
            try:
                self._checkpointer.make(self._commits.flushed, clean=True)
            except PillarboxError as failed:
                error = failed
            except BaseException as failed:  # who waits for the end is told of any
                error = _interrupted(failed)
        self._checkpointer.wait()
        self._is_told_broken = True  # who ends it knows
        self._groups.broken = self.broken or ending.reason
        self._fail_waiting()
        self._ending = None
        ending.outcome.put(error)

    def _give_up(self, error: BaseException) -> None:
        """Let nothing more be written: how far a write came that was interrupted nobody knows."""
        before, self._groups.broken = self.broken, self.broken or _interrupted(error)
        self._fail_waiting()
        self._tell_if_broken()
        ending, self._ending = self._ending, None
        if ending is not None:
            self._checkpointer.wait()
            ending.outcome.put(self.broken if before is None else None)

    def _fail_waiting(self) -> None:
        self._commits.failed(self._refusal())
        self._fail_changes()
        self._fail_asked()

    def _fail_changes(self) -> None:
        self._changes.fail(self._refusal())
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    def _refusal(self) -> PillarboxError:
        refusal = self._groups.refusal()
        assert refusal is not None  # something has ended all writing
        return refusal

    def _tell_if_broken(self) -> None:
        if self.broken is not None and not self._is_told_broken:
            self._is_told_broken = True
            with suppress(RuntimeError):  # the interpreter ends
                threading.Thread(target=self._tell_broken, name="pillarbox-dismount").start()

    def _tell_broken(self) -> None:
        with suppress(PillarboxError):  # it is dismounted nevertheless
            self._broke(self)


def _interrupted(error: BaseException) -> Dismounted:
    return Dismounted(
        f"a write was interrupted: {error!r}", hint="mount the database again: it tells what happened"
    )


def _serve(inbox: Inbox, own: weakref.ref[Writer]) -> None:
    while True:
        message = inbox.get()
        writer = own()
        if writer is None:
            return
        writer.serve(message)
        del writer, message  # what waits for the next message keeps nothing
