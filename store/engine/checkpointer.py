"""Checkpoints: when one is due, and making it, beside the commits that go on.

The writer thread pins a state between two groups; the rest, which waits for the disk, is done by a thread
that lives as long as one checkpoint (docs/architecture.md, "Why a commit is one flush").
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from pillarbox.store.clock import Clock
from pillarbox.store.disk.checkpoint import Checkpoint, boot_identity, doubt_tables, write_checkpoint
from pillarbox.store.disk.env import DATA_FILE, Env, Pin, transaction_id_of
from pillarbox.store.disk.page_sums import PageSums
from pillarbox.store.disk.stream import SEGMENT_BYTES_DEFAULT, Position
from pillarbox.store.errors import DiskFull, PillarboxError

_FREE_GROWTHS_MAX: Final = 8
# Commits wait for a checkpoint that is being made once so many would be due.
_BEHIND: Final = 4


class Tuning(NamedTuple):
    """When segments and checkpoints begin: sizes in bytes, pages of 4096 bytes, times in ms.

    `checkpoint_beside` has a checkpoint that comes due made by a thread of its own while commits go on, as
    one that is asked for always is; otherwise the writer makes it, and commits wait. `remove_beside` has a
    thread of its own remove what was deleted; otherwise `Database.finish_removals` does. A property file of
    more than `tables_bytes` of which more than half is free is compacted at a mount for writing.
    """

    segment_bytes: int = SEGMENT_BYTES_DEFAULT
    checkpoint_stream_bytes: int = 64 << 20
    checkpoint_pages: int = 1024
    checkpoint_interval_ms: int = 300_000
    checkpoint_beside: bool = True
    remove_beside: bool = True
    tables_bytes: int = 64 << 20


class FlushedState(NamedTuple):
    """A state that is in the stream and in the tables."""

    sequence: int
    position: Position


Asked = SimpleQueue[PillarboxError | None]
Ended = Callable[[PillarboxError | None, Sequence[Asked]], None]
_Work = tuple[Pin, FlushedState, Sequence[Asked], Ended]


def write_clean_checkpoint(
    directory: Path, database: bytes, env: Env, meta_pages: bytes, flushed: FlushedState
) -> None:
    """Write the checkpoint of tables that are flushed and that nobody changes any more, with their sums.

    On a disk without room for the sums it is written without them. Raises as `PageSums.of` and
    `write_checkpoint`.
    """
    sums = PageSums.of(env.path / DATA_FILE, meta_pages).sums
    _write(directory, Checkpoint(database, True, boot_identity(), *flushed, meta_pages, sums))


def _write(directory: Path, checkpoint: Checkpoint) -> None:
    try:
        write_checkpoint(directory, checkpoint)
    except DiskFull:
        write_checkpoint(directory, checkpoint._replace(tables_sums=b""))  # what that had taken is free again


class Checkpointer:
    """Makes the checkpoints of one mounted database. Its methods are the writer thread's.

    `sums` are those of the state that the environment keeps at first, where they are known. `kept` is given
    LMDB's number of the state of each that was made, in the thread that made it.
    """

    def __init__(
        self,
        directory: Path,
        database: bytes,
        env: Env,
        position: Position,
        *,
        clock: Clock,
        tuning: Tuning,
        sums: PageSums | None = None,
        kept: Callable[[int], None] = lambda transaction_id: None,
    ) -> None:
        self._kept = kept
        self._sums = sums
        self._directory = directory
        self._database = database
        self._env = env
        self._beside = tuning.checkpoint_beside
        self._under_way = threading.Lock()
        self._due = CheckpointDue(tuning, env, clock)
        self._due.made(position)

    def make(self, flushed: FlushedState, *, clean: bool = False) -> None:
        """Make the state of now the one that replay starts from; `flushed` is where it ends in the stream.

        Waits for one that is being made. Raises DiskFull or PillarboxError: the checkpoint before then stays.
        """
        with self._under_way:
            self._make(self._env.pin(), flushed, clean)

    def make_if_due(self, flushed: FlushedState, ended: Ended) -> None:
        """Have a checkpoint made when enough was written or time has passed, and none is being made.

        Waits for the one that is being made where the disk is far behind. Raises nothing: `ended` is told, as
        by `make_beside`.
        """
        if not self._due.is_due(flushed.position, 1) or self.make_beside(flushed, ended):
            return
        if self._due.is_due(flushed.position, _BEHIND):
            self.wait()  # a slow disk holds the writer up, or the tables' file grows

    def make_beside(self, flushed: FlushedState, ended: Ended, asked: Sequence[Asked] = ()) -> bool:
        """Begin a checkpoint of the state of now; False when one is being made already.

        `ended` is told of its end, in the thread that made it: the error when it was not made, and who asked
        for it. It is given each time, since a writer that its checkpointer refers to stays, with its thread.
        """
        if not self._under_way.acquire(blocking=False):
            return False
        try:
            pin = self._env.pin()
        except PillarboxError as error:
            self._made(flushed, ended, asked, error)
            return True
        except BaseException:
            self._under_way.release()  # the writer gives up, and its end waits for what is under way
            raise
        work = [(pin, flushed, asked, ended)]
        if self._beside or asked:
            with suppress(RuntimeError, MemoryError):  # no more threads can be had, or not for sure
                threading.Thread(target=self._run, args=(work,), name="pillarbox-checkpoint").start()
                return True
        self._run(work)
        return True

    def wait(self) -> None:
        """Block until no checkpoint is being made."""
        with self._under_way:
            pass

    def _run(self, work: list[_Work]) -> None:
        try:
            pin, flushed, asked, ended = work.pop()  # one step: whoever has it makes the checkpoint
        except IndexError:
            return
        failed: PillarboxError | None = None
        try:
            self._make(pin, flushed)
        except PillarboxError as error:
            failed = error
        except BaseException as error:
            failed = PillarboxError(f"a checkpoint was interrupted: {error!r}")
        self._made(flushed, ended, asked, failed)

    def _made(
        self, flushed: FlushedState, ended: Ended, asked: Sequence[Asked], error: PillarboxError | None
    ) -> None:
        try:
            if error is not None:
                with suppress(PillarboxError, OSError):  # as many reads, or files, open as there can be
                    self._due.made(flushed.position)  # not tried again before as much is due once more
        finally:
            self._under_way.release()
            ended(error, asked)

    def _make(self, pin: Pin, flushed: FlushedState, clean: bool = False) -> None:
        try:
            flush_tables(self._directory, self._env)
            sums = self._sums_of(pin)
            checkpoint = Checkpoint(
                self._database, clean, boot_identity(), *flushed, pin.meta_pages, sums.sums
            )
            _write(self._directory, checkpoint)
            self._env.keep(pin)
            self._sums = sums  # not sooner: only what is kept stays as it was summed up
        except BaseException:
            pin.transaction.abort()
            raise
        with suppress(PillarboxError, OSError):  # it is made, whatever the tables do not tell now
            self._due.made(flushed.position)
            self._kept(transaction_id_of(pin.meta_pages))

    def _sums_of(self, pin: Pin) -> PageSums:
        data = self._env.path / DATA_FILE
        if self._sums is None:
            return PageSums.of(data, pin.meta_pages)
        return self._sums.followed(data, pin.meta_pages)


def flush_tables(directory: Path, env: Env) -> None:
    """Flush the tables. When that fails the next mount goes back to the last checkpoint and replays.

    The system may have dropped the pages and take them for written, so that a later flush of the same
    pages would say that all is well (docs/format.md, "Checkpoint").
    """
    try:
        env.sync()
    except PillarboxError:
        if env.flush_failed:
            doubt_tables(directory)
        raise


class CheckpointDue:
    """Decides when the next checkpoint is due, by the bytes, pages and time since the last."""

    def __init__(self, tuning: Tuning, env: Env, clock: Clock) -> None:
        self._tuning = tuning
        self._env = env
        self._clock = clock

    def made(self, position: Position) -> None:
        """Count from here: a checkpoint was made, or could not be."""
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
        """True when `times` as much has happened as makes the next checkpoint due.

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
