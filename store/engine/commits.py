"""Commits on their way: transactions that were handed to the writer and are not in the tables yet.

A transaction stands on all commits before it. They form a chain, and handing one over is one step, the append
to it. What fails takes all behind it with it: the chain ends, and the next begins with what is flushed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from pillarbox.store.access import Actor
from pillarbox.store.disk.redo import build_redo
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, Position
from pillarbox.store.disk.tables import StateRecord, Table, decode_record
from pillarbox.store.engine.changed_rows import ChangedTables
from pillarbox.store.engine.checkpointer import FlushedState
from pillarbox.store.engine.transaction import Changes, DatabaseFiles, Layer, Records, WriteTransaction
from pillarbox.store.errors import PillarboxError

GROUP_COMMITS_MAX: Final = 256
GROUP_BYTES_MAX: Final = 16 << 20
# Every delivery changes one of each.
_RECENT_TABLES: Final = (Table.MAILBOX, Table.FOLDER, Table.SEGMENT)
_RECENT_MAX: Final = 64


class Outcome(Protocol):
    """Where it is told how a commit went."""

    def put(self, error: PillarboxError | None) -> None:
        """Tell it: None once the commit is durable and visible, else what kept it from that."""
        ...


class Commit(Layer):
    """A transaction that was handed over: what it changes, its frames and where they lie, the state after it.

    Its dictionaries are not changed any more.
    """

    def __init__(self, chain: Chain, state: StateRecord, end: Position, outcome: Outcome) -> None:
        super().__init__()
        self.chain = chain
        self.state = state
        self.start = end
        self.end = end
        self.frames: list[bytes] = []
        self.outcome = outcome

    @property
    def length(self) -> int:
        """Bytes it takes in the stream."""
        return self.end.offset - self.start.offset


class Chain:
    """Commits in order. The first is in the tables already, the others are not. `error` ended the chain."""

    def __init__(self, state: StateRecord, end: Position) -> None:
        self.commits = [Commit(self, state, end, SimpleQueue())]
        self.error: PillarboxError | None = None


class _Recent(Layer):
    """Records that were changed last, so that the next transaction need not decode them."""

    def __init__(self, generation: int, records: Records) -> None:
        super().__init__()
        self.generation = generation
        self.records = records


class Commits:
    """The commits of one database on their way.

    `begin` and `hand_over` are for the thread whose turn it is, the others for the writer thread.
    """

    def __init__(
        self, files: DatabaseFiles, state: StateRecord, position: Position, segment_bytes: int
    ) -> None:
        self.flushed = FlushedState(state.sequence, position)
        self._files = files
        self._segment_bytes = segment_bytes
        self._sealed = 0
        self._chain = self._begun_on = Chain(state, position)
        self._generation = 0
        self._recent = _Recent(0, ChangedTables())
        # True while a transaction is open, and when the last one was not handed over.
        self._is_begun = False

    # -- for the thread whose turn it is

    def begin(self, actor: Actor, now_ms: int) -> WriteTransaction:
        """A transaction on all that was handed over. Raises Retryable when too many reads are open."""
        if self._is_begun:
            self._forget_changed_records()
        self._is_begun = True
        # In this order: what becomes applied meanwhile is in both, never in neither.
        chain = self._begun_on = self._chain
        commits = tuple(chain.commits)
        recent = self._recent
        layers: list[Layer] = [commit for commit in reversed(commits) if commit.records]
        if recent.generation == self._generation:
            layers.append(recent)
        before = commits[-1]
        return WriteTransaction(
            self._files, actor, layers, before.state, self._next_position(before.end), now_ms
        )

    def _forget_changed_records(self) -> None:
        """A transaction that failed may have changed what is in the records that it was given."""
        for commit in self._chain.commits[1:]:
            for table, records in commit.records.items():
                for key, record in records.items():
                    value = commit.changes[table][key]
                    if record is not None and value is not None:
                        records[key] = decode_record(table, key, value)
        self._generation += 1

    def seal(self, segment: int) -> None:
        """Let no transaction that begins from now on lie in a segment."""
        self._sealed = segment

    def _next_position(self, end: Position) -> Position:
        if end.offset < self._segment_bytes and end.segment != self._sealed:
            return end
        return Position(end.segment + 1, SEGMENT_HEADER_BYTES)

    def hand_over(self, transaction: WriteTransaction, outcome: Outcome) -> Commit | None:
        """Make a transaction the writer's; None when it neither changed nor saw what is not durable.

        Raises InvalidSetting when a record holds what cannot be stored; then nothing is handed over.
        """
        chain = self._begun_on
        commit: Commit | None = None
        if transaction.changed:
            commit = self._commit_of(transaction, chain, outcome)
        elif len(chain.commits) > 1 or chain.error is not None:
            before = chain.commits[-1]
            commit = Commit(chain, before.state, before.end, outcome)
        if commit is not None:
            chain.commits.append(commit)
        self._is_begun = False
        return commit

    def hand_over_nothing(self, outcome: Outcome) -> Commit:
        """A commit that is durable once all before it are."""
        chain = self._chain
        before = chain.commits[-1]
        commit = Commit(chain, before.state, before.end, outcome)
        chain.commits.append(commit)
        return commit

    def _commit_of(self, transaction: WriteTransaction, chain: Chain, outcome: Outcome) -> Commit:
        rows, records, changes = transaction.finish()
        state = transaction.state()
        frames = transaction.frames
        # Before any later flush all that is flushed by now was: no more is said.
        redo = build_redo(rows, state.sequence, chain.commits[0].state.sequence + 1, len(frames))
        position = transaction.position
        commit = Commit(chain, state, Position(position.segment, position.offset + len(redo)), outcome)
        commit.start = Position(position.segment, position.offset - sum(map(len, frames)))
        commit.frames = [*frames, redo]
        commit.records, commit.changes, commit.placed = records, changes, transaction.placed
        return commit

    # -- for the writer thread

    @property
    def waiting_count(self) -> int:
        """The number of commits that are not in the tables yet."""
        return len(self._chain.commits) - 1

    def next_group(self) -> list[Commit]:
        """The commits to be flushed together next; none when all are in the tables."""
        group: list[Commit] = []
        length = 0
        for commit in self._chain.commits[1 : GROUP_COMMITS_MAX + 1]:
            length += commit.length
            if group and length > GROUP_BYTES_MAX:
                break
            group.append(commit)
        return group

    def applied(self, group: Sequence[Commit]) -> None:
        """The group is durable and in the tables."""
        last = group[-1]
        # In this order: a transaction that begins meanwhile finds the records here or there.
        self._remember(group)
        self.flushed = FlushedState(last.state.sequence, last.end)
        self._chain.commits[: len(group) + 1] = [Commit(self._chain, last.state, last.end, SimpleQueue())]

    def _remember(self, group: Sequence[Commit]) -> None:
        generation, recent = self._generation, self._recent
        records: Records = ChangedTables()  # a transaction may be looking at those there are
        for table in _RECENT_TABLES:
            known = recent.records.get(table)
            if known and len(known) <= _RECENT_MAX and recent.generation == generation:
                records[table].update(known)
            for commit in group:
                records[table].update(commit.records.get(table, ()))
        self._recent = _Recent(generation, records)

    def failed(self, error: PillarboxError) -> None:
        """No commit of the chain will be made; go on from what is flushed. Tells all that wait."""
        chain = self._chain
        # In this order: a commit that comes too late for the loop finds the error (`wait_for`).
        chain.error = error
        flushed = chain.commits[0]
        self._chain = Chain(flushed.state, flushed.end)
        for commit in chain.commits[1:]:
            commit.outcome.put(error)

    def end(self, error: PillarboxError) -> None:
        """As `failed`, in a process that has no writer thread, and nobody is told."""
        self._chain.error = error


def wait_for(commit: Commit, outcome: SimpleQueue[PillarboxError | None]) -> None:
    """Block until a commit is durable and visible. Raises what kept it from that."""
    error = commit.chain.error
    if error is None:
        error = outcome.get()
    else:
        with suppress(Empty):  # it may have been made before the chain ended
            error = outcome.get_nowait()
    if error is not None:
        raise error.anew() from error  # all commits of a group are told the same


def changes_of(group: Sequence[Commit]) -> Changes:
    """The changes to the tables of commits one after the other."""
    if len(group) == 1:
        return group[0].changes
    merged: Changes = ChangedTables()  # a transaction may be looking at those of the commits
    for commit in group:
        for table, rows in commit.changes.items():
            merged[table].update(rows)
    return merged
