"""The wakes of a serving process: signals, a change of server.toml, and the ends of its own work.

A wake says nothing but to look again: what is to do, the process finds out by looking. One that is lost is
made up for, and one too many does no harm.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from pillarbox.store.server_config import CONFIG_FILE, REPLICATION_NODE

_FILES: Final = frozenset({CONFIG_FILE, "node.toml"})
_CHANGES: Final = frozenset({"modified", "created", "moved", "deleted"})


class Wake(Enum):
    """The reasons to look again."""

    LOOK = auto()
    SETTINGS_CHANGED = auto()
    RELOAD = auto()
    STOP = auto()


class Wakes:
    """Wakes that wait to be taken. `wake` may be called from any thread, and from a handler of signals.

    `stop_signal` is the signal that asked the process to end, 0 for none.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Wake] = SimpleQueue()  # the one queue that a signal cannot leave locked
        self.stop_signal = 0

    def wake(self, why: Wake) -> None:
        self._waiting.put(why)

    def wait(self, timeout_ms: int) -> set[Wake]:
        """The wakes that came, at once when there are any; none when there was none for `timeout_ms`."""
        found: set[Wake] = set()
        with suppress(Empty):
            found.add(self._waiting.get(timeout=max(timeout_ms, 0) / 1000))
            while True:
                found.add(self._waiting.get_nowait())
        return found

    def _asked_to_stop(self, number: int, _: FrameType | None) -> None:
        self.stop_signal = number
        self.wake(Wake.STOP)

    @contextmanager
    def of_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as a wish to end, SIGHUP as one to read the settings anew. In the main
        thread.
        """
        handlers: dict[int, Any] = {
            signal.SIGINT: self._asked_to_stop,
            signal.SIGTERM: self._asked_to_stop,
            signal.SIGHUP: lambda *_: self.wake(Wake.RELOAD),
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def of_changes(self, server: Path) -> Iterator[None]:
        """Be woken when the server.toml in a directory changes, or the node.toml below it. Where nothing can
        be watched no wake comes.
        """
        observer = Observer()
        with suppress(OSError):  # no watches are left: the settings are looked at every minute all the same
            observer.schedule(_ConfigHandler(self), str(server), recursive=False)
            if (server / REPLICATION_NODE).is_dir():
                observer.schedule(_ConfigHandler(self), str(server / REPLICATION_NODE), recursive=False)
            observer.start()
        try:
            yield
        finally:
            if observer.is_alive():
                observer.stop()
                observer.join()


class _ConfigHandler(FileSystemEventHandler):
    def __init__(self, wakes: Wakes) -> None:
        self._wakes = wakes

    def on_any_event(self, event: FileSystemEvent) -> None:
        paths = (str(event.src_path), str(event.dest_path))
        if event.event_type in _CHANGES and any(Path(path).name in _FILES for path in paths):
            self._wakes.wake(Wake.SETTINGS_CHANGED)
