"""The log of a serving process: a line on stderr for each event and each thing the process itself has to
say.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

from pillarbox.store.clock import Clock
from pillarbox.store.events import Event
from pillarbox.tools.output import event_line, json_text, local_time, printable

INFORMATION: Final = "information"
WARNING: Final = "warning"
ERROR: Final = "error"


class Log:
    """Writes lines for people, or one JSON object a line. From any thread; where nobody reads, nothing
    happens.
    """

    def __init__(self, clock: Clock, as_json: bool, out: TextIO | None = None) -> None:
        self._clock = clock
        self._as_json = as_json
        self._out = out
        self._writing = threading.Lock()

    def event(self, event: Event) -> None:
        """Write an event of the store."""
        data = event._asdict()
        self._write(data, event_line(data))

    def say(self, severity: str, text: str, **details: Any) -> None:
        """Write what the process has to say; of `details` only a `hint` stands in lines for people too."""
        now_ms = self._clock.now_ms()
        shown = "info" if severity == INFORMATION else severity
        data = {"time_ms": now_ms, "severity": severity, "text": text, **details}
        hint = f"; {details['hint']}" if details.get("hint") else ""
        self._write(data, f"{local_time(now_ms)}        {shown:7}  {text}{hint}")

    def _write(self, data: dict[str, Any], line: str) -> None:
        text = json_text(data) if self._as_json else printable(line)
        out = self._out or sys.stderr
        with self._writing:
            try:
                out.write(f"{text}\n")
                out.flush()
            except (OSError, ValueError):
                return  # a log that is full or closed stops no mail


@contextmanager
def libraries_to(log: Log) -> Iterator[None]:
    """Write to a log what libraries warn of, as asyncio of a task that failed, while the `with` block runs.

    Without it Python writes that to stderr as it is, between the lines of the log.
    """
    handler, root = _FromLibraries(log), logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)


class _FromLibraries(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "event"):  # one of the store's, which the log is given as such
            return
        text = f"{record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        self._log.say(ERROR if record.levelno >= logging.ERROR else WARNING, text)
