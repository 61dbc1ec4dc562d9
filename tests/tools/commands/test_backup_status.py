"""Backups that nobody looks after are told: by their age, and by what checks found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.store.clock import SystemClock
from pillarbox.store.server_config import read_config, write_config
from pillarbox.store.upkeep.last_backup import LastBackup, keep_last_backup

if TYPE_CHECKING:
    from conftest import Pillarbox

HOUR_MS = 3_600_000


@pytest.fixture
def repo(pillarbox: Pillarbox, tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    pillarbox.answer("backup", "init", path, "--no-encryption")
    return path


def rows(pillarbox: Pillarbox, *words: object, code: int = 0) -> dict[str, Any]:
    """What `backup status` tells of each database, by its name."""
    result = pillarbox.run("backup", "status", *words, "--json")
    assert result.exit_code == code, result.output
    return {row["database"]: row for row in json.loads(result.stdout)}


def set_rules(server: Path, **rules: object) -> None:
    config = read_config(server)
    config.backups = dict(rules)
    write_config(server, config)


def events(pillarbox: Pillarbox, server: Path, event_id: int) -> list[str]:
    return [
        each["text"] for each in pillarbox.answer("events", "list", server) if each["event_id"] == event_id
    ]


def test_what_was_never_backed_up_is_told_until_it_is(pillarbox: Pillarbox, server: Path, repo: Path) -> None:
    for words in ((server,), (server, repo)):
        (concern,) = rows(pillarbox, *words, code=54)["Mailbox Store"]["concerns"]
        assert (concern["what"], concern["reason"], concern["age_ms"]) == ("snapshot", "never", None)
    assert "Backups of database Mailbox Store need attention: no snapshot was ever made." in events(
        pillarbox, server, 20046
    )
    made = pillarbox.answer("backup", "create", server, repo)
    for words in ((server,), (server, repo)):
        row = rows(pillarbox, *words)["Mailbox Store"]
        assert (row["snapshot_ms"], row["snapshot"]) == (made["time_ms"], made["snapshot"])
        assert row["concerns"] == []
    (told,) = [each for each in pillarbox.answer("status", server) if each["database"] == "Mailbox Store"]
    assert told["backups"].items() <= row.items()


def test_checks_and_verifications_are_seen_in_the_repository_at_once_and_noted_with_the_next_backup(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    pillarbox.answer("backup", "create", server, repo)
    pillarbox.answer("backup", "check", repo)
    pillarbox.answer("backup", "verify", repo, "latest", "--database", "Mailbox Store")
    row = rows(pillarbox, server, repo)["Mailbox Store"]
    assert None not in (row["check_ms"], row["verification_ms"]) and row["restored_bytes"] > 0
    assert rows(pillarbox, server, repo)["Public Folder Store"]["verification_ms"] is None
    assert rows(pillarbox, server)["Mailbox Store"]["check_ms"] is None
    pillarbox.answer("backup", "create", server, repo)
    noted = rows(pillarbox, server)["Mailbox Store"]
    assert (noted["check_ms"], noted["verification_ms"]) == (row["check_ms"], row["verification_ms"])


def test_what_is_older_than_server_toml_allows_is_told(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    pillarbox.answer("backup", "create", server, repo)
    now_ms = SystemClock().now_ms()
    for group in read_config(server).groups:
        for entry in group.databases:
            old = LastBackup(now_ms - 3 * HOUR_MS, "a" * 64, "r")
            keep_last_backup(server / "backups", entry.guid, old, now_ms)
    assert rows(pillarbox, server)["Mailbox Store"]["concerns"] == []
    set_rules(server, snapshot_age_max_in_hours=2)
    (concern,) = rows(pillarbox, server, code=54)["Mailbox Store"]["concerns"]
    assert concern["state"] == "the last snapshot is 3 hours old, more than 2 hours"
    assert "backups need attention: Mailbox Store, Public Folder Store" in pillarbox.refused(
        54, "backup", "status", server
    )
    assert rows(pillarbox, server, repo)["Mailbox Store"]["concerns"] == []


def test_a_rule_that_is_none_is_told_and_the_default_holds(pillarbox: Pillarbox, server: Path) -> None:
    set_rules(server, snapshot_age_max_in_hours="daily")
    (concern,) = rows(pillarbox, server, code=54)["Mailbox Store"]["concerns"]
    assert concern["age_max_ms"] == 48 * HOUR_MS
    assert any("snapshot_age_max_in_hours" in text for text in events(pillarbox, server, 20005))


def test_a_database_that_is_dismounted_is_told_as_its_backups_are(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    pillarbox.answer("dismount", server, "Public Folder Store")
    pillarbox.refused(54, "backup", "create", server, repo)
    told = rows(pillarbox, server, code=54)
    assert told["Mailbox Store"]["concerns"] == []
    assert [each["reason"] for each in told["Public Folder Store"]["concerns"]] == ["never"]


def test_nothing_is_left_of_a_database_that_is_deleted(
    pillarbox: Pillarbox, server: Path, repo: Path
) -> None:
    pillarbox.answer("backup", "create", server, repo)
    assert len(list((server / "backups").iterdir())) == 2
    pillarbox.answer("dismount", server, "Public Folder Store")
    pillarbox.answer("database", "delete", server, "Public Folder Store", "--yes")
    assert len(list((server / "backups").iterdir())) == 1
    assert list(rows(pillarbox, server)) == ["Mailbox Store"]


def test_a_restore_keeps_what_is_known_and_a_new_server_knows_what_it_was_made_of(
    pillarbox: Pillarbox, server: Path, repo: Path, tmp_path: Path
) -> None:
    made = pillarbox.answer("backup", "create", server, repo)
    pillarbox.answer("backup", "restore", repo, "latest", "--server", server, "--all", "--yes")
    after = rows(pillarbox, server)["Mailbox Store"]
    assert after["snapshot"] == made["snapshot"] and after["restored_bytes"] > 0
    pillarbox.answer("backup", "restore", repo, "latest", "--new-server", tmp_path / "new")
    new = rows(pillarbox, tmp_path / "new")["Mailbox Store"]
    assert new["snapshot"] == made["snapshot"] and new["restored_bytes"] > 0
    copy = tmp_path / "copy"
    pillarbox.answer("backup", "restore", repo, "latest", "--new-server", copy, "--as-copy")
    row = rows(pillarbox, copy, code=54)["Mailbox Store"]
    assert row["snapshot_ms"] is None and row["restored_bytes"] > 0


def test_a_limit_that_a_restore_would_not_bring_back_in_time_is_warned_of(
    pillarbox: Pillarbox, server: Path
) -> None:
    set_rules(server, restore_time_max_in_minutes=60)
    words = ("limits", "set", server, "Mailbox Store", "--limit-gb")
    assert "takes is not known, 60 minutes are asked for" in pillarbox.run(*words, 4).stderr
    guid = read_config(server).groups[0].databases[0].guid
    measured = LastBackup(restored_bytes=1 << 30, restored_ms=10 * 60_000)
    keep_last_backup(server / "backups", guid, measured, SystemClock().now_ms())
    assert pillarbox.run(*words, 6).stderr == ""
    assert "a restore of 7.0 GB takes 70 minutes" in pillarbox.run(*words, 7).stderr
    set_rules(server)
    assert pillarbox.run(*words, 7).stderr == ""


def test_the_rules_are_kept_when_settings_are_changed(pillarbox: Pillarbox, server: Path) -> None:
    set_rules(server, snapshot_age_max_in_hours=2, of_a_newer_program=True)
    pillarbox.answer("limits", "set", server, "--limit-gb", 3)
    assert read_config(server).backups == {"snapshot_age_max_in_hours": 2, "of_a_newer_program": True}
