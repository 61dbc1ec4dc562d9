"""Backups at an interval, driven by an embedding program or by a timer that runs a command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Final, NamedTuple

from pillarbox.backup.repository.prune import PruneReport, prune
from pillarbox.backup.repository.repository import Repository, Snapshot, SnapshotKind
from pillarbox.backup.retention import HeldDatabase, KeepRules, choose_kept, held_databases, is_capture
from pillarbox.backup.snapshot import (
    GroupSnapshot,
    SnapshotHook,
    SnapshotSource,
    is_of_group,
)
from pillarbox.store.clock import Clock

EARLY_MS: Final = 5 * 60_000
"""A timer that comes at the same minute each day must not find that a day is not quite over."""


@dataclass(frozen=True)
class Schedule:
    """A backup every `every_ms`; after each one those that `keep` does not keep are forgotten and their space
    is freed. Without `keep` all are kept.
    """

    every_ms: int
    keep: KeepRules | None = None


class ScheduledRun(NamedTuple):
    """The outcome of a look at the schedule: nothing when no backup was due. `next_ms` is when to look again.

    `gone` are the databases that the server no longer has, and of which something is kept.
    """

    snapshot: Snapshot | None
    forgotten: tuple[Snapshot, ...]
    pruned: PruneReport | None
    next_ms: int
    gone: tuple[HeldDatabase, ...] = ()


def next_backup_ms(snapshots: Sequence[Snapshot], source: SnapshotSource, every_ms: int, now_ms: int) -> int:
    """When the next backup of a storage group is due, ms UTC; 0, which is at once, when it has none.

    The repository itself is the memory of what was done, so that programs and timers can be changed freely.
    A snapshot of a time to come counts for nothing: a clock that was wrong once must not stop all backups.
    """
    of_group = [each for each in snapshots if is_of_group(each, source) and not is_capture(each)]
    taken = [each.time_ms for each in of_group if each.time_ms <= now_ms]
    return max(taken) + every_ms if taken else 0


def run_due(
    source: SnapshotSource,
    repository: Repository,
    schedule: Schedule,
    *,
    clock: Clock,
    zone: tzinfo = UTC,
    hooks: Sequence[SnapshotHook] = (),
) -> ScheduledRun:
    """Take a backup if one is due, and forget and prune after it. `zone` is that of days, weeks and so on.

    Raises as `GroupSnapshot.run` and `prune`; a prune that failed is made up for after the next backup.
    """
    now_ms = clock.now_ms()
    due_ms = next_backup_ms(repository.snapshots(), source, schedule.every_ms, now_ms)
    if now_ms + min(EARLY_MS, schedule.every_ms // 10) < due_ms:
        return ScheduledRun(None, (), None, due_ms)
    snapshot = GroupSnapshot(source, repository, clock=clock, kind=SnapshotKind.FULL, hooks=hooks).run()
    next_ms = snapshot.time_ms + schedule.every_ms
    if schedule.keep is None:
        return ScheduledRun(snapshot, (), None, next_ms)
    decisions = [
        decision
        for decision in choose_kept(repository.snapshots(), schedule.keep, zone)
        if is_of_group(decision.snapshot, source)
    ]
    forgotten = tuple(decision.snapshot for decision in decisions if not decision.is_kept)
    repository.forget(each.id for each in forgotten)
    pruned = prune(repository, forgotten=forgotten)
    kept = [decision.snapshot for decision in decisions if decision.is_kept]
    gone = tuple(held for held in held_databases(kept) if held.is_gone)
    return ScheduledRun(snapshot, forgotten, pruned, next_ms, gone)
