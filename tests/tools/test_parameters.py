"""How arguments are written, and what a shell completes them to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

import click
from click.shell_completion import ShellComplete

from pillarbox.store.server import Server
from pillarbox.tools.cli import cli
from pillarbox.tools.parameters import moment, size

if TYPE_CHECKING:
    from conftest import Pillarbox

ANY: Any = None


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("17", 17),
        ("100K", 102400),
        ("2.5m", 2621440),
        ("1 GB", 1 << 30),
        ("3GiB", 3 << 30),
        ("1T", 1 << 40),
        ("9" * 400, 1 << 62),
    ],
)
def test_sizes_are_written_with_units(text: str, size_bytes: int) -> None:
    assert size(ANY, ANY, text) == size_bytes


@pytest.mark.parametrize("text", ["", "K", "-1", "1X", "1e9", "1,5M", "٣", "0x10"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size"):
        size(ANY, ANY, text)


def test_moments_are_of_the_local_clock_or_say_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moment(ANY, ANY, "1970-01-01T00:00:01Z") == 1000
    assert moment(ANY, ANY, "2002-08-31T18:30+02:00") == 1030811400000
    local, utc = moment(ANY, ANY, "2002-08-31"), moment(ANY, ANY, "2002-08-31T00:00Z")
    assert local is not None and utc is not None and abs(local - utc) <= 14 * 3_600_000


@pytest.mark.parametrize("text", ["", "yesterday", "2002-13-01", "31.8.2002", "0001-01-01T00:00+14:00"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no day or time"):
        moment(ANY, ANY, text)


def completed(*words: object) -> list[str]:
    """What a shell offers for the last word."""
    *before, incomplete = map(str, words)
    shell = ShellComplete(cli, {}, "pillarbox", "_PILLARBOX_COMPLETE")
    return [item.value for item in shell.get_completions(before, incomplete)]


def test_commands_are_completed() -> None:
    assert completed("mail") == ["mailbox"]
    assert set(completed("mailbox", "re")) == {"rename", "reconnect"}
    assert "--sort" in completed("list", "server", "anna", "Inbox", "--s")
    assert completed("list", "server", "anna", "Inbox", "--sort", "su") == ["subject"]


def test_names_of_the_server_are_completed(server: Path) -> None:
    assert completed("list", server, "") == ["anna", "bert"]
    assert completed("mailbox", "show", server, "AN") == ["anna"]
    assert completed("message", "move", server, "anna", "1-1", "--to-mailbox", "b") == ["bert"]
    assert completed("dismount", server, "mail") == ["Mailbox Store"]
    assert completed("limits", "show", server, "") == ["Mailbox Store", "Public Folder Store"]
    assert completed("group", "rename", server, "") == ["First Storage Group"]


def test_folders_of_the_mailbox_named_before_are_completed(pillarbox: Pillarbox, server: Path) -> None:
    for owner, path in (("anna", "lists/2002"), ("bert", "Old mail"), ("/", "Forum/Plans")):
        pillarbox.answer("folder", "create", server, owner, path, "--parents")
    assert completed("list", server, "anna", "LI") == ["lists", "lists/2002"]
    assert completed("folder", "show", server, "BERT", "old") == ["Old mail"]
    assert completed("folder", "list", server, "/", "") == ["Forum", "Forum/Plans"]
    assert completed("message", "list", server, "/Public Folder Store", "Forum/") == ["Forum/Plans"]
    assert completed("message", "search", server, "anna", "--folder", "lists/") == ["lists/2002"]
    move = ("folder", "move", server, "anna", "lists")
    assert completed(*move, "--to", "o") == ["Outbox"]
    assert completed(*move, "--to-mailbox", "bert", "--to", "o") == ["Old mail", "Outbox"]
    assert completed("message", "copy", server, "bert", "1-1", "--to", "Old") == ["Old mail"]
    assert completed("list", server, "nobody", "") == completed("folder", "show", server, "/x", "") == []


def test_completion_looks_only_and_never_fails(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        found = (path for path in server.rglob("*") if path.is_file() and path.name != "lock.mdb")
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = state()
    assert completed("list", server, "a") == ["anna"]
    assert completed("list", server, "anna", "s") == ["Sent Items", "spam"]
    assert state() == before
    for elsewhere in (tmp_path, tmp_path / "missing", "\0"):
        assert completed("list", elsewhere, "") == completed("mount", elsewhere, "") == []
        assert completed("list", elsewhere, "anna", "") == []
    with Server.open(server):
        assert completed("list", server, "") == []  # one process opens a database once
        assert completed("list", server, "anna", "") == []
    (server / "server.toml").write_text("broken")
    assert completed("list", server, "") == completed("group", "delete", server, "") == []
    assert completed("list", server, "anna", "") == []
