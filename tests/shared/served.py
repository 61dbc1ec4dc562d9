"""A process that serves a server, for tests beside it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PILLARBOX = (sys.executable, "-c", "from pillarbox.tools.main import run; run()")


class Served:
    """A process that serves, with its log."""

    def __init__(self, process: subprocess.Popen[str], notices: socket.socket) -> None:
        self.process = process
        self._notices = notices

    def notice(self) -> str:
        """The next notice to systemd."""
        return self._notices.recv(1000).decode()

    def logged(self, text: str) -> dict[str, Any]:
        """The next line of the log that holds a text."""
        assert self.process.stderr
        for line in self.process.stderr:
            if text in json.loads(line)["text"]:
                found: dict[str, Any] = json.loads(line)
                return found
        pytest.fail(f"it ended without logging {text!r}")

    def end(self, number: int) -> int:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(10)


@contextmanager
def serving(
    server: Path, tmp_path: Path, *options: str, seconds_max: int = 60, **environment: str
) -> Iterator[Served]:
    """`pillarbox serve` once it is ready, for so long at most."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        place = tmp_path / "notify"
        place.unlink(missing_ok=True)
        notices.bind(str(place))
        notices.settimeout(30)
        given = {**os.environ, "NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "2000000", **environment}
        with subprocess.Popen(
            [*PILLARBOX, "serve", str(server), "--json", *options],
            stderr=subprocess.PIPE,
            text=True,
            env=given,
        ) as process:
            watch = threading.Timer(
                seconds_max, process.kill
            )  # a test that waits for what never comes is to fail
            watch.start()
            try:
                served = Served(process, notices)
                assert served.notice().startswith("READY=1")
                yield served
            finally:
                watch.cancel()
                process.kill()
