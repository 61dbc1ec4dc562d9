"""The recovery storage group from the command line: what comes and goes, a look inside, mail merged back."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.backup import recovery_group
from pillarbox.backup.merge import run as merge_run
from pillarbox.backup.merge.target import MailboxDestination
from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.backup.repository.crypto import Unencrypted
from pillarbox.backup.repository.repository import Repository
from pillarbox.backup.restore import read_restorable, restorable_databases
from pillarbox.store.clock import SystemClock
from pillarbox.store.server import Server
from pillarbox.tools.repository_options import PASSPHRASE

if TYPE_CHECKING:
    from conftest import Pillarbox

DATA = Path(__file__).parents[2] / "data"
STORE = "Mailbox Store"


@pytest.fixture
def repo(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> Path:
    """A repository, not encrypted, with a snapshot of `server`."""
    path = tmp_path / "repo"
    pillarbox.answer("backup", "init", path, "--no-encryption")
    pillarbox.answer("backup", "create", server, path)
    return path


@pytest.fixture
def mounted(pillarbox: Pillarbox, server: Path, repo: Path) -> Path:
    """`server`, with its snapshot in the recovery storage group."""
    pillarbox.answer("recovery", "mount", server, repo, "latest")
    return server


def exported(pillarbox: Pillarbox, server: Path, name: str, out: Path) -> list[tuple[str, str]]:
    """Folder and digest of each message of a mailbox."""
    pillarbox.answer("export", server, name, out, "--format", "eml")
    return sorted(
        (str(path.parent.relative_to(out)), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in out.rglob("*.eml")
    )


def purge(pillarbox: Pillarbox, server: Path, name: str) -> None:
    pillarbox.answer("mailbox", "disconnect", server, name)
    pillarbox.answer("mailbox", "purge", server, name, "--yes")


# -- databases that come and go


def test_a_snapshot_is_mounted_beside_the_live_databases_and_leaves_nothing(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    (entry, public) = pillarbox.answer("recovery", "mount", server, repo, "latest")
    assert (entry["database"], entry["held_as"], entry["mounted"]) == (STORE, "repository", True)
    listed = pillarbox.answer("recovery", "list", server)
    assert (listed["source_group"], listed["databases"]) == ("First Storage Group", [entry, public])
    assert [each["database"] for each in pillarbox.answer("status", server)] == [
        STORE,
        "Public Folder Store",
    ]
    assert pillarbox.answer("recovery", "dismount", server)["group_removed"]
    assert "no recovery storage group" in pillarbox.refused(40, "recovery", "list", server)
    assert not (server / "recovery").exists()


def test_a_mount_that_is_killed_leaves_no_group_that_would_take_later_restores(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, restore_records = tmp_path / "killed", recovery_group.restore_records

    def copy_and_restore(*words: Any, **options: Any) -> None:
        if not killed.exists():
            shutil.copytree(server, killed)
        restore_records(*words, **options)

    monkeypatch.setattr(recovery_group, "restore_records", copy_and_restore)
    pillarbox.answer("recovery", "mount", server, repo, "latest")
    pillarbox.refused(40, "recovery", "list", killed)
    restored = pillarbox.answer("backup", "restore", repo, "latest", "--server", killed, "--all", "--yes")
    restored = restored["restored"]
    assert {Path(each["path"]).parents[1] for each in restored} == {killed}


def test_the_rules_of_the_group_are_told_in_words(pillarbox: Pillarbox, mounted: Path, repo: Path) -> None:
    again = pillarbox.refused(51, "recovery", "mount", mounted, repo, "latest")
    assert "in the recovery storage group already" in again and "recovery dismount" in again
    pillarbox.answer("recovery", "dismount", mounted)
    missing = ("recovery", "mount", mounted, repo, "latest", "--database", "Nobody's Store")
    assert "Nobody's Store" in pillarbox.refused(40, *missing)
    # What failed to mount leaves no empty group behind: later restores would go there.
    pillarbox.refused(40, "recovery", "list", mounted)


def test_a_restore_goes_to_the_group_that_was_made_and_is_mounted_there(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    pillarbox.answer("recovery", "create", server)
    pillarbox.refused(51, "recovery", "create", server)
    told = pillarbox.run("backup", "restore", repo, "latest", "--server", server)
    assert "Public Folder Store" in told.stderr and "recovery override" in told.stderr
    (entry,) = pillarbox.answer("recovery", "list", server)["databases"]
    assert (entry["held_as"], entry["mounted"]) == ("files", False)
    pillarbox.refused(40, "recovery", "merge", server, "anna")
    pillarbox.answer("recovery", "mount", server)
    assert pillarbox.answer("recovery", "merge", server, "anna")[0]["duplicates"] == 30
    assert "its files stay until --delete" in pillarbox.run("recovery", "dismount", server).stdout
    assert pillarbox.answer("recovery", "list", server)["databases"][0]["mounted"] is False
    assert "Mailbox Store is deleted." in pillarbox.run("recovery", "dismount", server, "--delete").stdout
    pillarbox.refused(40, "recovery", "list", server)


def test_with_the_override_a_restore_goes_to_the_original_place(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    pillarbox.answer("recovery", "create", server)
    pillarbox.answer("recovery", "override", server, "on")
    purge(pillarbox, server, "anna")
    pillarbox.answer("backup", "restore", repo, "latest", "--server", server, "--all", "--yes")
    assert {each["mailbox"] for each in pillarbox.answer("mailbox", "list", server)} == {"anna", "bert"}
    assert pillarbox.answer("recovery", "list", server) == {
        "source_server": None,
        "source_group": None,
        "override": True,
        "databases": [],
    }


# -- a look inside


def test_recovered_mail_is_looked_at_without_merging_it(
    pillarbox: Pillarbox, mounted: Path, tmp_path: Path
) -> None:
    pillarbox.answer("folder", "delete", mounted, "anna", "spam", "--with-contents", "--yes")
    purge(pillarbox, mounted, "bert")
    boxes = {each["mailbox"]: each for each in pillarbox.answer("recovery", "mailboxes", mounted)}
    assert (boxes["anna"]["messages"], boxes["anna"]["matched_by"]) == (30, "guid")
    assert (boxes["bert"]["live_mailbox"], boxes["bert"]["matched_by"]) == (None, "none")
    folders = {
        each["folder"]: each["messages"] for each in pillarbox.answer("recovery", "look", mounted, "anna")
    }
    assert (folders["spam"], folders["lists"]) == (6, 24)
    (row,) = pillarbox.answer("recovery", "look", mounted, "anna", "spam", "--limit", 1)
    shown = pillarbox.run("recovery", "show", mounted, "Anna", row["id"])
    assert shown.stdout_bytes in {path.read_bytes() for path in (DATA / "spam").iterdir()}
    assert "no mailbox 'carl'" in pillarbox.refused(40, "recovery", "look", mounted, "carl")
    assert "has no message 9-9f" in pillarbox.refused(40, "recovery", "show", mounted, "anna", "9-9f")


# -- merging


def test_a_dry_run_says_what_the_merge_then_does_and_running_it_twice_adds_nothing(
    pillarbox: Pillarbox, mounted: Path, tmp_path: Path
) -> None:
    before = exported(pillarbox, mounted, "anna", tmp_path / "before")
    pillarbox.answer("folder", "delete", mounted, "anna", "spam", "--with-contents", "--yes")
    pillarbox.answer("folder", "rename", mounted, "anna", "lists", "Kept")
    (said,) = pillarbox.answer("recovery", "merge", mounted, "anna", "--dry-run")
    assert (said["merged"], said["duplicates"], said["folders_made"]) == (6, 24, ["spam"])
    assert "spam" not in {each["folder"] for each in pillarbox.answer("list", mounted, "anna")}
    (done,) = pillarbox.answer("recovery", "merge", mounted, "anna")
    assert done == said
    (again,) = pillarbox.answer("recovery", "merge", mounted, "anna")
    assert (again["merged"], again["duplicates"]) == (0, 30)
    after = exported(pillarbox, mounted, "anna", tmp_path / "after")
    assert after == sorted((folder.replace("lists", "Kept"), digest) for folder, digest in before)


def test_mail_that_was_moved_and_flagged_stays_so_and_comes_back_as_it_was_when_it_is_lost(
    pillarbox: Pillarbox, mounted: Path
) -> None:
    def listed(folder: str) -> dict[str, dict[str, Any]]:
        return {each["id"]: each for each in pillarbox.answer("list", mounted, "anna", folder)}

    before = listed("lists")
    moved, flagged, both = sorted(before)[:3]
    pillarbox.answer("message", "move", mounted, "anna", moved, both, "--to", "Inbox")
    pillarbox.answer("message", "flag", mounted, "anna", flagged, both, "--add", "seen", "--add", "mine")
    lists, inbox = listed("lists"), listed("Inbox")
    (report,) = pillarbox.answer("recovery", "merge", mounted, "anna")
    assert (report["merged"], report["duplicates"]) == (0, 30)
    assert (listed("lists"), listed("Inbox")) == (lists, inbox)
    pillarbox.answer("message", "move", mounted, "anna", moved, "--to", "Inbox", "--to-mailbox", "bert")
    pillarbox.answer("message", "delete", mounted, "anna", both, "--yes")
    (report,) = pillarbox.answer("recovery", "merge", mounted, "anna")
    assert (report["merged"], report["duplicates"]) == (2, 28)
    assert listed("Inbox") == {}
    back = {name: each for name, each in listed("lists").items() if name not in lists}
    assert listed("lists") == lists | back
    told = ("subject", "internet_message_id", "flags", "received_ms", "size_bytes")
    assert sorted([each[field] for field in told] for each in back.values()) == sorted(
        [before[name][field] for field in told] for name in (moved, both)
    )
    (report,) = pillarbox.answer("recovery", "merge", mounted, "anna")
    assert (report["merged"], report["duplicates"]) == (0, 30)


def test_a_mailbox_that_is_gone_goes_where_it_is_told(
    pillarbox: Pillarbox, mounted: Path, tmp_path: Path
) -> None:
    before = exported(pillarbox, mounted, "anna", tmp_path / "before")
    purge(pillarbox, mounted, "anna")
    result = pillarbox.run("recovery", "merge", mounted, "anna")
    assert result.exit_code == 20 and "no live mailbox" in result.stdout and "--to" in result.stdout
    pillarbox.refused(40, "recovery", "merge", mounted, "anna", "--to", "anna2", "--dry-run")
    (report,) = pillarbox.answer("recovery", "merge", mounted, "anna", "--to", "anna2")
    assert (report["mailbox"], report["target"]) == ("anna", "anna2")
    assert exported(pillarbox, mounted, "anna2", tmp_path / "after") == before


def test_all_mailboxes_are_copied_at_once(pillarbox: Pillarbox, mounted: Path) -> None:
    reports = pillarbox.answer("recovery", "merge", mounted, "--all", "--mode", "copy", "--folder", "spam")
    assert {each["target"]: each["merged"] for each in reports} == {"anna": 6, "bert": 0}
    copies = [
        each["folder"]
        for each in pillarbox.answer("list", mounted, "anna")
        if each["folder"].startswith("Recovered Data") and each["messages"]
    ]
    assert len(copies) == 1 and copies[0].endswith("/spam")


@pytest.mark.parametrize("option", ["--folder", "--exclude-folder"])
def test_a_folder_that_is_in_no_mailbox_is_refused_before_anything_is_made(
    pillarbox: Pillarbox, mounted: Path, option: str
) -> None:
    words = ("recovery", "merge", mounted, "anna", "--to", "new", option, "lists", option, "typo")
    said = pillarbox.refused(40, *words)
    assert "'typo'" in said and "recovery look" in said
    assert [each["mailbox"] for each in pillarbox.answer("mailbox", "list", mounted)] == ["anna", "bert"]
    (report,) = pillarbox.answer("recovery", "merge", mounted, "anna", "--folder", "LISTS", "--dry-run")
    assert report["filtered"] == 6


def test_of_several_mailboxes_one_must_have_the_folder(pillarbox: Pillarbox, mounted: Path) -> None:
    merge = ("recovery", "merge", mounted, "--dry-run", "--folder", "spam")
    assert len(pillarbox.answer(*merge, "anna", "bert")) == len(pillarbox.answer(*merge, "--all")) == 2
    assert "'spam'" in pillarbox.refused(40, *merge, "bert")
    assert "'nobody'" in pillarbox.refused(40, *merge, "nobody")


def test_filters_choose_what_is_merged_into_files(
    pillarbox: Pillarbox, mounted: Path, tmp_path: Path
) -> None:
    words = ("--exclude-folder", "lists", "--subject-contains", "LAPTOP", "--since", "2001-01-01")
    (report,) = pillarbox.answer("recovery", "merge", mounted, "anna", *words, "--to-files", tmp_path / "out")
    assert (report["merged"], report["filtered"]) == (1, 29)
    (written,) = (tmp_path / "out").rglob("*.eml")
    assert b"Subject: Don't Be a Victim protect your Laptop" in written.read_bytes()
    taken = pillarbox.refused(20, "recovery", "merge", mounted, "anna", "--to-files", tmp_path / "out")
    assert "1 mailbox" in taken


def test_a_live_mailbox_is_archived_into_another(pillarbox: Pillarbox, mounted: Path, tmp_path: Path) -> None:
    before = exported(pillarbox, mounted, "anna", tmp_path / "before")
    words = ("anna", "--live", "--archive", "--to", "bert")
    (report,) = pillarbox.answer("recovery", "merge", mounted, *words)
    assert (report["merged"], report["removed"], report["unproven"]) == (30, 30, 0)
    assert exported(pillarbox, mounted, "bert", tmp_path / "after") == before
    assert sum(each["messages"] for each in pillarbox.answer("list", mounted, "anna")) == 0


def test_a_merge_never_goes_to_a_mailbox_of_the_name_while_its_own_database_is_not_mounted(
    pillarbox: Pillarbox, mounted: Path
) -> None:
    pillarbox.answer("dismount", mounted, STORE)
    assert STORE in pillarbox.refused(21, "recovery", "merge", mounted, "anna")
    pillarbox.answer("mount", mounted, STORE)
    with Server.open(mounted):
        assert "another process" in pillarbox.refused(11, "recovery", "merge", mounted, "anna")
    assert pillarbox.answer("recovery", "merge", mounted, "anna")[0]["duplicates"] == 30


def test_damaged_mail_is_named_and_the_rest_is_merged(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(server)
    pillarbox.answer("backup", "init", tmp_path / "repo", "--no-encryption")
    pillarbox.answer("backup", "create", server, tmp_path / "repo")
    pillarbox.answer("recovery", "mount", server, tmp_path / "repo", "latest")
    purge(pillarbox, server, "anna")
    result = pillarbox.run("recovery", "merge", server, "anna", "--to", "anna")
    assert result.exit_code == 30, result.output
    assert "damaged, not merged: anna/" in result.stderr
    with Server.open(server, read_only=True) as opened:
        _, box = opened.mailboxes.find("anna")
        assert box.messages_count == 29


def test_an_interrupted_merge_keeps_what_it_has_and_goes_on(
    pillarbox: Pillarbox, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, batches = MailboxDestination.write, []

    def interrupted(self: Any, *asked: Any) -> Any:
        batches.append(1)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return real(self, *asked)

    pillarbox.answer("folder", "delete", mounted, "anna", "lists", "--with-contents", "--yes")
    monkeypatch.setattr(merge_run, "BATCH_MESSAGES", 10)
    with monkeypatch.context() as patch:
        patch.setattr(MailboxDestination, "write", interrupted)
        assert "goes on from there" in pillarbox.refused(130, "recovery", "merge", mounted, "anna")
    (report,) = pillarbox.answer("recovery", "merge", mounted, "anna")
    assert 0 < report["merged"] < 24 and report["merged"] + report["duplicates"] == 30


def test_a_repository_that_was_moved_is_missed_in_words(
    pillarbox: Pillarbox, mounted: Path, repo: Path
) -> None:
    repo.rename(repo.with_name("moved"))
    said = pillarbox.refused(40, "recovery", "merge", mounted, "anna")
    assert str(repo) in said and "dismount" in said
    pillarbox.answer("recovery", "dismount", mounted)
    pillarbox.answer("recovery", "mount", mounted, repo.with_name("moved"), "latest")
    assert pillarbox.answer("recovery", "merge", mounted, "anna")[0]["duplicates"] == 30


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("merge", "{server}"), 2),
        (("merge", "{server}", "anna", "--all"), 2),
        (("merge", "{server}", "anna", "bert", "--to", "carl"), 2),
        (("merge", "{server}", "anna", "--live"), 2),
        (("merge", "{server}", "anna", "--archive"), 2),
        (("merge", "{server}", "anna", "--since", "yesterday"), 2),
        (("merge", "{server}", "anna"), 40),
        (("mount", "{server}", "{repo}"), 2),
        (("mount", "{server}", "{repo}", "ffffffff"), 40),
        (("mount", "{server}", "{server}", "latest"), 40),
        (("mount", "{server}"), 40),
        (("dismount", "{server}"), 40),
        (("list", "{repo}"), 40),
    ],
)
def test_a_mistake_gets_a_sentence(
    pillarbox: Pillarbox, server: Path, repo: Path, words: tuple[str, ...], code: int
) -> None:
    said = pillarbox.refused(code, "recovery", *(each.format(server=server, repo=repo) for each in words))
    assert "Traceback" not in said and said.strip()


def test_the_key_of_the_repository_is_needed_again(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSPHRASE, raising=False)
    key, locked = ("--key-file", tmp_path / "key"), tmp_path / "locked"
    pillarbox.answer("backup", "init", locked, *key)
    pillarbox.answer("backup", "create", server, locked, *key)
    pillarbox.answer("recovery", "mount", server, locked, "latest", *key)
    said = pillarbox.refused(61, "recovery", "merge", server, "anna")
    assert PASSPHRASE in said and "--key-file" in said
    assert pillarbox.answer("recovery", "merge", server, "anna", *key)[0]["duplicates"] == 30


def test_a_snapshot_with_damaged_records_is_mounted_when_it_is_to_keep_going(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    repository = Repository.open(DirectoryBackend(repo), Unencrypted(), clock=SystemClock())
    databases = {each.name: each for each in restorable_databases(repository.snapshot("latest"))}
    image = repository.read_tree(read_restorable(repository, databases[STORE]).image).children[0].blob_id
    pack, record = repository.index.find(image)[0]
    (path,) = (repo / "packs").rglob(pack.name)
    data = bytearray(path.read_bytes())
    data[record.offset + record.length // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    pillarbox.refused(30, "recovery", "mount", server, repo, "latest")
    mounted = pillarbox.answer("recovery", "mount", server, repo, "latest", "--keep-going")
    (entry,) = [each for each in mounted if each["database"] == STORE]
    assert (entry["held_as"], entry["mounted"]) == ("files", True)
    purge(pillarbox, server, "anna")
    pillarbox.answer("recovery", "merge", server, "anna", "--to", "anna")
    (box,) = [each for each in pillarbox.answer("mailbox", "list", server) if each["mailbox"] == "anna"]
    assert box["messages"] == 30


def test_a_dry_run_to_a_mailbox_that_is_gone_says_what_a_merge_would_do(
    pillarbox: Pillarbox, mounted: Path
) -> None:
    purge(pillarbox, mounted, "anna")
    said = pillarbox.refused(40, "recovery", "merge", mounted, "anna", "--to", "anna", "--dry-run")
    assert "a merge makes it" in said
