"""Verification of a snapshot: restored to scratch, checked, and what came of it kept in the repository."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from pillarbox.backup.database_snapshot import Progress
from pillarbox.backup.repository.reports import Report, ReportKind
from pillarbox.backup.repository.repository import Repository, Snapshot
from pillarbox.backup.restore import RestoredDatabase, restorable_databases, restore_to_directory
from pillarbox.backup.restore_rate import restored_bytes
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.clock import Clock
from pillarbox.store.errors import Corrupt, InvalidContent, NotFound

_DAMAGE: Final = (Corrupt, InvalidContent, NotFound)


def verify_snapshot(
    repository: Repository,
    snapshot: Snapshot,
    scratch: PathLike,
    *,
    names: Collection[str] = (),
    clock: Clock,
    progress: Progress | None = None,
) -> list[RestoredDatabase]:
    """Restore databases of a snapshot below `scratch`, which is the caller's to remove, and check each.

    The outcome and the time it took are kept in the repository, where it may be written: `backup status`
    shows them, and later backups store anew what is damaged. Raises as `restore_to_directory`, Corrupt when
    the snapshot does not restore whole.
    """
    scratch = as_path(scratch, "scratch")
    guids = frozenset(each.guid for each in restorable_databases(snapshot, names))
    repository.reports()  # what is known already is carried on
    began_ms = clock.monotonic_ms()
    try:
        restored = restore_to_directory(
            repository, snapshot, scratch, names=names, clock=clock, thorough=True, progress=progress
        )
    except _DAMAGE:
        _keep(repository, snapshot, guids, clock, {}, is_whole=False)
        raise
    took = {"restored_bytes": restored_bytes(snapshot, guids), "restored_ms": clock.monotonic_ms() - began_ms}
    _keep(repository, snapshot, guids, clock, took, is_whole=True)
    return restored


def _keep(
    repository: Repository,
    snapshot: Snapshot,
    guids: frozenset[bytes],
    clock: Clock,
    took: dict[str, int],
    *,
    is_whole: bool,
) -> None:
    report = Report(
        clock.now_ms(),
        ReportKind.VERIFICATION,
        0.0,
        frozenset(repository.damaged),
        frozenset() if is_whole else frozenset({snapshot.id}),
        guids,
        {"snapshot": snapshot.id, **took},
    )
    repository.keep_report(report)
