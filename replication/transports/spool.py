"""The spool transport: frames as files, where no connection leads (docs/nodes.md, "The spool transport").

The directory may be shared, copied by rsync, or carried on a disk: `ROOT/TO/FROM/NUMBER-DIGEST.frame`. A file
is written aside, flushed and renamed; whoever takes it removes it, once it is settled. Watching wakes a scan,
and the scan is what counts. Who it is from is as true as the directory is closed to others: the messages in
frames are signed.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from pillarbox.replication.transports.bounded_queue import BoundedQueue
from pillarbox.replication.transports.telling import Call, Teller
from pillarbox.replication.transports.transport import (
    OUTBOX_BYTES_MAX,
    Arrivals,
    Members,
    check_frame,
    nothing,
)
from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.clock import Clock
from pillarbox.store.errors import Refused
from pillarbox.store.ids import guid_text

SPOOL_BYTES_MAX: Final = 1 << 30
SCAN_EVERY_S: Final = 5.0
LEFTOVER_MS: Final = 24 * 60 * 60 * 1000
_DIGEST_BYTES: Final = 16
_NAME: Final = re.compile(r"[0-9]{20}-([0-9a-f]{32})\.frame")
_ASIDE: Final = ".new"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_CHANGES: Final = frozenset({"created", "moved", "closed"})


class SpoolTransport:
    """Implements `Transport`. A link stands for as long as its directory can be written; nobody knows whether
    there is somebody at the other end."""

    def __init__(
        self,
        database: bytes,
        root: PathLike,
        clock: Clock,
        *,
        refused: Callable[[str], None] = lambda reason: None,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        outbox_bytes_max: int = OUTBOX_BYTES_MAX,
        scan_every_s: float = SCAN_EVERY_S,
    ) -> None:
        """`spool_bytes_max` bounds the files that wait for each peer. `refused` is told of files that are no
        frames, and must not block."""
        self._root = as_path(root, "root")
        self._me = guid_text(database)
        self._database = database
        self._clock = clock
        self._refused = refused
        self._spool_bytes_max = spool_bytes_max
        self._outbox_bytes_max = outbox_bytes_max
        self._scan_every_s = scan_every_s
        self._changed = threading.Condition()
        self._members: Members = {}
        self._linked: frozenset[bytes] = frozenset()  # of the members, those that frames are sent to
        self._outboxes: dict[bytes, BoundedQueue] = {}  # of the links that stand
        self._spooled_bytes: dict[bytes, int] = {}  # at most: whoever takes a file does not tell
        self._number = 0
        self._blocked: dict[bytes, str] = {}  # why nothing can be written for a peer
        self._changes_count = 0
        self._is_stopped = False
        self._scan_is_due = threading.Event()
        self._under_way: dict[Path, int] = {}  # given to the node and not settled, since when (monotonic ms)
        self._settled: SimpleQueue[Path] = SimpleQueue()
        self._is_taken = threading.Event()
        self._threads: list[threading.Thread] = []
        self._teller: Teller | None = None
        self._observer: BaseObserver | None = None

    # -- the interface

    def start(self, arrivals: Arrivals) -> None:
        """As `Transport.start`. Raises Refused where the directory cannot be used."""
        inbox = self._root / self._me
        try:
            inbox.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
            observer = Observer()
            observer.schedule(_Waking(self._scan_is_due), str(inbox), recursive=True)
            observer.start()
        except OSError as error:
            raise Refused(
                f"{self._root} cannot be used as a spool: {error.strerror or error}",
                hint="look at `spool` in node.toml, and at the owner and mode of the directory",
            ) from error
        self._observer = observer
        self._teller = Teller(arrivals, "spool transport: arrivals")
        for work, name in ((self._write, "spool transport: out"), (self._read, "spool transport: in")):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()

    def give(
        self, peer: bytes, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False
    ) -> bool:
        check_frame(frame)
        with self._changed:
            outbox = self._outboxes.get(peer)
            if outbox is None or self._is_stopped or not outbox.put(frame, went, is_urgent):
                return False
            self._note_change()
        return True

    def members_changed(self, members: Members) -> None:
        with self._changed:
            self._members = {peer: member for peer, member in members.items() if peer != self._database}
            self._linked = frozenset(
                peer for peer, member in self._members.items() if not member.is_heard_only
            )
            for peer in list(self._outboxes.keys() - self._linked):
                self._link_changed(peer, is_up=False)
            self._note_change()
        self._scan_is_due.set()

    def close(self) -> None:
        with self._changed:
            is_first = not self._is_stopped
            self._is_stopped = True
            self._outboxes.clear()
            self._note_change()
        if self._teller is None:
            return
        self._teller.stop()
        self._is_taken.set()
        self._scan_is_due.set()
        if self._observer is not None and is_first:
            self._observer.stop()
            self._observer.join()
        for thread in self._threads:
            thread.join()
        self._teller.join()

    def _note_change(self) -> None:
        self._changes_count += 1
        self._changed.notify_all()

    def _tell(self, call: Call, then: Callable[[], None] = lambda: None) -> None:
        assert self._teller is not None
        self._teller.tell(call, then)

    def _link_changed(self, peer: bytes, *, is_up: bool) -> None:
        if is_up:
            self._outboxes[peer] = BoundedQueue(self._outbox_bytes_max)
        else:
            self._outboxes.pop(peer, None)
            self._spooled_bytes.pop(peer, None)
        if self._teller is not None:
            self._tell(lambda arrivals: arrivals.link_changed(peer, is_up))

    # -- out

    def _write(self) -> None:
        """Let links stand, and write what waits; a directory that is full or gone is looked at again."""
        while True:
            with self._changed:
                if self._is_stopped:
                    return
                seen = self._changes_count
                down = self._linked - self._outboxes.keys()
                waiting = [(peer, outbox.begin()) for peer, outbox in self._outboxes.items() if len(outbox)]
            opened = [self._opened(peer) for peer in sorted(down)]
            written = [self._written(peer, frame) for peer, frame in waiting]
            with self._changed:
                if not any(opened + written) and seen == self._changes_count and not self._is_stopped:
                    self._changed.wait(self._scan_every_s if down or waiting else None)

    def _opened(self, peer: bytes) -> bool:
        """Let the link to a member stand, if its directory is there or can be made, and can be written."""
        directory = self._outgoing(peer)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _check_writable(directory)
            spooled_bytes = _size_of(directory)
        except OSError as error:
            self._tell_blocked(peer, error)
            return False
        with self._changed:
            if peer in self._linked and peer not in self._outboxes and not self._is_stopped:
                self._spooled_bytes[peer] = spooled_bytes
                self._link_changed(peer, is_up=True)
        return True

    def _written(self, peer: bytes, frame: bytes) -> bool:
        """Write the first frame of an outbox; False where it has to wait."""
        try:
            if self._spooled_bytes.get(peer, 0) + len(frame) > self._spool_bytes_max:
                spooled_bytes = _size_of(self._outgoing(peer))
                self._spooled_bytes[peer] = spooled_bytes
                if spooled_bytes and spooled_bytes + len(frame) > self._spool_bytes_max:
                    return False
            self._put(peer, frame)
        except OSError as error:
            self._tell_blocked(peer, error)
            with self._changed:
                if peer in self._outboxes and error.errno not in _FULL:  # a full disk only makes it wait
                    self._link_changed(peer, is_up=False)
            return False
        self._blocked.pop(peer, None)
        with self._changed:
            outbox = self._outboxes.get(peer)
            self._spooled_bytes[peer] = self._spooled_bytes.get(peer, 0) + len(frame)
            if outbox is not None and len(outbox) and outbox.next() is frame and outbox.took():
                self._tell(lambda arrivals: arrivals.has_room(peer))
        return True

    def _put(self, peer: bytes, frame: bytes) -> None:
        directory = self._outgoing(peer)
        # Later than what was written before a restart, unless the clock went back.
        self._number = max(self._number + 1, self._clock.now_ms() * 1000)
        name = f"{self._number:020}-{_digest(frame)}.frame"
        aside = directory / f".{name}{_ASIDE}"
        try:
            with aside.open("xb") as file:
                file.write(frame)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(directory / name)
        except OSError:
            with suppress(OSError):  # or else the next start removes it
                aside.unlink(missing_ok=True)
            raise
        entries = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(entries)
        finally:
            os.close(entries)

    def _tell_blocked(self, peer: bytes, error: OSError) -> None:
        """Say why nothing can be written, once until it changes, for however many peers."""
        reason = f"the spool cannot be written: {error.strerror or error}"
        if reason not in self._blocked.values():
            self._refused(reason)
        self._blocked[peer] = reason

    def _outgoing(self, peer: bytes) -> Path:
        return self._root / guid_text(peer) / self._me

    def _clear_leftovers(self) -> None:
        """Remove what this store had begun to write when it was killed."""
        for path in self._root.glob(f"*/{self._me}/.*{_ASIDE}"):
            path.unlink(missing_ok=True)

    # -- in

    def _read(self) -> None:
        while not self._is_stopped:
            self._scan_is_due.clear()
            with self._changed:
                members = sorted(self._members)
            read = [self._read_from(peer) for peer in members]
            self._remove_settled()
            if not any(read):
                self._scan_is_due.wait(self._scan_every_s)
        self._remove_settled()

    def _read_from(self, peer: bytes) -> bool:
        """Take the frames of a member; True when there were any."""
        has_read = False
        for path in _files_in(self._root / self._me / guid_text(peer)):
            if self._is_stopped or peer not in self._members:
                break
            if path in self._under_way:
                continue
            try:
                frame = self._frame_in(path)
            except OSError as error:
                self._refused(f"{path} cannot be read: {error}")
                continue
            if frame is not None:
                if not self._take(peer, frame, path):
                    break
                has_read = True
        return has_read

    def _remove_settled(self) -> None:
        """Remove the files of frames that are settled, and of parts whose rest has not come for a day."""
        given_up_ms = self._clock.monotonic_ms() - LEFTOVER_MS
        for path in [path for path, since_ms in self._under_way.items() if since_ms <= given_up_ms]:
            self._settled.put(path)
        with suppress(Empty):
            while True:
                path = self._settled.get_nowait()
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    self._refused(f"{path} cannot be removed: {error}")
                    self._under_way[path] = self._clock.monotonic_ms()  # or it would come again at each scan
                else:
                    self._under_way.pop(path, None)

    def _frame_in(self, path: Path) -> bytes | None:
        """The frame in a file; None for one that is not whole, or no frame: after a day it is removed."""
        found = _NAME.fullmatch(path.name)
        try:
            state = path.stat()
            if found and 0 < state.st_size <= FRAME_BYTES_MAX:
                frame = path.read_bytes()
                if _digest(frame) == found[1]:
                    return frame
        except FileNotFoundError:
            return None
        if self._clock.now_ms() - state.st_mtime_ns // 1_000_000 > LEFTOVER_MS:
            path.unlink(missing_ok=True)
            self._refused(f"{path} is no frame, and is removed")
        return None

    def _take(self, peer: bytes, frame: bytes, path: Path) -> bool:
        """Give a frame to the node, and wait until it has taken it; False when this was stopped before."""
        made: list[bool] = []
        self._is_taken.clear()
        if self._is_stopped:
            return False

        def settled() -> None:
            self._settled.put(path)
            self._scan_is_due.set()

        def call(arrivals: Arrivals) -> None:
            if is_member := peer in self._members:
                arrivals.frame_came(peer, frame, settled)
            made.append(is_member)

        self._under_way[path] = self._clock.monotonic_ms()
        self._tell(call, self._is_taken.set)
        self._is_taken.wait()
        if not any(made):
            del self._under_way[path]
        return any(made)


def _files_in(directory: Path) -> list[Path]:
    """The files in a directory by name, which is in the order in which they were written."""
    try:
        return sorted(path for path in directory.iterdir() if path.is_file())
    except OSError:  # it is not there: the next scan looks again
        return []


def _check_writable(directory: Path) -> None:
    """Raise OSError where no file can be made: by another owner, or on a disk that can be read alone. A full
    disk only makes it wait."""
    tried = directory / f".tried{_ASIDE}"
    try:
        tried.touch()
        tried.unlink()
    except OSError as error:
        if error.errno not in _FULL:
            raise


def _size_of(directory: Path) -> int:
    size_bytes = 0
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # it was taken meanwhile
            size_bytes += path.stat().st_size
    return size_bytes


def _digest(frame: bytes) -> str:
    return blake2b(frame, digest_size=_DIGEST_BYTES).hexdigest()


class _Waking(FileSystemEventHandler):
    """Wakes the scan."""

    def __init__(self, scan_is_due: threading.Event) -> None:
        self._scan_is_due = scan_is_due

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _CHANGES:
            self._scan_is_due.set()
