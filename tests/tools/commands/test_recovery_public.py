"""Public folders recovered from the command line, as mailboxes are."""

from __future__ import annotations

import mailbox
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.backup import recovery_group
from pillarbox.backup.recovery_group import RecoveryGroup
from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.backup.repository.crypto import Unencrypted
from pillarbox.backup.repository.repository import Repository
from pillarbox.store.clock import SystemClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.errors import Corrupt
from pillarbox.store.server import Server

if TYPE_CHECKING:
    from conftest import Pillarbox

STORE = "Public Folder Store"
PUBLIC = {"kind": "public folder store", "held_as": "repository", "mounted": True}


@pytest.fixture
def forum(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> Path:
    """`server` with five messages in Forum/zope, one of them flagged, and the folder News."""
    made = mailbox.mbox(tmp_path / "zope.mbox")
    for number in range(5):
        made.add(f"Subject: post {number}\n\ntext {number}\n")
    made.close()
    pillarbox.answer("import", server, "/", tmp_path / "zope.mbox")
    pillarbox.answer("folder", "create", server, "/", "Forum")
    pillarbox.answer("folder", "create", server, "/", "News")
    pillarbox.answer("folder", "move", server, "/", "zope", "--to", "Forum")
    first = pillarbox.answer("list", server, "/", "Forum/zope")[0]["id"]
    pillarbox.answer("message", "flag", server, "/", first, "--add", "flagged")
    return server


@pytest.fixture
def repo(pillarbox: Pillarbox, forum: Path, tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    pillarbox.answer("backup", "init", path, "--no-encryption")
    pillarbox.answer("backup", "create", forum, path)
    return path


@pytest.fixture
def mounted(pillarbox: Pillarbox, forum: Path, repo: Path) -> Path:
    """`forum`, with its snapshot mounted, and with Forum lost."""
    pillarbox.answer("recovery", "mount", forum, repo, "latest")
    pillarbox.answer("folder", "delete", forum, "/", "Forum", "--with-contents", "--yes")
    return forum


def listed(pillarbox: Pillarbox, server: Path, folder: str) -> list[tuple[Any, ...]]:
    """What is to come back of each message of a public folder."""
    told = ("subject", "flags", "received_ms", "size_bytes")
    return [tuple(row[field] for field in told) for row in pillarbox.answer("list", server, "/", folder)]


# -- databases that come and go


def test_a_mount_brings_public_folder_stores_beside_the_recovery_storage_group(
    pillarbox: Pillarbox, forum: Path, repo: Path
) -> None:
    (mail, public) = pillarbox.answer("recovery", "mount", forum, repo, "latest")
    assert mail["kind"] == "mailbox store"
    assert {key: public[key] for key in PUBLIC} == PUBLIC and public["database"] == STORE
    said = pillarbox.run("recovery", "list", forum).stdout
    assert "Mailbox stores of First Storage Group" in said and "Public folder stores of First" in said
    # Neither served nor counted.
    assert [each["database"] for each in pillarbox.answer("status", forum)] == ["Mailbox Store", STORE]
    assert len(pillarbox.answer("database", "list", forum)) == 2
    again = pillarbox.refused(51, "recovery", "mount", forum, repo, "latest", "--database", STORE)
    assert "public folder recovery group already" in again
    gone = pillarbox.answer("recovery", "dismount", forum)
    assert [each["database"] for each in gone["dismounted"]] == ["Mailbox Store", STORE]
    assert gone["group_removed"] and not (forum / "public-folder-recovery").exists()


def test_one_of_both_is_mounted_and_dismounted_by_its_name(
    pillarbox: Pillarbox, forum: Path, repo: Path
) -> None:
    (public,) = pillarbox.answer("recovery", "mount", forum, repo, "latest", "--database", STORE)
    assert public["database"] == STORE and not (forum / "recovery").exists()
    listed = pillarbox.answer("recovery", "list", forum)
    assert (listed["source_group"], listed["databases"]) == (None, [public])
    assert "no recovery storage group" in pillarbox.refused(40, "recovery", "look", forum, "anna")
    assert "Nobody" in pillarbox.refused(40, "recovery", "dismount", forum, "--database", "Nobody")
    pillarbox.answer("recovery", "mount", forum, repo, "latest", "--database", "Mailbox Store")
    gone = pillarbox.answer("recovery", "dismount", forum, "--database", STORE)
    assert [each["database"] for each in gone["dismounted"]] == [STORE] and not gone["group_removed"]


def test_a_mount_that_fails_half_way_leaves_nothing(
    pillarbox: Pillarbox, forum: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = recovery_group.open_snapshot_mount

    def fail(repository: Any, database: Any, place: Path) -> Any:
        if database.name == STORE:
            raise Corrupt("the repository is damaged")
        return real(repository, database, place)

    monkeypatch.setattr(recovery_group, "open_snapshot_mount", fail)
    pillarbox.refused(30, "recovery", "mount", forum, repo, "latest")
    pillarbox.refused(40, "recovery", "list", forum)
    # A group that somebody made stays: restores are to go there.
    pillarbox.answer("recovery", "create", forum)
    pillarbox.refused(30, "recovery", "mount", forum, repo, "latest")
    assert pillarbox.answer("recovery", "list", forum)["databases"] == []


def test_what_was_restored_of_damaged_public_folders_is_mounted_again(
    pillarbox: Pillarbox, forum: Path, repo: Path
) -> None:
    """As when its records are damaged in the repository: all that is whole is restored from the stream."""
    repository = Repository.open(DirectoryBackend(repo), Unencrypted(), clock=SystemClock())
    with Server.open(forum, mount=False) as opened:
        group = RecoveryGroup.open_or_begin(
            opened, clock=SystemClock(), kind=DatabaseKind.PUBLIC_FOLDER_STORE
        )
        group.restore(repository, str(repo), repository.snapshot("latest"))
    (entry,) = pillarbox.answer("recovery", "mount", forum)
    assert (entry["database"], entry["held_as"], entry["mounted"]) == (STORE, "files", True)
    assert pillarbox.answer("recovery", "merge", forum, "/")[0]["duplicates"] == 5
    assert not pillarbox.answer("recovery", "dismount", forum)["group_removed"]
    pillarbox.answer("recovery", "mount", forum, "--database", STORE)
    assert pillarbox.answer("recovery", "dismount", forum, "--delete")["group_removed"]


# -- a look inside


def test_recovered_public_folders_are_looked_at_without_merging_them(
    pillarbox: Pillarbox, mounted: Path
) -> None:
    found = {each["folder"]: each["messages"] for each in pillarbox.answer("recovery", "look", mounted, "/")}
    assert found == {"Forum": 0, "Forum/zope": 5, "News": 0}
    (row,) = pillarbox.answer("recovery", "look", mounted, f"/{STORE}", "Forum/zope", "--limit", 1)
    assert row["subject"] == "post 0"
    shown = pillarbox.run("recovery", "show", mounted, "/", row["id"])
    assert shown.stdout_bytes.endswith(b"text 0\n")
    assert "has no message" in pillarbox.refused(40, "recovery", "show", mounted, "/", "9-9f")
    assert "no folder 'Nope'" in pillarbox.refused(40, "recovery", "look", mounted, "/", "Nope")
    assert "no public folder store 'Other'" in pillarbox.refused(40, "recovery", "look", mounted, "/Other")


# -- merging


def test_a_folder_is_merged_with_what_is_below_it_once(pillarbox: Pillarbox, forum: Path, repo: Path) -> None:
    before = listed(pillarbox, forum, "Forum/zope")
    pillarbox.answer("recovery", "mount", forum, repo, "latest")
    pillarbox.answer("folder", "delete", forum, "/", "Forum", "--with-contents", "--yes")
    pillarbox.answer("folder", "delete", forum, "/", "News", "--yes")
    (said,) = pillarbox.answer("recovery", "merge", forum, "/", "--folder", "Forum", "--dry-run")
    assert "Forum" not in {each["folder"] for each in pillarbox.answer("list", forum, "/")}
    (done,) = pillarbox.answer("recovery", "merge", forum, "/", "--folder", "Forum")
    assert done == said
    assert (done["mailbox"], done["target"], done["merged"]) == ("/", f"/{STORE}", 5)
    assert done["folders_made"] == ["Forum", "Forum/zope"]
    assert listed(pillarbox, forum, "Forum/zope") == before
    (all_,) = pillarbox.answer("recovery", "merge", forum, "/")
    assert (all_["merged"], all_["duplicates"], all_["folders_made"]) == (0, 5, ["News"])
    assert pillarbox.run("check", forum).exit_code == 0


def test_mailboxes_and_public_folders_are_merged_by_one_command(pillarbox: Pillarbox, mounted: Path) -> None:
    reports = pillarbox.answer("recovery", "merge", mounted, "anna", "/")
    assert {each["mailbox"]: (each["merged"], each["duplicates"]) for each in reports} == {
        "anna": (0, 30),
        "/": (5, 0),
    }
    # --all are the mailboxes.
    reports = pillarbox.answer("recovery", "merge", mounted, "--all")
    assert {each["mailbox"] for each in reports} == {"anna", "bert"}


def test_public_folders_go_to_files_or_to_the_store_that_is_named(
    pillarbox: Pillarbox, mounted: Path, big_server: Path, repo: Path, tmp_path: Path
) -> None:
    (report,) = pillarbox.answer("recovery", "merge", mounted, "/", "--to-files", tmp_path / "out")
    assert report["merged"] == 5 and len(list((tmp_path / "out" / "Forum" / "zope").glob("*.eml"))) == 5
    pillarbox.answer("recovery", "mount", big_server, repo, "latest", "--of", mounted.name)
    pillarbox.answer("database", "rename", big_server, STORE, "Team")
    result = pillarbox.run("recovery", "merge", big_server, "/")
    assert result.exit_code == 20 and "--to /DATABASE" in result.stdout
    assert "public folders were not merged" in result.stderr
    (report,) = pillarbox.answer("recovery", "merge", big_server, "/", "--to", "/Team")
    assert (report["target"], report["merged"]) == ("/Team", 5)


def test_a_merge_waits_for_the_store_to_be_mounted(pillarbox: Pillarbox, mounted: Path) -> None:
    pillarbox.answer("dismount", mounted, STORE)
    said = pillarbox.refused(21, "recovery", "merge", mounted, "/")
    assert STORE in said and "pillarbox mount" in said
    pillarbox.answer("mount", mounted, STORE)
    with Server.open(mounted):
        assert "another process" in pillarbox.refused(11, "recovery", "merge", mounted, "/")
    assert pillarbox.answer("recovery", "merge", mounted, "/")[0]["merged"] == 5


def test_without_a_public_folder_store_in_the_snapshot_it_is_said(
    pillarbox: Pillarbox, forum: Path, repo: Path
) -> None:
    pillarbox.answer("recovery", "mount", forum, repo, "latest", "--database", "Mailbox Store")
    for command in ("look", "merge"):
        said = pillarbox.refused(40, "recovery", command, forum, "/")
        assert "no public folder recovery group" in said and "recovery mount" in said


@pytest.mark.parametrize(
    "words",
    [
        ("/", "--live", "--to", "/Team"),
        ("/", "--to", "anna"),
        ("anna", "--to", "/"),
        ("/", "anna", "--to", "/"),
    ],
)
def test_a_mistake_gets_a_sentence(pillarbox: Pillarbox, mounted: Path, words: tuple[str, ...]) -> None:
    assert "Error:" in pillarbox.refused(2, "recovery", "merge", mounted, *words)


def test_a_folder_that_the_backup_does_not_have_is_refused(pillarbox: Pillarbox, mounted: Path) -> None:
    said = pillarbox.refused(40, "recovery", "merge", mounted, "/", "--folder", "Typo")
    assert "'Typo'" in said and "recovery look" in said
