"""Putting a group of commits into the stream and the tables: durable by one flush, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pillarbox.store.disk.env import Env, MapFull
from pillarbox.store.disk.stream import Position, Stream
from pillarbox.store.engine.checkpointer import Checkpointer, FlushedState
from pillarbox.store.engine.commits import Commit, changes_of
from pillarbox.store.engine.replay import read_state
from pillarbox.store.engine.transaction import Changes
from pillarbox.store.errors import DiskFull, Dismounted, PillarboxError

_GROW_PATIENCE_S: Final = 30.0


class GroupStore:
    """Where the writer thread puts what was committed. `broken` is what ended all writing, or None."""

    def __init__(self, env: Env, stream: Stream, checkpointer: Checkpointer) -> None:
        self.broken: PillarboxError | None = None
        self._env = env
        self._stream = stream
        self._checkpointer = checkpointer

    def store(self, group: Sequence[Commit], flushed: FlushedState) -> None:
        """Make commits durable and visible; `flushed` is the state before them.

        Raises DiskFull or PillarboxError: then they did not happen. After Dismounted they may have: the next
        mount tells.
        """
        changing = [commit for commit in group if commit.frames]
        if not changing:
            return
        self.refuse_if_broken()
        tables_flushed: list[bool] = []  # once the stream is flushed
        try:
            self._append(changing)
            self._put_into_tables(changes_of(changing), flushed, tables_flushed)
        except PillarboxError as error:
            if tables_flushed and not self._tables_lack(flushed):
                self.broken = error
                raise Dismounted(
                    f"it is durable but cannot be shown before the next mount: {error}", hint=error.hint
                ) from error
            # Cut off from the stream, it never happened.
            self._cut_back(flushed.position)
            # On a full disk there may be space for less. Anything else leaves what nobody knows: a flush that
            # failed must not be made again as if nothing had happened. Said only now: who dismounts a broken
            # database does not wait, and a mount that follows must find nothing left to be cut.
            if not isinstance(error, DiskFull):
                self.broken = error
            raise

    def refuse_if_broken(self) -> None:
        """Raise Dismounted when all writing has ended."""
        refusal = self.refusal()
        if refusal is not None:
            raise refusal

    def refusal(self) -> Dismounted | None:
        """A new error for who would write, once all writing has ended; else None.

        A database that was dismounted says so itself; a failed write is told with its cause.
        """
        if isinstance(self.broken, Dismounted):
            return self.broken.anew()  # all are told the same
        if self.broken is not None:
            return Dismounted(f"the database takes no more changes: {self.broken}", hint=self.broken.hint)
        return None

    def _append(self, group: Sequence[Commit]) -> None:
        # Without content it deletes, as a rule: on a full disk that must not be refused first.
        adds_content = any(len(commit.frames) > 1 for commit in group)
        for start, chunks in _runs(group):
            self._stream.append(start, chunks, to_the_last=not adds_content)

    def _put_into_tables(self, changes: Changes, flushed: FlushedState, is_flushed: list[bool]) -> None:
        """Put a group, flush the stream and commit, doubling the map of the tables as often as it needs.

        On a full disk a checkpoint makes room in the tables' file once.
        """

        def flush() -> None:
            self._stream.flush()
            is_flushed.append(True)

        freed = False
        while True:
            try:
                self._env.apply(changes, before_commit=flush)
                return
            except MapFull:
                self._checkpointer.make(flushed)
                self._env.grow(_GROW_PATIENCE_S)
            except DiskFull as full:
                if freed:
                    raise
                # Pages that only the last checkpoint needs become free with another one.
                try:
                    self._checkpointer.make(flushed)
                except PillarboxError as error:
                    if self._env.flush_failed:
                        raise
                    raise full from error
                freed = True

    def _cut_back(self, position: Position) -> None:
        """Remove what is behind the last flushed transaction, so that no mount takes it for one."""
        try:
            self._stream.truncate(position)
        except PillarboxError as error:
            self.broken = error

    def _tables_lack(self, flushed: FlushedState) -> bool:
        """True when the tables certainly took nothing of a group."""
        try:
            return read_state(self._env).sequence <= flushed.sequence
        except PillarboxError:
            return False


def _runs(group: Sequence[Commit]) -> Iterator[tuple[Position, list[bytes]]]:
    """Frames that follow one another as one run each; a new segment begins a new run."""
    start: Position | None = None
    run: list[bytes] = []
    for commit in group:
        if start is not None and commit.start.segment != start.segment:
            yield start, run
            start, run = None, []
        if start is None:
            start = commit.start
        run += commit.frames
    if start is not None:
        yield start, run
