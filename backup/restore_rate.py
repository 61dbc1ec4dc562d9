"""The rate of a restore: measured, and noted in the server, which warns of limits too high for it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pillarbox.backup.repository.repository import Snapshot
from pillarbox.backup.snapshot import snapshot_databases
from pillarbox.store.clock import Clock
from pillarbox.store.upkeep.last_backup import LastBackup, keep_last_backup


def restored_bytes(snapshot: Snapshot, guids: Collection[bytes]) -> int:
    """The number of bytes that a restore of these databases of a snapshot writes, as its manifest says."""
    return sum(
        int(entry.get("stream_bytes") or 0) + int(entry.get("records_bytes") or 0)
        for entry, _ in snapshot_databases(snapshot)
        if entry["guid"] in guids
    )


def note_restore(
    directory: Path, snapshot: Snapshot, guids: Collection[bytes], took_ms: int, clock: Clock
) -> None:
    """Note in a server how long a restore of these databases took (`keep_last_backup`)."""
    measured = LastBackup(restored_bytes=restored_bytes(snapshot, guids), restored_ms=took_ms)
    for guid in guids:
        keep_last_backup(directory, guid, measured, clock.now_ms())
