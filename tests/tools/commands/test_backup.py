"""Backups from the command line: what comes back, what is told, what is refused."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.store.clock import SystemClock, VirtualClock
from pillarbox.store.disk.checkpoint import read_checkpoint, write_checkpoint
from pillarbox.tools.commands import restore as restores
from pillarbox.tools.commands import retention
from pillarbox.tools.output import confirm
from pillarbox.tools.repository_options import PASSPHRASE

if TYPE_CHECKING:
    from conftest import Pillarbox

DATA = Path(__file__).parents[2] / "data"
STORE = "First Storage Group/Mailbox Store"
DAY_MS = 86_400_000
PAGE, BRANCH, LEAF = 4096, 1, 2  # LMDB's: bytes of a page, and its kinds


@pytest.fixture
def repo(pillarbox: Pillarbox, tmp_path: Path) -> Path:
    """A repository that is not encrypted: what a passphrase costs is no part of most tests."""
    path = tmp_path / "repo"
    assert pillarbox.answer("backup", "init", path, "--no-encryption")["encrypted"] is False
    return path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """The clock of `run-due`: that of the machine, until it is moved."""
    found = VirtualClock(SystemClock().now_ms())
    monkeypatch.setattr(retention, "SystemClock", lambda: found)
    return found


def exported(pillarbox: Pillarbox, server: Path, out: Path) -> dict[str, bytes]:
    pillarbox.answer("export", server, "anna", out, "--format", "eml")
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.eml")}


def test_a_snapshot_is_listed_shown_checked_and_verified(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    made = pillarbox.answer("backup", "create", server, repo)
    (listed,) = pillarbox.answer("backup", "list", repo)
    assert listed["snapshot"] == made["snapshot"] and listed["kind"] == "full"
    shown = pillarbox.answer("backup", "show", repo, "latest")
    contents = {each["database"]: each["contents"] for each in shown["databases"]}
    boxes = {each["mailbox"]: each for each in contents["Mailbox Store"]}
    assert {name: each["messages"] for name, each in boxes.items()} == {"anna": 30, "bert": 0}
    folders = {each["folder"]: each["messages"] for each in boxes["anna"]["folders"]}
    assert sum(folders.values()) == 30 and folders["Inbox"] == 0
    assert pillarbox.answer("backup", "check", repo, "--read-data")["clean"]
    assert len(pillarbox.answer("backup", "verify", repo, made["snapshot"][:8])["verified"]) == 2


def test_a_backup_that_leaves_a_database_out_backs_up_the_others_and_says_so(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    pillarbox.answer("dismount", server, "Public Folder Store")
    for words in (("run-due", "--every", "1d"), ("create",), ("capture", "--once")):
        made = pillarbox.run("backup", words[0], server, repo, *words[1:], "--json")
        assert made.exit_code == 54
        assert "Public Folder Store: it is dismounted" in made.stderr
    for listed in pillarbox.answer("backup", "list", repo):
        assert [each["database"] for each in listed["databases"]] == ["Mailbox Store"]
        assert listed["left_out"] == ["Public Folder Store"]
    assert "without Public Folder Store" in pillarbox.run("backup", "list", repo).stdout
    pillarbox.answer("dismount", server, "Mailbox Store")
    assert "no mounted database" in pillarbox.refused(40, "backup", "create", server, repo)


def test_a_dismounted_database_keeps_its_one_snapshot_whatever_prunes(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path, clock: VirtualClock
) -> None:
    before = exported(pillarbox, server, tmp_path / "before")
    first = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    pillarbox.answer("dismount", server, "Mailbox Store")
    for _ in range(3):
        clock.advance_ms(DAY_MS)
        pillarbox.refused(54, "backup", "run-due", server, repo, "--every", "1d", "--keep-last", 1)
    pillarbox.answer("backup", "prune", repo, "--keep-last", 1, "--keep-gone", "1s")
    listed = pillarbox.answer("backup", "list", repo)
    assert [each["snapshot"] for each in listed[:1]] == [first] and len(listed) == 2
    pillarbox.answer("backup", "restore", repo, first, "--to", tmp_path / "to", "--thorough")
    pillarbox.answer("mount", server, "Mailbox Store")
    assert exported(pillarbox, server, tmp_path / "after") == before


def test_a_deleted_database_stays_in_the_repository_until_a_time_is_said(
    pillarbox: Pillarbox, server: Path, repo: Path, clock: VirtualClock
) -> None:
    first = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    pillarbox.answer("dismount", server, "Public Folder Store")
    pillarbox.answer("database", "delete", server, "Public Folder Store", "--yes")
    second = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    prune = ("backup", "prune", repo, "--keep-last", 1)
    (gone,) = pillarbox.answer(*prune)["gone"]
    assert (gone["database"], gone["snapshot"]) == ("Public Folder Store", first)
    assert "stays in" in (said := pillarbox.run(*prune).stdout) and "--keep-gone TIME" in said
    clock.advance_ms(DAY_MS)
    run = pillarbox.run("backup", "run-due", server, repo, "--every", "1d", "--keep-last", 1)
    assert "no longer has, stays in" in run.stdout
    assert pillarbox.answer(*prune, "--keep-gone", "1h")["gone"] == []
    listed = [each["snapshot"] for each in pillarbox.answer("backup", "list", repo)]
    assert first not in listed and second not in listed and len(listed) == 1


def test_snapshots_are_forgotten_by_name_once_that_is_confirmed(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    first, second = (pillarbox.answer("backup", "create", server, repo)["snapshot"] for _ in range(2))
    said = pillarbox.refused(20, "backup", "forget", repo, first[:12], second[:12], input="")
    assert "No other snapshot holds database Mailbox Store" in said and "Forget 2 snapshots?" in said
    assert len(pillarbox.answer("backup", "list", repo)) == 2
    pillarbox.refused(40, "backup", "forget", repo, first, "zzzz", "--yes")
    assert pillarbox.run("backup", "forget", repo, first[:12], input="y\n").exit_code == 0
    done = pillarbox.answer("backup", "forget", repo, "latest", "--yes")
    assert done["forgotten"] == [second] and len(done["last_of"]) == 2
    assert pillarbox.answer("backup", "list", repo) == []
    assert pillarbox.answer("backup", "check", repo)["clean"]


def test_a_damaged_or_lost_snapshot_is_forgotten_by_name(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    lost = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    (repo / "snapshots" / lost).unlink()
    assert pillarbox.answer("backup", "forget", repo, lost[:8], "--yes")["forgotten"] == [lost]
    assert pillarbox.answer("backup", "check", repo)["clean"]


def test_what_is_restored_is_what_was_backed_up(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path
) -> None:
    before = exported(pillarbox, server, tmp_path / "before")
    pillarbox.answer("backup", "create", server, repo)
    pillarbox.answer("mailbox", "disconnect", server, "anna")
    pillarbox.answer("mailbox", "purge", server, "anna", "--yes")
    restored = pillarbox.answer("backup", "restore", repo, "latest", "--server", server, "--all", "--yes")
    assert {each["database"] for each in restored["restored"]} == {"Mailbox Store", "Public Folder Store"}
    assert exported(pillarbox, server, tmp_path / "after") == before
    pillarbox.answer("backup", "restore", repo, "latest", "--to", tmp_path / "to", "--thorough")
    assert (tmp_path / "to" / STORE / "stream").is_dir()
    assert "exists already" in pillarbox.refused(
        51, "backup", "restore", repo, "latest", "--to", tmp_path / "to"
    )


def test_a_diff_names_what_changed_and_nothing_else(pillarbox: Pillarbox, server: Path, repo: Path) -> None:
    first = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    assert pillarbox.answer("backup", "diff", repo, first, "latest") == []
    folders = {each["folder"]: each["messages"] for each in pillarbox.answer("list", server, "anna")}
    source = max(folders, key=lambda name: folders[name])
    moved, flagged, deleted = [each["id"] for each in pillarbox.answer("list", server, "anna", source)][:3]
    pillarbox.answer("folder", "create", server, "anna", "Kept")
    pillarbox.answer("message", "move", server, "anna", moved, "--to", "Kept")
    pillarbox.answer("message", "flag", server, "anna", flagged, "--add", "\\Flagged")
    pillarbox.answer("message", "delete", server, "anna", deleted, "--yes")
    pillarbox.answer("folder", "rename", server, "anna", source, "Renamed")
    pillarbox.answer("backup", "create", server, repo, "--kind", "incremental")
    rows = {each["path"]: each for each in pillarbox.answer("backup", "diff", repo, first, "latest")}
    assert rows.keys() == {"Kept", "Renamed"}
    assert rows["Kept"]["is_new"] and rows["Kept"]["added_count"] == 1
    assert rows["Renamed"]["path_before"] == source and not rows["Renamed"]["is_new"]
    assert (rows["Renamed"]["removed_count"], rows["Renamed"]["changed_count"]) == (2, 1)
    back = {each["path"]: each for each in pillarbox.answer("backup", "diff", repo, "latest", first)}
    assert back["Kept"]["is_gone"] and back[source]["added_count"] == 2
    assert "anna/Kept: new, +1 message" in pillarbox.run("backup", "diff", repo, first, "latest").stdout


def test_prune_says_first_what_it_then_does(pillarbox: Pillarbox, server: Path, repo: Path) -> None:
    first = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    second = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    tried = pillarbox.answer("backup", "prune", repo, "--keep-last", 1, "--dry-run")
    assert {each["snapshot"]: each["kept"] for each in tried["snapshots"]} == {first: False, second: True}
    assert len(pillarbox.answer("backup", "list", repo)) == 2
    done = pillarbox.answer("backup", "prune", repo, "--keep-last", 1)
    assert done["bytes_after"] == pytest.approx(tried["bytes_after"], rel=0.05)
    assert [each["snapshot"] for each in pillarbox.answer("backup", "list", repo)] == [second]
    assert "nothing is said to be kept" in pillarbox.refused(27, "backup", "prune", repo)


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_a_snapshot_that_cannot_be_read_stops_only_itself(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path, how: str
) -> None:
    before = exported(pillarbox, server, tmp_path / "before")
    hit, _, last = (pillarbox.answer("backup", "create", server, repo)["snapshot"] for _ in range(3))
    (file,) = repo.rglob(f"snapshots/**/{hit}")
    whole = file.read_bytes()
    file.unlink()
    if how == "damaged":
        file.write_bytes(whole[:-1])
    listed = pillarbox.run("backup", "list", repo)
    assert listed.exit_code == 0 and hit in listed.stderr and last[:12] in listed.stdout
    pillarbox.answer("backup", "restore", repo, "latest", "--to", tmp_path / "to")
    pillarbox.answer("backup", "create", server, repo)
    words = ("backup", "prune", repo, "--keep-last", 1)
    assert pillarbox.answer(*words, "--dry-run")["lost"] == [hit]
    pruned = pillarbox.run(*words)
    assert pruned.exit_code == 0 and hit in pruned.stderr and "2 snapshots forgotten" in pruned.stdout
    file.unlink(missing_ok=True)
    file.write_bytes(whole)
    pillarbox.answer("backup", "restore", repo, hit, "--to", tmp_path / "again", "--thorough")
    shutil.rmtree(server / STORE)
    shutil.copytree(tmp_path / "again" / STORE, server / STORE)
    assert exported(pillarbox, server, tmp_path / "after") == before
    file.unlink()
    assert pillarbox.answer(*words, "--forget-lost")["lost"] == [hit]
    assert pillarbox.run("backup", "check", repo).exit_code == 0


def test_when_the_newest_snapshot_is_gone_the_one_before_it_must_be_named(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path
) -> None:
    before, newest = (pillarbox.answer("backup", "create", server, repo)["snapshot"] for _ in range(2))
    (file,) = repo.rglob(f"snapshots/**/{newest}")
    file.unlink()
    for words in (
        ("show", repo, "latest"),
        ("restore", repo, "latest", "--server", server, "--all", "--yes"),
    ):
        said = pillarbox.refused(20, "backup", *words)
        assert newest[:12] in said and before[:12] in said
    said = pillarbox.refused(20, "recovery", "mount", server, repo, "latest")
    assert newest[:12] in said
    pillarbox.answer("recovery", "mount", server, repo, before)
    pillarbox.answer("recovery", "dismount", server)
    pillarbox.answer("backup", "forget", repo, newest, "--yes")
    assert pillarbox.answer("backup", "show", repo, "latest")["snapshot"] == before


def test_a_backup_is_taken_only_when_it_is_due(pillarbox: Pillarbox, server: Path, repo: Path) -> None:
    words = ("backup", "run-due", server, repo, "--every", "1d", "--keep-daily", 3)
    taken = pillarbox.answer(*words)
    assert taken["snapshot"] and taken["forgotten"] == []
    again = pillarbox.answer(*words)
    assert again["snapshot"] is None and again["next_ms"] == taken["next_ms"]
    assert pillarbox.run("backup", "run-due", server, repo, "--every", "soon").exit_code == 2


def test_copies_go_into_a_repository_with_a_key_of_its_own(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path
) -> None:
    pillarbox.answer("backup", "create", server, repo)
    other, key = tmp_path / "other", tmp_path / "other.key"
    pillarbox.answer("backup", "init", other, "--key-file", key)
    assert key.stat().st_mode & 0o777 == 0o600
    for copied in (1, 0):
        answer = pillarbox.answer("backup", "copy", repo, other, "--other-key-file", key)
        assert answer["copied"] == copied
    assert pillarbox.answer("backup", "check", other, "--read-data", "--key-file", key)["clean"]
    assert "is encrypted" in pillarbox.refused(61, "backup", "list", other)


def test_a_copy_goes_into_a_repository_that_is_not_encrypted_when_that_is_said(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed, key = tmp_path / "sealed", tmp_path / "sealed.key"
    pillarbox.answer("backup", "init", sealed, "--key-file", key)
    pillarbox.answer("backup", "create", server, sealed, "--key-file", key)
    monkeypatch.setenv(PASSPHRASE, "of something else")
    copy = ("backup", "copy", sealed, repo, "--key-file", key)
    said = pillarbox.refused(61, *copy)
    assert f"{repo}: the repository is not encrypted" in said and "--other-no-encryption" in said
    said = pillarbox.refused(61, "backup", "copy", sealed, sealed, "--key-file", key, "--other-no-encryption")
    assert "is encrypted" in said and "--other-key-file" in said
    pillarbox.refused(2, *copy, "--other-no-encryption", "--other-key-file", key)
    assert pillarbox.answer(*copy, "--other-no-encryption")["copied"] == 1
    monkeypatch.delenv(PASSPHRASE)
    assert pillarbox.answer("backup", "check", repo, "--read-data")["clean"]


def test_an_encrypted_repository_opens_with_its_passphrase_alone(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no passphrase" in pillarbox.refused(27, "backup", "init", tmp_path / "repo")
    monkeypatch.setenv(PASSPHRASE, "first")
    assert pillarbox.answer("backup", "init", tmp_path / "repo")["encrypted"] is True
    pillarbox.answer("backup", "create", server, tmp_path / "repo")
    packs = b"".join(path.read_bytes() for path in (tmp_path / "repo").rglob("*") if path.is_file())
    assert b"Received:" not in packs
    (tmp_path / "passphrase").write_text("first\n")
    monkeypatch.setenv(PASSPHRASE, "second")
    assert "no key" in pillarbox.refused(61, "backup", "list", tmp_path / "repo")
    file = ("--passphrase-file", tmp_path / "passphrase")
    assert len(pillarbox.answer("backup", "list", tmp_path / "repo", *file)) == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written_a_repository_is_read_and_nothing_else(
    pillarbox: Pillarbox,
    server: Path,
    repo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    made = pillarbox.answer("backup", "create", server, repo)["snapshot"]

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(DirectoryBackend, "_put_once", refuse)
    monkeypatch.setattr(DirectoryBackend, "delete", refuse)
    for words in (("check", repo, "--read-data"), ("prune", repo, "--keep-last", "1", "--dry-run")):
        checked = pillarbox.run("backup", *words)
        assert checked.exit_code == 0, checked.output
        (said,) = checked.stderr.splitlines()
        assert os.strerror(number) in said and "without a lock" in said
    assert [each["snapshot"] for each in pillarbox.answer("backup", "list", repo)] == [made]
    pillarbox.answer("backup", "show", repo, "latest")
    pillarbox.answer("backup", "restore", repo, "latest", "--to", tmp_path / "to")
    code = {errno.EROFS: 22, errno.EACCES: 56}[number]
    for words in (("create", server, repo), ("prune", repo, "--keep-last", "1")):
        assert os.strerror(number) in pillarbox.refused(code, "backup", *words)


def test_damage_is_named_with_the_snapshot_it_hits_and_never_restored(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path
) -> None:
    snapshot = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    pack = max(
        (path for path in (repo / "packs").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    result = pillarbox.run("backup", "check", repo, "--read-data")
    assert result.exit_code == 1 and snapshot[:8] in result.stdout and pack.name in result.stdout
    pillarbox.refused(30, "backup", "restore", repo, "latest", "--to", tmp_path / "to")
    assert not (tmp_path / "to" / STORE).exists()
    going = (
        "restore",
        repo,
        "latest",
        "--to",
        tmp_path / "to",
        "--database",
        "Mailbox Store",
        "--keep-going",
    )
    said = pillarbox.refused(30, "backup", *going)
    assert "damaged, and not restored" in said and "backup check" in said
    assert "damaged, not restored: " in said and " from " in said
    assert (tmp_path / "to" / STORE).is_dir()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("list", "{repo}-missing"), 40),
        (("list", "{server}/server.toml"), 40),
        (("init", "{server}/server.toml", "--no-encryption"), 51),
        (("init", "{server}", "--no-encryption"), 50),
        (("init", "{repo}-new", "--key-file", "{repo}-missing/key"), 27),
        (("show", "{repo}", "abcd"), 40),
        (("show", "{repo}", "latest"), 40),
        (("show", "{repo}", "@tomorrow"), 27),
        (("create", "{server}", "{repo}", "--group", "none"), 40),
        (("create", "{server}", "{repo}", "--kind", "incremental"), 20),
        (("create", "{server}-missing", "{repo}"), 40),
        (("init", "{repo}", "--no-encryption"), 51),
        (("check", "{repo}", "--read-data=much"), 27),
        (("restore", "{repo}", "latest"), 2),
    ],
)
def test_a_mistake_gets_a_sentence(
    pillarbox: Pillarbox, server: Path, repo: Path, words: tuple[str, ...], code: int
) -> None:
    result = pillarbox.run("backup", *(word.format(repo=repo, server=server) for word in words))
    assert result.exit_code == code and "Traceback" not in result.output
    said = result.stderr.splitlines()
    assert code == 2 or (said[-2].startswith("pillarbox: ") and said[-1].startswith("  ")), "and what to do"


def test_a_repository_is_made_where_nothing_else_is(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    before = sorted(server.rglob("*"))
    assert pillarbox.run("backup", "init", server, "--no-encryption").exit_code == 50
    assert sorted(server.rglob("*")) == before
    for left in ("keys", "tmp", "lost+found"):  # of an `init` that was interrupted, or of a new file system
        (tmp_path / "disk" / left).mkdir(parents=True)
    assert pillarbox.run("backup", "init", tmp_path / "disk", "--no-encryption").exit_code == 0


def test_a_database_whose_files_are_gone_is_left_out_and_comes_back_by_a_restore(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path
) -> None:
    before = exported(pillarbox, server, tmp_path / "before")
    whole = pillarbox.answer("backup", "create", server, repo)["snapshot"]
    shutil.rmtree(server / STORE)
    assert "Mailbox Store" in pillarbox.refused(54, "backup", "create", server, repo)
    assert len(pillarbox.answer("backup", "list", repo)) == 2
    pillarbox.answer("backup", "restore", repo, whole, "--server", server, "--yes")
    assert exported(pillarbox, server, tmp_path / "after") == before


# -- restores over a server


def mail_in(pillarbox: Pillarbox, server: Path) -> int:
    (row,) = [each for each in pillarbox.answer("mailbox", "list", server) if each["mailbox"] == "anna"]
    return int(row["messages"])


@pytest.fixture
def newer(pillarbox: Pillarbox, server: Path, repo: Path) -> int:
    """How many messages anna has: one and a mailbox came after the snapshot in `repo`."""
    pillarbox.answer("backup", "create", server, repo)
    pillarbox.answer("import", server, "anna", next((DATA / "spam").glob("*.eml")))
    pillarbox.answer("mailbox", "create", server, "carl")
    return mail_in(pillarbox, server)


def test_a_restore_over_a_server_touches_nothing_that_is_whole_and_not_named(
    pillarbox: Pillarbox, server: Path, repo: Path, newer: int
) -> None:
    restore = ("backup", "restore", repo, "latest", "--server", server)
    said = pillarbox.refused(20, *restore, "--yes")
    assert "Mailbox Store" in said and "Public Folder Store" in said and "--all" in said
    pillarbox.answer(*restore, "--database", "Public Folder Store", "--yes")
    assert mail_in(pillarbox, server) == newer


def test_a_restore_over_a_server_says_what_would_go_and_asks(
    pillarbox: Pillarbox, server: Path, repo: Path, newer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = ("backup", "restore", repo, "latest", "--server", server, "--database", "mailbox store")
    said = pillarbox.refused(20, *restore, input="y\n")
    assert "1 message and 1 mailbox are newer, and would go" in said and "there is no terminal" in said
    monkeypatch.setattr(restores, "confirm_at_terminal", confirm)
    assert "Restore over 1 database? [y/N]" in pillarbox.refused(20, *restore, input="n\n")
    assert mail_in(pillarbox, server) == newer
    assert pillarbox.run(*restore, input="y\n").exit_code == 0
    assert mail_in(pillarbox, server) == newer - 1


def test_a_restore_over_a_server_goes_to_what_is_damaged(
    pillarbox: Pillarbox, server: Path, repo: Path, newer: int, damage: Callable[[Path], None]
) -> None:
    damage(server)
    assert pillarbox.run("check", server).exit_code == 1
    (done,) = pillarbox.answer("backup", "restore", repo, "latest", "--server", server, "--yes")["restored"]
    assert done["database"] == "Mailbox Store"
    assert pillarbox.run("check", server).exit_code == 0
    assert mail_in(pillarbox, server) == newer - 1


def test_what_a_restore_replaced_is_kept_and_counted_until_it_is_discarded(
    pillarbox: Pillarbox, server: Path, repo: Path, newer: int, tmp_path: Path
) -> None:
    restore = ("backup", "restore", repo, "latest", "--server", server, "--database", "Mailbox Store")
    (done,) = pillarbox.answer(*restore, "--yes")["restored"]
    assert Path(done["replaced"]).is_relative_to(server / "replaced")
    status = {each["database"]: each["replaced_bytes"] for each in pillarbox.answer("status", server)}
    assert status["Mailbox Store"] > 0 and status["Public Folder Store"] == 0
    assert "1 replaced database kept" in pillarbox.run("status", server).stdout
    # It is what was there, byte for byte: put in its place, it serves.
    shutil.copytree(done["replaced"], tmp_path / "kept")
    assert "Remove 1 replaced database?" in pillarbox.refused(20, "backup", "discard-replaced", server)
    (gone,) = pillarbox.answer("backup", "discard-replaced", server, "--yes")
    assert gone["path"] == done["replaced"] and not (server / "replaced").exists()
    assert pillarbox.answer("backup", "discard-replaced", server, "--yes") == []
    shutil.rmtree(server / STORE)
    shutil.copytree(tmp_path / "kept", server / STORE)
    assert mail_in(pillarbox, server) == newer
    assert pillarbox.run("check", server).exit_code == 0


def test_a_restore_over_a_bent_page_that_ends_its_process_goes_on_by_itself(
    pillarbox: Pillarbox, server: Path, repo: Path, newer: int
) -> None:
    """LMDB ends the process that meets the page; another is told of it, and leaves the tables alone.

    The checkpoint has no sums, which would have told before: as an earlier version has left it.
    """
    write_checkpoint(server / STORE, read_checkpoint(server / STORE)._replace(tables_sums=b""))
    data = server / STORE / "properties" / "data.mdb"
    pages = bytearray(data.read_bytes())
    for page in range(2 * PAGE, len(pages), PAGE):
        number, _, flags = struct.unpack_from("<QHH", pages, page)
        if (number * PAGE, flags) == (page, LEAF) and b"identity" in pages[page : page + PAGE]:
            struct.pack_into("<HH", pages, page + 10, BRANCH, 16 + 2)  # a branch of one row, which cannot be
    data.write_bytes(pages)
    program = "from pillarbox.tools.main import run; run()"
    restore = ("backup", "restore", str(repo), "latest", "--server", str(server), "--yes")
    command = [sys.executable, "-c", program, *restore, "--database", "Mailbox Store"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "once more, with the pages verified" in ended.stderr
    assert mail_in(pillarbox, server) == newer - 1
    assert pillarbox.run("check", server).exit_code == 0
