"""The signals that ask a process to end, for commands that run until then."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignals:
    """The signal that has come of those that ask a process to end; `number` is 0 until one has."""

    def __init__(self) -> None:
        self.number = 0
        self.came = threading.Event()

    def take(self, number: int, _: FrameType | None) -> None:
        """Note a signal: as a handler it runs between two steps of the main thread and interrupts none."""
        self.number = number
        self.came.set()


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Take SIGINT and SIGTERM as a wish to end while the `with` block runs. Only in the main thread."""
    stop = StopSignals()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.take) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
