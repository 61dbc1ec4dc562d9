"""The last backups of each database, as the snapshots and reports of a repository tell."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pillarbox.backup.repository.reports import Report, ReportKind
from pillarbox.backup.repository.repository import Repository, Snapshot, SnapshotKind
from pillarbox.store.clock import Clock
from pillarbox.store.errors import PillarboxError
from pillarbox.store.upkeep.last_backup import LastBackup, keep_last_backup

HeldDatabases = tuple[Snapshot, Collection[bytes]]
"""A snapshot with the GUIDs of its databases."""


def last_backups(
    snapshots: Sequence[HeldDatabases], reports: Sequence[Report], repository_id: str
) -> dict[bytes, LastBackup]:
    """The last backups of each database by GUID; snapshots and reports come oldest first."""
    bad = _damaged_snapshots(reports)
    holding = {snapshot.id: guids for snapshot, guids in snapshots}
    found: dict[bytes, LastBackup] = {}
    for snapshot, guids in reversed(snapshots):  # a capture a minute makes thousands: the newest count
        is_capture = snapshot.manifest.get("kind") == SnapshotKind.CAPTURE
        for guid in guids:
            known = found.setdefault(guid, LastBackup())
            if is_capture and known.capture_ms is None:
                found[guid] = replace(known, capture_ms=snapshot.time_ms)
            elif not is_capture and known.snapshot_ms is None and snapshot.id not in bad:
                found[guid] = replace(
                    known, snapshot_ms=snapshot.time_ms, snapshot=snapshot.id, repository=repository_id
                )
    for report in reports:
        for guid in report.subjects or found:
            found[guid] = _learnt(found.get(guid, LastBackup()), report, guid, holding)
    return found


def _learnt(
    known: LastBackup, report: Report, guid: bytes, holding: Mapping[str, Collection[bytes]]
) -> LastBackup:
    damaged = any(guid in holding.get(snapshot_id, ()) for snapshot_id in report.hit)
    if report.kind is ReportKind.CHECK:
        return replace(known, check_ms=report.time_ms, check_damaged=damaged)
    known = replace(known, verification_ms=report.time_ms, verification_damaged=damaged)
    restored_bytes, restored_ms = (report.about.get(key) for key in ("restored_bytes", "restored_ms"))
    if isinstance(restored_bytes, int) and isinstance(restored_ms, int):
        known = replace(known, restored_bytes=restored_bytes, restored_ms=restored_ms)
    return known


def _damaged_snapshots(reports: Iterable[Report]) -> set[str]:
    """The ids of the snapshots that do not restore whole, as the last that looked at each has it."""
    bad: set[str] = set()
    for report in reports:
        if report.kind is ReportKind.CHECK:
            bad = set(report.hit) if report.read_share == 1 else bad | report.hit
        elif report.hit:
            bad |= report.hit
        else:
            bad.discard(str(report.about.get("snapshot")))
    return bad


def note_backup(
    directory: Path,
    repository: Repository,
    snapshots: Sequence[HeldDatabases],
    guids: Iterable[bytes],
    clock: Clock,
) -> None:
    """Note in a server what its repository says of these databases, after a backup that is complete.

    What cannot be read or written is not noted (`keep_last_backup`).
    """
    with suppress(PillarboxError):  # the backup is whole: at worst its age is told too high
        known = last_backups(snapshots, repository.reports(), repository.id)
        for guid in guids:
            keep_last_backup(directory, guid, known[guid], clock.now_ms())
