"""A NATS server as a process of its own, for tests; they are skipped where it is missing."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from free_ports import free_port

SERVER = shutil.which("nats-server") or ""
WAIT_S = 20


def require_nats() -> None:
    """Skip the test that calls this where there is no server, or no client."""
    if not SERVER:
        pytest.skip("nats-server (of Debian) is not installed")
    pytest.importorskip("nats", reason="nats-py (the extra `nats`) is not installed")


class NatsServer:
    """A server with JetStream, whose store is in a directory and stays there."""

    def __init__(self, directory: Path, config: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.port = free_port()
        self.write(config)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def write(self, config: str) -> None:
        """Another configuration, from the next start on."""
        (self._directory / "server.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self._directory / "store"}", max_file_store: 2G }}\n{config}\n'
        )

    def start(self) -> NatsServer:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [SERVER, "-c", str(self._directory / "server.conf")], stdout=log, stderr=log
            )
        until_s = time.monotonic() + WAIT_S
        while True:
            assert self._process.poll() is None, (self._directory / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < until_s, "nats-server does not listen"
                time.sleep(0.01)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as its unit does."""
        self._end(signal.SIGTERM)

    def hang(self) -> None:
        """Let it neither answer nor end."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(WAIT_S)
            self._process = None
