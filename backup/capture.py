"""Point in time: moments between backups, captured at an interval, each to be restored like a snapshot.

A capture is a snapshot of kind `capture`. It costs what changed: the redo records and stream chunks since the
snapshot or capture before, whose everything else it names again. So each restores, mounts and is checked
by itself, and none depends on another being kept. How far back they reach, prune decides (prune.py).

A moment is one at which a capture was taken: redo records carry no time, so nothing finer can be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from pillarbox.backup.database_snapshot import describe_state
from pillarbox.backup.repository.repository import Repository, Snapshot, SnapshotKind
from pillarbox.backup.snapshot import (
    OF_ANOTHER_PROGRAM,
    GroupSnapshot,
    LeftOut,
    SnapshotSource,
    is_of_group,
    snapshot_databases,
)
from pillarbox.store.access import Actor
from pillarbox.store.clock import Clock
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.upkeep.last_backup import LastBackup, keep_last_backup

INTERVAL_MS: Final = 60_000


class Capture:
    """The captures of one storage group into one repository. From one thread at a time."""

    def __init__(
        self,
        source: SnapshotSource,
        repository: Repository,
        *,
        clock: Clock,
        interval_ms: int = INTERVAL_MS,
    ) -> None:
        """Nothing is captured before `run_due`. Of the source's databases those take part that are mounted at
        the time.
        """
        self._source = source
        self._repository = repository
        self._clock = clock
        self._interval_ms = interval_ms
        self._due_ms = clock.monotonic_ms()

    def run_due(self) -> int:
        """Capture, if it is time; when to call next, in ms of the monotonic clock.

        Raises as `capture`; the next one then is due an interval later, and stores what this one did not.
        """
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._due_ms:
            self._due_ms = now_ms + self._interval_ms
            self.capture()
        return self._due_ms

    def capture(self) -> Snapshot | None:
        """Store the group as it is now; durable when this returns. None, and nothing stored, when nothing
        changed since the newest snapshot or capture.

        Raises RepositoryLocked while a prune runs, DiskFull, and as `GroupSnapshot.run`.
        """
        mounted = [each for each in self._source.databases if each.state is not MountState.DISMOUNTED]
        began_ms = self._clock.now_ms()
        if not self._changed(mounted):
            self._note_unchanged(mounted, began_ms)
            return None
        gone = [LeftOut(each, each.dismount_reason) for each in self._source.databases if each not in mounted]
        source = replace(self._source, databases=mounted, left_out=[*self._source.left_out, *gone])
        return GroupSnapshot(source, self._repository, clock=self._clock, kind=SnapshotKind.CAPTURE).run()

    def _changed(self, databases: Sequence[Database]) -> bool:
        held = self._newest_states()
        return any(held.get(each.guid) != _state_of(each) for each in databases)

    def _note_unchanged(self, databases: Sequence[Database], began_ms: int) -> None:
        """Note that the repository has the state of this moment, too."""
        if self._source.noted_in is not None:
            for database in databases:
                unchanged = LastBackup(capture_ms=began_ms)
                keep_last_backup(self._source.noted_in, database.guid, unchanged, began_ms)

    def _newest_states(self) -> dict[bytes, Any]:
        """The state of each database in the newest snapshot of the group, by GUID."""
        for snapshot in reversed(self._repository.snapshots()):
            if is_of_group(snapshot, self._source):
                with suppress(*OF_ANOTHER_PROGRAM):
                    entries = [entry for entry, _ in snapshot_databases(snapshot)]
                    return {each["guid"]: each.get("state") for each in entries}
        return {}


def _state_of(database: Database) -> list[int]:
    with database.read(Actor.task("backup")) as read:
        return describe_state(read)
