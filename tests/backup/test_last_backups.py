"""What a repository says of the last backups, and what a server notes of it when it is backed up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pillarbox.backup.capture import Capture
from pillarbox.backup.last_backups import last_backups
from pillarbox.backup.repository.reports import Report, ReportKind
from pillarbox.backup.repository.repository import Snapshot
from pillarbox.backup.snapshot import GroupSnapshot, SnapshotSource
from pillarbox.store.errors import PeerUnreachable
from pillarbox.store.upkeep.last_backup import LastBackup, read_last_backup

GUID, OTHER_GUID = b"g" * 16, b"h" * 16
BOTH = {GUID, OTHER_GUID}


def snapshot(time_ms: int, kind: str = "full") -> Snapshot:
    return Snapshot(f"{time_ms:04}", time_ms, (), {"kind": kind})


def check(time_ms: int, *hit: Snapshot, read_share: float = 0.0) -> Report:
    return Report(time_ms, ReportKind.CHECK, read_share, frozenset(), frozenset(each.id for each in hit))


def verified(time_ms: int, of: Snapshot, *, is_whole: bool = True, **took: int) -> Report:
    hit = frozenset() if is_whole else frozenset({of.id})
    about = {"snapshot": of.id, **took}
    return Report(time_ms, ReportKind.VERIFICATION, 0.0, frozenset(), hit, frozenset({GUID}), about)


OLD, NEW, MOMENT = snapshot(1), snapshot(2), snapshot(3, "capture")
HELD = [(OLD, BOTH), (NEW, {GUID}), (MOMENT, {GUID})]


def test_the_newest_snapshot_and_capture_of_each_database() -> None:
    found = last_backups(HELD, (), "repo")
    assert found == {
        GUID: LastBackup(2, NEW.id, "repo", capture_ms=3),
        OTHER_GUID: LastBackup(1, OLD.id, "repo"),
    }


def test_a_check_is_of_all_databases_and_its_damage_of_those_that_it_hits() -> None:
    found = last_backups(HELD, [check(4), check(5, NEW)], "repo")
    assert (found[GUID].check_ms, found[GUID].check_damaged) == (5, True)
    assert (found[OTHER_GUID].check_ms, found[OTHER_GUID].check_damaged) == (5, False)


def test_a_verification_is_of_the_databases_that_it_restored_and_tells_how_fast_it_was() -> None:
    found = last_backups(HELD, [verified(6, NEW, restored_bytes=70, restored_ms=8)], "repo")
    assert (found[GUID].verification_ms, found[GUID].restored_bytes, found[GUID].restored_ms) == (6, 70, 8)
    assert found[OTHER_GUID].verification_ms is None


def test_a_snapshot_that_is_damaged_is_no_good_one_until_another_look_finds_it_whole() -> None:
    def newest(*reports: Report) -> int | None:
        return last_backups(HELD, reports, "repo")[GUID].snapshot_ms

    assert newest(check(4, NEW)) == 1
    assert newest(verified(4, NEW, is_whole=False)) == 1
    assert newest(check(4, NEW), check(5)) == 1  # which has not read its content
    assert newest(check(4, NEW), check(5, read_share=1.0)) == 2
    assert newest(check(4, NEW), verified(5, NEW)) == 2
    assert newest(check(4, NEW), verified(5, OLD)) == 1
    assert newest(check(4, NEW, OLD)) is None


def test_a_backup_and_a_capture_note_themselves_in_the_server(group: Any, world: Any, tmp_path: Path) -> None:
    noted_in = tmp_path / "backups"
    source = SnapshotSource("server", "First", group.databases, noted_in=noted_in)
    first, second = group.databases

    def known() -> list[LastBackup]:
        return [read_last_backup(noted_in, database.guid) for database in group.databases]

    made = GroupSnapshot(source, group.repository, clock=group.clock).run()
    noted = LastBackup(made.time_ms, made.id, group.repository.id)
    assert known() == [noted, noted]

    group.clock.advance_ms(60_000)
    capture = Capture(source, group.repository, clock=group.clock)
    assert capture.capture() is None
    unchanged = replace(noted, capture_ms=group.clock.now_ms())
    assert known() == [unchanged, unchanged]

    group.clock.advance_ms(60_000)
    group.deliver(first, group.corpus()[:1])
    group.repository.keep_report(check(group.clock.now_ms()))
    captured = capture.capture()
    assert captured is not None
    after = replace(unchanged, capture_ms=captured.time_ms, check_ms=group.clock.now_ms())
    assert known() == [after, after]

    second.dismount()
    group.clock.advance_ms(60_000)
    later = GroupSnapshot(replace(source, databases=[first]), group.repository, clock=group.clock).run()
    assert [each.snapshot_ms for each in known()] == [later.time_ms, made.time_ms]


def test_a_backup_is_complete_when_it_cannot_be_noted(group: Any, monkeypatch: Any, tmp_path: Path) -> None:
    def fail() -> None:
        raise PeerUnreachable("the repository answers no more")

    source = SnapshotSource("server", "First", group.databases, noted_in=tmp_path / "backups")
    run = GroupSnapshot(source, group.repository, clock=group.clock)
    with group.repository.writer():
        pass
    real = group.repository.reports
    monkeypatch.setattr(
        group.repository, "reports", lambda: fail() if run.step.value == "complete" else real()
    )
    made = run.run()
    assert [each.id for each in group.repository.snapshots()] == [made.id]
    assert read_last_backup(tmp_path / "backups", group.databases[0].guid) == LastBackup()
