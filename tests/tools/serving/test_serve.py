"""`pillarbox serve` as a process: it says that it is ready, runs what is due, follows its settings, and
ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")
pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.store.server import Server

if TYPE_CHECKING:
    from conftest import Pillarbox

PILLARBOX = (sys.executable, "-c", "from pillarbox.tools.main import run; run()")
STORE = "Mailbox Store"


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
def serving(server: Path, tmp_path: Path, **environment: str) -> Iterator[Served]:
    """`pillarbox serve` once it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        place = tmp_path / "notify"
        place.unlink(missing_ok=True)
        notices.bind(str(place))
        notices.settimeout(30)
        given = {**os.environ, "NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "2000000", **environment}
        with subprocess.Popen(
            [*PILLARBOX, "serve", str(server), "--json"], stderr=subprocess.PIPE, text=True, env=given
        ) as process:
            watch = threading.Timer(60, process.kill)  # a test that waits for what never comes is to fail
            watch.start()
            try:
                served = Served(process, notices)
                assert served.notice().startswith("READY=1")
                yield served
            finally:
                watch.cancel()
                process.kill()


def append(server: Path, text: str) -> None:
    """Put a table at the end of server.toml, as a person does."""
    with (server / "server.toml").open("a") as file:
        file.write(text)


def test_a_server_is_served_follows_its_settings_and_is_backed_up(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILLARBOX_PASSPHRASE", "horse")
    repository, config = tmp_path / "repository", server / "server.toml"
    assert pillarbox.run("backup", "init", repository).exit_code == 0
    monkeypatch.delenv("PILLARBOX_PASSPHRASE")
    (tmp_path / "backup-passphrase").write_text("horse\n")
    whole = config.read_text()
    with serving(server, tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path)) as served:
        assert "served by another process" in pillarbox.refused(11, "serve", server)
        assert pillarbox.answer("status", server)[0]["in_use"]

        config.write_text("broken")
        assert "the settings stay as they were" in served.logged("server.toml")["text"]
        served.process.send_signal(signal.SIGHUP)  # who asks is told again
        assert "the settings stay as they were" in served.logged("server.toml")["text"]
        config.write_text(whole)
        append(server, f'\n[backup]\nrepository = "{repository}"\nevery = "sometimes"\n')
        assert "every cannot be 'sometimes'" in served.logged("[backup]")["text"]

        config.write_text(whole)
        append(
            server,
            f'\n[backup]\nrepository = "{repository}"\nevery = "1d"\nkeep = {{ daily = 7 }}\n'
            'passphrase_file = "backup-passphrase"\n',
        )
        snapshot = served.logged("was taken")["snapshot"]
        pillarbox.answer("dismount", server, STORE)
        served.logged("was dismounted")
        assert served.notice() == "WATCHDOG=1"
        assert served.end(signal.SIGTERM) == 0
    monkeypatch.setenv("PILLARBOX_PASSPHRASE", "horse")
    assert [each["snapshot"] for each in pillarbox.answer("backup", "list", repository)] == [snapshot]


def test_a_killed_process_leaves_a_whole_server_that_is_served_again(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    with serving(server, tmp_path) as served:
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
    with serving(server, tmp_path) as served:
        assert served.end(signal.SIGINT) == 130
    with Server.open(server) as opened:
        assert not opened.not_mounted
    assert pillarbox.answer("check", server)["clean"]


def test_a_server_that_is_not_there_is_refused(pillarbox: Pillarbox, tmp_path: Path) -> None:
    pillarbox.refused(40, "serve", tmp_path / "none")


def test_a_plan_that_is_wrong_is_refused_at_the_start(pillarbox: Pillarbox, server: Path) -> None:
    append(server, "\n[backup]\n")
    assert "repository is missing" in pillarbox.refused(27, "serve", server)
