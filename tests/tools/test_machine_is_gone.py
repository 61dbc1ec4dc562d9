"""The machine is gone: a server from a repository alone; and a server.toml from the databases alone."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.backup import new_server
from pillarbox.store.server import Server
from pillarbox.store.server_config import parse_config, read_config, write_config

if TYPE_CHECKING:
    from conftest import Pillarbox

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def repo(pillarbox: Pillarbox, tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    pillarbox.answer("backup", "init", path, "--no-encryption")
    return path


@pytest.fixture
def lived_in(pillarbox: Pillarbox, server: Path) -> Path:
    """A server with mail in mailboxes and public folders, and settings of its own."""
    pillarbox.answer("import", server, "/", DATA / "spam")
    pillarbox.answer("limits", "set", server, "Mailbox Store", "--limit-gb", 5)
    pillarbox.answer("database", "rename", server, "Mailbox Store", "Post")
    return server


def mail(pillarbox: Pillarbox, server: Path, out: Path) -> dict[str, bytes]:
    found = {}
    for tree in ("anna", "bert", "/"):
        place = out / (tree.strip("/") or "public")
        pillarbox.answer("export", server, tree, place, "--format", "eml")
        found |= {str(path.relative_to(out)): path.read_bytes() for path in place.rglob("*.eml")}
    return found


def messages_of_anna(pillarbox: Pillarbox, server: Path) -> int:
    (box,) = [each for each in pillarbox.answer("mailbox", "list", server) if each["mailbox"] == "anna"]
    return int(box["messages"])


def without_change(pillarbox: Pillarbox, server: Path) -> list[dict[str, Any]]:
    told = ("group", "database", "kind", "state", "mount_at_startup", "limit_bytes", "mailboxes", "folders")
    return [{key: each.get(key) for key in told} for each in pillarbox.answer("status", server)]


def test_a_server_comes_back_from_its_repository_alone(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path
) -> None:
    before, status = mail(pillarbox, lived_in, tmp_path / "before"), without_change(pillarbox, lived_in)
    config = read_config(lived_in)
    pillarbox.answer("backup", "create", lived_in, repo)
    shutil.rmtree(lived_in)
    made = pillarbox.answer("backup", "restore", repo, "latest", "--new-server", lived_in)
    assert made["missing"] == [] and made["has_config"] and len(made["restored"]) == 2
    assert read_config(lived_in) == config
    assert without_change(pillarbox, lived_in) == status
    assert len(before) > 30 and mail(pillarbox, lived_in, tmp_path / "after") == before
    assert pillarbox.run("check", lived_in).exit_code == 0
    # It is the same server: backups go on, and `latest` means its own.
    pillarbox.answer("backup", "create", lived_in, repo, "--kind", "incremental")
    pillarbox.answer("recovery", "mount", lived_in, repo, "latest")
    assert "is a server already" in pillarbox.refused(
        51, "backup", "restore", repo, "latest", "--new-server", lived_in
    )


def test_a_copy_serves_beside_the_server_that_it_is_of(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path
) -> None:
    before = mail(pillarbox, lived_in, tmp_path / "before")
    pillarbox.answer("backup", "create", lived_in, repo)
    copy = tmp_path / "copy"
    pillarbox.answer("backup", "restore", repo, "latest", "--new-server", copy, "--as-copy")
    guids = [
        {config.guid, *(entry.guid for group in config.groups for entry in group.databases)}
        for config in (read_config(lived_in), read_config(copy))
    ]
    assert guids[0].isdisjoint(guids[1]) and len(guids[1]) == 3
    assert mail(pillarbox, copy, tmp_path / "after") == before
    assert pillarbox.run("check", copy).exit_code == 0
    pillarbox.answer("import", copy, "anna", next((DATA / "spam").glob("*.eml")))
    pillarbox.answer("backup", "create", copy, repo)
    assert "2 servers" in pillarbox.refused(26, "backup", "show", repo, "latest")
    assert "another server" in pillarbox.refused(
        20, "recovery", "mount", copy, repo, pillarbox.answer("backup", "list", repo)[0]["snapshot"]
    )
    # Its files stand for themselves: the tables come back from the stream under the new GUID.
    shutil.rmtree(copy / "First Storage Group" / "Mailbox Store" / "properties")
    pillarbox.answer("repair", copy, "Post", "--yes")
    assert pillarbox.run("check", copy).exit_code == 0


def test_each_database_comes_from_the_newest_snapshot_that_holds_it(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path
) -> None:
    first = pillarbox.answer("backup", "create", lived_in, repo)
    pillarbox.answer("dismount", lived_in, "Public Folder Store")
    pillarbox.answer("import", lived_in, "anna", next((DATA / "spam").glob("*.eml")))
    pillarbox.refused(54, "backup", "create", lived_in, repo)
    made = pillarbox.run("backup", "restore", repo, "latest", "--new-server", tmp_path / "new")
    assert made.exit_code == 0 and "of different times" in made.stdout
    pillarbox.answer("mount", tmp_path / "new", "Public Folder Store")
    (box,) = [
        each for each in pillarbox.answer("mailbox", "list", tmp_path / "new") if each["mailbox"] == "anna"
    ]
    assert box["messages"] == 31
    old = tmp_path / "old"
    pillarbox.answer("backup", "restore", repo, first["snapshot"], "--new-server", old)
    assert messages_of_anna(pillarbox, old) == 30


def test_a_database_that_no_snapshot_holds_is_named(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path
) -> None:
    pillarbox.answer("dismount", lived_in, "Public Folder Store")
    pillarbox.refused(54, "backup", "create", lived_in, repo)
    said = pillarbox.refused(54, "backup", "restore", repo, "latest", "--new-server", tmp_path / "new")
    assert "Public Folder Store" in said
    assert [each["database"] for each in pillarbox.answer("status", tmp_path / "new")] == ["Post"]


def test_older_snapshots_give_a_server_with_defaults_and_it_is_said(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = mail(pillarbox, lived_in, tmp_path / "before")
    pillarbox.answer("backup", "create", lived_in, repo)
    monkeypatch.setattr(new_server, "newest_config", lambda snapshots: None)
    made = pillarbox.run("backup", "restore", repo, "latest", "--new-server", tmp_path / "new")
    assert made.exit_code == 0 and "are defaults" in made.stdout
    assert read_config(tmp_path / "new").guid == read_config(lived_in).guid
    assert mail(pillarbox, tmp_path / "new", tmp_path / "after") == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("number", range(1, 12))
def test_a_new_server_that_was_killed_while_it_was_made_is_made_by_the_same_call(
    pillarbox: Pillarbox,
    lived_in: Path,
    repo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Killed before the n-th step of those that change what is in the directory."""
    pillarbox.answer("backup", "create", lived_in, repo)
    steps = 0

    def counted(step: Any) -> Any:
        def call(*words: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps >= number:
                raise Killed
            return step(*words, **options)

        return call

    for name in (
        "restore_files",
        "go_on_with_new_numbers",
        "rename_durably",
        "write_config",
        "flush_directory",
    ):
        monkeypatch.setattr(new_server, name, counted(getattr(new_server, name)))
    call = ("backup", "restore", repo, "latest", "--new-server", tmp_path / "new")
    try:
        pillarbox.run(*call)
    except (Killed, AssertionError):
        assert not (tmp_path / "new" / "server.toml").exists()
        names = {path.name for path in (tmp_path / "new").iterdir()}
        assert new_server.STAGING in names, "what is half made says so"
    else:
        assert steps < number
        return
    monkeypatch.undo()
    pillarbox.answer(*call)
    assert pillarbox.run("check", tmp_path / "new").exit_code == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} >= {"server.toml", "First Storage Group"}
    assert not (tmp_path / "new" / new_server.STAGING).exists()


def test_a_new_server_on_a_full_disk_ends_with_12_and_goes_on_when_there_is_room(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillarbox.answer("backup", "create", lived_in, repo)
    call = ("backup", "restore", repo, "latest", "--new-server", tmp_path / "new")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        pillarbox.refused(12, *call)
    assert [path.name for path in (tmp_path / "new").iterdir()] in ([], [new_server.STAGING])
    pillarbox.answer(*call)
    assert pillarbox.run("check", tmp_path / "new").exit_code == 0


@pytest.mark.parametrize("more", [(), ("--as-copy",)])
def test_from_a_damaged_repository_a_new_server_has_all_that_is_whole(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    pillarbox.answer("backup", "create", lived_in, repo)
    before = mail(pillarbox, lived_in, tmp_path / "before")
    pack = max(
        (each for each in (repo / "packs").rglob("*") if each.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    call = ("backup", "restore", repo, "latest", "--new-server", tmp_path / "new", *more)
    pillarbox.refused(30, *call)
    assert not (tmp_path / "new" / "server.toml").exists()
    said = pillarbox.refused(30, *call, "--keep-going")
    lost = said.count("damaged, not restored: ")
    after = mail(pillarbox, tmp_path / "new", tmp_path / "after")
    assert 0 < lost == len(before) - len(after)
    assert Counter(after.values()) <= Counter(before.values())
    assert pillarbox.run("check", tmp_path / "new").exit_code == 0


def test_a_directory_with_other_things_in_it_is_left_alone(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path
) -> None:
    pillarbox.answer("backup", "create", lived_in, repo)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_bytes(b"mine")
    pillarbox.refused(51, "backup", "restore", repo, "latest", "--new-server", tmp_path / "used")
    assert (tmp_path / "used" / "file").read_bytes() == b"mine"
    for more in (("--to", tmp_path / "x"), ("--database", "Post")):
        pillarbox.refused(2, "backup", "restore", repo, "latest", "--new-server", tmp_path / "new", *more)


# -- server.toml is gone


def test_a_lost_server_toml_is_made_anew_from_the_databases(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path
) -> None:
    before, config = mail(pillarbox, lived_in, tmp_path / "before"), read_config(lived_in)
    pillarbox.answer("backup", "create", lived_in, repo)
    (lived_in / "server.toml").unlink()
    assert f"pillarbox rebuild {lived_in}" in pillarbox.refused(40, "status", lived_in)
    made = pillarbox.answer("rebuild", lived_in)
    assert made["edition"] == "standard" and made["unknown"] == []
    kinds = {each["database"]: each["kind"] for each in made["databases"]}
    assert kinds == {"Mailbox Store": "mailbox store", "Public Folder Store": "public folder store"}
    again = read_config(lived_in)
    assert [entry.guid for entry in again.groups[0].databases] == [
        entry.guid for entry in config.groups[0].databases
    ]
    assert mail(pillarbox, lived_in, tmp_path / "after") == before
    pillarbox.answer("recovery", "mount", lived_in, repo, "latest")
    pillarbox.refused(51, "rebuild", lived_in)


def test_with_a_repository_a_lost_server_toml_is_what_it_was(
    pillarbox: Pillarbox, lived_in: Path, repo: Path
) -> None:
    (lived_in / "server.toml").write_text("# ours\n" + (lived_in / "server.toml").read_text())
    pillarbox.answer("backup", "create", lived_in, repo)
    text = (lived_in / "server.toml").read_text()
    (lived_in / "server.toml").unlink()
    assert pillarbox.answer("rebuild", lived_in, repo)["has_config"]
    assert (lived_in / "server.toml").read_text() == text
    # Databases that came since are added, and those whose files are gone stay: they can be restored.
    pillarbox.answer("dismount", lived_in, "Public Folder Store")
    pillarbox.answer("database", "delete", lived_in, "Public Folder Store", "--yes")
    pillarbox.answer("database", "create", lived_in, "Forum", "--kind", "public-folder")
    (lived_in / "server.toml").unlink()
    made = pillarbox.answer("rebuild", lived_in, repo)
    assert [each["database"] for each in made["databases"]] == ["Post", "Public Folder Store", "Forum"]
    (lived_in / "server.toml").unlink()
    assert not pillarbox.answer("rebuild", lived_in)["has_config"]


def test_the_comments_of_server_toml_come_back_with_its_server(
    pillarbox: Pillarbox, lived_in: Path, repo: Path, tmp_path: Path
) -> None:
    path = lived_in / "server.toml"
    path.write_text("# ours\nof_a_newer_program = 1\n" + path.read_text() + "\n# and at the end\n")
    pillarbox.answer("backup", "create", lived_in, repo)
    pillarbox.answer("backup", "restore", repo, "latest", "--new-server", tmp_path / "new")
    assert (tmp_path / "new" / "server.toml").read_text() == path.read_text()


def test_a_server_toml_that_is_being_changed_is_backed_up_as_it_was_in_force(
    lived_in: Path,
) -> None:
    with Server.open(lived_in, mount=False) as opened:
        config = read_config(lived_in)
        (lived_in / "server.toml").write_text("guid = ")
        assert parse_config(opened.config_text()) == config


def test_a_database_with_damaged_tables_is_told_by_its_stream(pillarbox: Pillarbox, lived_in: Path) -> None:
    (lived_in / "server.toml").unlink()
    (lived_in / "First Storage Group" / "Mailbox Store" / "properties" / "data.mdb").write_bytes(b"damaged")
    made = pillarbox.answer("rebuild", lived_in)
    assert {each["database"]: each["kind"] for each in made["databases"]}["Mailbox Store"] == "mailbox store"
    pillarbox.answer("repair", lived_in, "Mailbox Store", "--yes")
    assert pillarbox.run("check", lived_in).exit_code == 0


def test_two_directories_of_one_database_are_not_guessed_among(pillarbox: Pillarbox, lived_in: Path) -> None:
    group = lived_in / "First Storage Group"
    shutil.copytree(group / "Mailbox Store", group / "Copy")
    (lived_in / "server.toml").unlink()
    assert "hold the same database" in pillarbox.refused(50, "rebuild", lived_in)
    assert not (lived_in / "server.toml").exists()
    pillarbox.refused(40, "rebuild", group / "Copy")


def test_what_is_kept_of_a_server_reads_back_as_it_was(lived_in: Path) -> None:
    config = read_config(lived_in)
    write_config(lived_in, config)
    assert parse_config((lived_in / "server.toml").read_text()) == config
