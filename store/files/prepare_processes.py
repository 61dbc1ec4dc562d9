"""Many messages made ready on all cores: by other processes, while the caller stores those that are ready.

Making a message ready is two thirds of the work of storing it, and the threads of one Python share a core.
The processes are started once there is enough to do, and do their part from when they have begun. Messages
go to them in shared memory, in order, and what was made of them is taken out in the same order. Where no
process can be had, or one ends, the caller's own does the work: they make an import faster, and never make
it fail.
"""

from __future__ import annotations

import mmap
import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from pillarbox.store.batches import batches
from pillarbox.store.content.blocks import PreparedContent
from pillarbox.store.content.envelope import Envelope
from pillarbox.store.content.prepare_child import READY, Request, framed, made_ready, receive
from pillarbox.store.engine.transaction import DatabaseFiles
from pillarbox.store.mail import messages
from pillarbox.store.mail.messages import PreparedMessage

ItemT = TypeVar("ItemT")

# One that stores keeps one or two busy that make ready.
_PROCESSES_MAX: Final = 3
START_AFTER_MESSAGES: Final = 256
_CHUNK_MESSAGES: Final = 64
_CHUNK_BYTES: Final = 1 << 20
# So much is read and made ready ahead: the processes work on it while a batch is committed.
_AHEAD_CHUNKS: Final = 32
_MEMORY_BYTES: Final = 32 << 20
# What is made of a message takes no more than its own bytes and this, as a rule.
_MORE_ROOM_BYTES: Final = 1024
# What takes a process milliseconds. It may have to wait for a core.
_PATIENCE_MS: Final = 60_000


def prepare_all(
    files: DatabaseFiles, items: Iterable[ItemT], raw_of: Callable[[ItemT], bytes], count: int | None = None
) -> Generator[tuple[ItemT, PreparedMessage], None, None]:
    """Each item with its message made ready for a database, in order; the next items are read ahead.

    `count` processes help at most, by the cores of the machine when None; with 0 there are none. They run
    `sys.executable`, so give a count only where that is Python: in some servers it is not. They end with the
    last item, or when this is closed: use it in `contextlib.closing`, in one thread.
    Raises Dismounted, and what reading `items` raises.
    """
    if count is None:
        cores = len(os.sched_getaffinity(0))
        count = min(cores, _PROCESSES_MAX) if cores > 1 else 0
    chunks = batches(items, lambda item: len(raw_of(item)), _CHUNK_MESSAGES, _CHUNK_BYTES)
    run = _Run(files)
    try:
        prepared = 0
        for chunk in chunks:
            yield from run.prepared(chunk, _Asked([raw_of(item) for item in chunk], None, 0))
            prepared += len(chunk)
            if count and prepared >= START_AFTER_MESSAGES:
                run.start(count)
                break
        ahead: deque[tuple[list[ItemT], _Asked]] = deque()
        for chunk in chunks:
            raws = [raw_of(item) for item in chunk]
            while len(ahead) >= _AHEAD_CHUNKS or (asked := run.ask(raws, now=not ahead)) is None:
                yield from run.prepared(*ahead.popleft())
            ahead.append((chunk, asked))
        while ahead:
            yield from run.prepared(*ahead.popleft())
    finally:
        run.close()


class _Asked(NamedTuple):
    """Messages that `child` makes ready at a place of the memory, or nobody yet."""

    raws: list[bytes]
    child: _Process | None
    place: int


class _Run:
    """The processes and memory of one `prepare_all`. Without processes it works itself."""

    def __init__(self, files: DatabaseFiles) -> None:
        self._files = files
        self._memory = _Memory()
        self._children: list[_Process] = []

    def start(self, count: int) -> None:
        """Start up to `count` processes."""
        if not sys.executable:
            return
        with suppress(OSError, ValueError):  # no Python to be run, or no more memory or processes allowed
            file = os.memfd_create("pillarbox-prepare")
            try:
                self._memory.share(file, _MEMORY_BYTES)
                for _ in range(count):
                    self._children.append(_Process(file))
            finally:
                os.close(file)

    def ask(self, raws: list[bytes], *, now: bool) -> _Asked | None:
        """Have messages made ready; None when there is room only later, but not with `now`."""
        room = sum(map(len, raws)) + len(raws) * _MORE_ROOM_BYTES
        place = self._memory.find(room)
        ready = [each for each in self._children if each.is_ready()]
        if place is None or not ready:
            return _Asked(raws, None, 0) if now else None
        child = min(ready, key=lambda each: each.asked_count)
        self._memory.put(place, room, raws)
        try:
            child.ask(self._files, place, room, raws)
        except OSError:
            self._end(child)  # which shows when it is to answer
        return _Asked(raws, child, place)

    def prepared(self, items: list[ItemT], asked: _Asked) -> Iterator[tuple[ItemT, PreparedMessage]]:
        """Each item with its message, of those that were asked first."""
        ready = None if asked.child is None else self._answer(asked.child, asked.place)
        if ready is None:
            yield from [
                (item, messages.prepare(self._files, raw))
                for item, raw in zip(items, asked.raws, strict=True)
            ]
            return
        for item, raw, (content, envelope) in zip(items, asked.raws, ready, strict=True):
            yield item, PreparedMessage(raw, content, envelope)

    def _answer(self, child: _Process, place: int) -> list[tuple[PreparedContent, Envelope]] | None:
        """The messages put first, made ready; None when the process that calls is to make them ready."""
        try:
            length = child.answer()
            return made_ready(self._memory.read(place, length)) if length else None
        except (OSError, EOFError, ValueError):
            self._end(child)
            return None
        finally:
            self._memory.give_back()

    def _end(self, child: _Process) -> None:
        """Let a process do no more, if it has not gone. It must not write into memory that others get."""
        child.close()
        if child in self._children:
            self._children.remove(child)

    def close(self) -> None:
        """End the processes."""
        for child in list(self._children):
            self._end(child)


class _Memory:
    """Memory shared with the processes: places are given in a ring, and given back in the same order."""

    def __init__(self) -> None:
        self._bytes: mmap.mmap | bytearray = bytearray()
        self._taken: deque[tuple[int, int]] = deque()

    def share(self, file: int, size: int) -> None:
        """Have memory that a file of the system's memory backs. Raises OSError."""
        os.ftruncate(file, size)
        self._bytes = mmap.mmap(file, size)

    def find(self, length: int) -> int | None:
        """Where there is so much free, or None."""
        size = len(self._bytes)
        if not self._taken:
            return 0 if length <= size else None
        first, end = self._taken[0][0], self._taken[-1][1]
        if end <= first:
            return end if end + length <= first else None
        if end + length <= size:
            return end
        return 0 if length <= first else None

    def put(self, place: int, length: int, raws: list[bytes]) -> None:
        """Take a place that was found, and put messages there one behind the other."""
        self._taken.append((place, place + length))
        for raw in raws:
            self._bytes[place : place + len(raw)] = raw
            place += len(raw)

    def read(self, place: int, length: int) -> memoryview:
        """The bytes at a place."""
        return memoryview(self._bytes)[place : place + length]

    def give_back(self) -> None:
        """Let the place that was taken first be used again."""
        self._taken.popleft()


class _Process:
    """A process that runs `prepare_child`, and answers in the order it is asked."""

    def __init__(self, memory_file: int) -> None:
        # -P: nothing that lies in the current directory is taken for a module of the program.
        command = [sys.executable, "-P", "-m", "pillarbox.store.content.prepare_child"]
        # Not stdout: whatever is set up for every Python of a machine may print.
        answers, answering = os.pipe()
        self._answers = os.fdopen(answers, "rb", buffering=0)  # what was read ahead no poll would show
        try:
            self._process = subprocess.Popen(
                [*command, str(memory_file), str(answering)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[memory_file, answering],
            )
        except BaseException:
            self._answers.close()
            raise
        finally:
            os.close(answering)
        assert self._process.stdin is not None
        self._requests = self._process.stdin
        os.set_blocking(self._requests.fileno(), False)
        self._dictionary = 0
        self._is_ready = False
        self.asked_count = 0

    def is_ready(self) -> bool:
        """True once the process answers; others do its work before. One that never begins is never ready."""
        if not self._is_ready:
            with suppress(OSError, EOFError, ValueError):
                self._is_ready = self._says(within_ms=0) and receive(self._answers) == READY
        return self._is_ready

    def _says(self, within_ms: int) -> bool:
        """True when the process answers, or has gone, within a time."""
        said = select.poll()
        said.register(self._answers, select.POLLIN)
        return bool(said.poll(within_ms))

    def ask(self, files: DatabaseFiles, place: int, room: int, raws: list[bytes]) -> None:
        """Have the messages at a place made ready. Raises OSError when it has gone, or does nothing."""
        number = files.dictionaries.current
        news = files.dictionaries.data(number) if number != self._dictionary else b""
        self._send(framed(Request(place, room, number, news, [len(raw) for raw in raws])))
        self._dictionary = number
        self.asked_count += 1

    def _send(self, data: bytes) -> None:
        taken = select.poll()
        taken.register(self._requests, select.POLLOUT)
        left = memoryview(data)
        while left:
            if not taken.poll(_PATIENCE_MS):
                raise TimeoutError
            left = left[os.write(self._requests.fileno(), left) :]

    def answer(self) -> int:
        """Bytes of the next answer, 0 for none.

        Raises OSError, EOFError or ValueError when it has gone, or does nothing: it may have been stopped.
        """
        if not self._says(_PATIENCE_MS):
            raise TimeoutError
        length: int = receive(self._answers)
        self.asked_count -= 1
        return length

    def close(self) -> None:
        """End it. It has nothing that could be lost."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._requests.close()
