"""Many messages made ready on all cores: by other processes, while the caller stores those that are ready.

Making a message ready is two thirds of the work of storing it, and the threads of one Python share a core.
The processes are started once there is enough to do. Where none can be had, or one ends, the caller's own
process does the work: they make an import faster, and never make it fail.
"""

from __future__ import annotations

import fcntl
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Final, TypeVar

from pillarbox.store import message
from pillarbox.store.envelope import Envelope
from pillarbox.store.message import PreparedMessage
from pillarbox.store.prepare_child import prepared_content, receive, send
from pillarbox.store.transaction import DatabaseFiles

ItemT = TypeVar("ItemT")

# One that stores keeps about two busy that make ready.
_PROCESSES_MAX: Final = 3
START_AFTER_MESSAGES: Final = 1024
_CHUNK_MESSAGES: Final = 64
_CHUNK_BYTES: Final = 1 << 20
# What is larger costs more to send than it gains: almost all of its work leaves the interpreter free.
_SENT_BYTES_MAX: Final = 4 << 20
# So much is read and made ready ahead: the processes work on it while a batch is committed.
_AHEAD_CHUNKS: Final = 32
_AHEAD_BYTES: Final = 32 << 20
# A chunk goes in one piece: with the system's 64 KiB both ends wait for each other all the time.
_PIPE_BYTES: Final = 1 << 20
_END_S: Final = 10


class PrepareProcesses:
    """Processes that make messages ready for one database. Use it as a context."""

    def __init__(self, files: DatabaseFiles, count: int | None = None) -> None:
        """`count` processes at most, by the cores of the machine when None; with 0 there are none.

        They run `sys.executable`, so give a count only where that is Python: in some servers it is not.
        """
        cores = len(os.sched_getaffinity(0))
        self._count = (min(cores, _PROCESSES_MAX) if cores > 1 else 0) if count is None else count
        self._files = files
        self._threads: ThreadPoolExecutor | None = None
        self._children: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()

    def prepare_all(
        self, items: Iterable[ItemT], raw_of: Callable[[ItemT], bytes]
    ) -> Iterator[tuple[ItemT, PreparedMessage]]:
        """Each item with its message made ready, in order; the next items are read ahead.

        Raises Dismounted, and what reading `items` raises.
        """
        chunks = batches(items, lambda item: len(raw_of(item)), _CHUNK_MESSAGES, _CHUNK_BYTES)
        prepared = 0
        for chunk in chunks:
            yield from [(item, message.prepare(self._files, raw_of(item))) for item in chunk]
            prepared += len(chunk)
            if self._count and prepared >= START_AFTER_MESSAGES:
                break
        yield from self._prepare_ahead(chunks, raw_of)

    def _prepare_ahead(
        self, chunks: Iterator[list[ItemT]], raw_of: Callable[[ItemT], bytes]
    ) -> Iterator[tuple[ItemT, PreparedMessage]]:
        waiting: deque[tuple[list[ItemT], int, Future[list[PreparedMessage]]]] = deque()
        ahead_bytes = 0
        for chunk in chunks:
            raws = [raw_of(item) for item in chunk]
            size_bytes = sum(map(len, raws))
            ahead_bytes += size_bytes
            waiting.append((chunk, size_bytes, self._started().submit(self._prepare, raws)))
            while len(waiting) > _AHEAD_CHUNKS or (ahead_bytes > _AHEAD_BYTES and len(waiting) > 1):
                first, first_bytes, ready = waiting.popleft()
                ahead_bytes -= first_bytes
                yield from zip(first, ready.result(), strict=True)
        for first, _, ready in waiting:
            yield from zip(first, ready.result(), strict=True)

    def _started(self) -> ThreadPoolExecutor:
        if self._threads is None:
            for _ in range(self._count):
                self._children.put(_start())
            self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="pillarbox-prepare")
        return self._threads

    def _prepare(self, raws: list[bytes]) -> list[PreparedMessage]:
        child = self._children.get()  # each thread has one, or takes the place of one
        try:
            if child is not None and sum(map(len, raws)) <= _SENT_BYTES_MAX:
                return child.prepare(self._files, raws)
        except (OSError, EOFError, ValueError):
            if child is not None:
                child.close()
            child = None
        finally:
            self._children.put(child)
        return [message.prepare(self._files, raw) for raw in raws]

    def close(self) -> None:
        """End the processes. Closing twice is harmless."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
            for _ in range(self._count):
                if (child := self._children.get()) is not None:
                    child.close()

    def __enter__(self) -> PrepareProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Process:
    """A process that runs `prepare_child`; one thread at a time talks to it."""

    def __init__(self) -> None:
        # -P: nothing that lies in the current directory is taken for a module of the program.
        command = [sys.executable, "-P", "-m", "pillarbox.store.prepare_child"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._dictionary = 0
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # the system may allow no more; it works with less, slower
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def prepare(self, files: DatabaseFiles, raws: list[bytes]) -> list[PreparedMessage]:
        """The messages, made ready. Raises OSError, EOFError or ValueError when it does not answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        current = files.dictionaries.current
        news = files.dictionaries.data(current) if current != self._dictionary else b""
        send(self._process.stdin, (current, news, raws))
        self._dictionary = current
        answer = receive(self._process.stdout)
        return [
            PreparedMessage(raw, prepared_content(content), Envelope(*envelope))
            for raw, (content, envelope) in zip(raws, answer, strict=True)
        ]

    def close(self) -> None:
        """Let it end; it does when its pipe is closed."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start() -> _Process | None:
    try:
        return _Process()
    except (OSError, ValueError):  # no Python to be run, or no more processes allowed
        return None


def batches(
    items: Iterable[ItemT], bytes_of: Callable[[ItemT], int], count_max: int, bytes_max: int
) -> Iterator[list[ItemT]]:
    """Items in order, so many together that they reach a count or a number of bytes; the rest at the end."""
    batch: list[ItemT] = []
    size_bytes = 0
    for item in items:
        batch.append(item)
        size_bytes += bytes_of(item)
        if len(batch) >= count_max or size_bytes >= bytes_max:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
