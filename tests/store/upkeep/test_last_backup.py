"""What a server keeps of its last backups: the newest of each, nothing damaged, nothing of a wrong clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillarbox.store.upkeep.last_backup import (
    CLOCK_SLACK_MS,
    LastBackup,
    forget_last_backup,
    keep_last_backup,
    read_last_backup,
)

GUID, OTHER_GUID = b"g" * 16, b"h" * 16
NOW_MS = 1_800_000_000_000
FUTURE_MS = NOW_MS + CLOCK_SLACK_MS + 1
ALL = LastBackup(10, "5a", "7b", 20, 30, True, 40, True, 50, 60)


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    keep_last_backup(tmp_path / "backups", GUID, ALL, NOW_MS)
    assert read_last_backup(tmp_path / "backups", GUID) == ALL
    assert read_last_backup(tmp_path / "backups", OTHER_GUID) == LastBackup()


def test_the_file_says_what_is_known_and_whether_it_is_whole(tmp_path: Path) -> None:
    keep_last_backup(tmp_path, GUID, LastBackup(capture_ms=7), NOW_MS)
    golden = b'{"format": "pillarbox-last-backup", "version": 1, "capture_ms": 7} c6222953bd77924a\n'
    assert (tmp_path / GUID.hex()).read_bytes() == golden


def test_any_changed_byte_makes_it_unknown_and_the_next_backup_writes_it_anew(tmp_path: Path) -> None:
    keep_last_backup(tmp_path, GUID, ALL, NOW_MS)
    path = tmp_path / GUID.hex()
    data = path.read_bytes()
    for at in range(len(data) - 1):  # the last is the line feed
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert read_last_backup(tmp_path, GUID) == LastBackup(), at
    path.rename(tmp_path / OTHER_GUID.hex())
    assert read_last_backup(tmp_path, OTHER_GUID) == LastBackup()
    keep_last_backup(tmp_path, GUID, ALL, NOW_MS)
    assert read_last_backup(tmp_path, GUID) == ALL


def test_a_backup_adds_to_what_is_known() -> None:
    before = LastBackup(10, "a", "r", capture_ms=20, check_ms=30, restored_bytes=5, restored_ms=1)
    assert before.followed_by(LastBackup(capture_ms=25), NOW_MS) == LastBackup(
        10, "a", "r", capture_ms=25, check_ms=30, restored_bytes=5, restored_ms=1
    )
    # Of another repository: its snapshot is the last, but its check is older.
    after = before.followed_by(LastBackup(50, "b", "s", check_ms=29, check_damaged=True), NOW_MS)
    assert (after.snapshot_ms, after.snapshot, after.repository) == (50, "b", "s")
    assert (after.check_ms, after.check_damaged) == (30, False)


@pytest.mark.parametrize("field", ["capture_ms", "check_ms", "verification_ms"])
def test_a_time_to_come_gives_way_to_any_other(field: str) -> None:
    wrong, right = LastBackup(**{field: FUTURE_MS}), LastBackup(**{field: NOW_MS})
    assert getattr(wrong.followed_by(right, NOW_MS), field) == NOW_MS
    assert getattr(right.followed_by(wrong, NOW_MS), field) == NOW_MS


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "backups").write_bytes(b"a file where the directory belongs")
    keep_last_backup(tmp_path / "backups", GUID, ALL, NOW_MS)
    assert read_last_backup(tmp_path / "backups", GUID) == LastBackup()


def test_what_is_forgotten_is_not_known(tmp_path: Path) -> None:
    keep_last_backup(tmp_path, GUID, ALL, NOW_MS)
    forget_last_backup(tmp_path, GUID)
    forget_last_backup(tmp_path, GUID)
    assert read_last_backup(tmp_path, GUID) == LastBackup()
