"""`pillarbox serve` as a process: it says that it is ready, runs what is due, follows its settings, and
ends.
"""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")
pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from served import serving

from pillarbox.store.server import Server

if TYPE_CHECKING:
    from conftest import Pillarbox

STORE = "Mailbox Store"


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
        assert not (server / "control").exists()
    monkeypatch.setenv("PILLARBOX_PASSPHRASE", "horse")
    assert [each["snapshot"] for each in pillarbox.answer("backup", "list", repository)] == [snapshot]


def test_a_killed_process_leaves_a_whole_server_that_is_served_again(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    with serving(server, tmp_path) as served:
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
    http = ("--http", "127.0.0.1:0") if find_spec("starlette") else ()  # of the extra `serve`
    with serving(server, tmp_path, *http) as served:
        if http:
            port = served.logged("HTTP at")["port"]
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:
                assert answer.read() == b"ok\n"
        assert served.end(signal.SIGINT) == 130
    with Server.open(server) as opened:
        assert not opened.not_mounted
    assert pillarbox.answer("check", server)["clean"]


def test_a_server_that_is_not_there_is_refused(pillarbox: Pillarbox, tmp_path: Path) -> None:
    pillarbox.refused(40, "serve", tmp_path / "none")


def test_a_plan_that_is_wrong_is_refused_at_the_start(pillarbox: Pillarbox, server: Path) -> None:
    append(server, "\n[backup]\n")
    assert "repository is missing" in pillarbox.refused(27, "serve", server)
