"""Snapshots of a running storage group: requestor and writer in the manner of shadow copies.

prepare -> freeze -> take -> thaw -> transfer -> complete, or abort from anywhere (DOMAIN.md "Backup"). While
frozen only a position and a read of each database are taken; everything is copied after the thaw, from a
state that no longer changes.

Databases that another process writes cannot be frozen from here, and need not be: a read of each is taken,
and taken again if one that was read first has moved on meanwhile, so that all reads are of one moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from pillarbox.backup.database_snapshot import (
    FrozenDatabase,
    Progress,
    describe_database,
    store_database,
)
from pillarbox.backup.last_backups import note_backup
from pillarbox.backup.repository.pack import BlobId
from pillarbox.backup.repository.repository import Repository, Snapshot, SnapshotKind
from pillarbox.store.access import Actor
from pillarbox.store.clock import Clock
from pillarbox.store.disk.checkpoint import Checkpoint, read_checkpoint
from pillarbox.store.disk.tables import LAYOUT_VERSION
from pillarbox.store.engine.checkpointer import FlushedState
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.engine.replay import find_transaction
from pillarbox.store.engine.transaction import ReadTransaction
from pillarbox.store.errors import InvalidContent, NotFound, Refused, Retryable, UnsupportedVersion
from pillarbox.store.events import EventId
from pillarbox.store.server import Server
from pillarbox.store.storage_group import StorageGroup

FREEZE_TIMEOUT_MS: Final = 10_000
_TAKES_MAX: Final = 1000
MANIFEST_FORMAT: Final = 1
OF_ANOTHER_PROGRAM: Final = (InvalidContent, UnsupportedVersion)
"""How `snapshot_databases` refuses a snapshot that another program wrote, or another version of this one."""
_GUID_BYTES: Final = 16
_COUNTS: Final = ("mailboxes_count", "messages_count", "stream_bytes", "records_bytes")
FIRST_ADMINISTRATIVE_GROUP: Final = "First Administrative Group"


class SnapshotHook(Protocol):
    """A part of the embedding program that joins every snapshot.

    An error of `prepare`, `freeze` or `thaw` fails the backup. `thaw` follows every `freeze`, whatever
    happens; then `complete` or `abort`, never both. `freeze` and `thaw` are called in a thread of the hook's
    own, the same for both: one that hangs keeps neither databases nor other hooks frozen beyond the time-out.
    """

    def prepare(self) -> None:
        """Finish pending work, flush caches."""
        ...

    def freeze(self) -> None:
        """Hold still until `thaw`. It counts against the freeze time-out."""
        ...

    def thaw(self) -> None:
        """Go on."""
        ...

    def complete(self) -> None:
        """The backup is in the repository."""
        ...

    def abort(self) -> None:
        """There will be no backup."""
        ...


class Step(Enum):
    """The progress of a snapshot."""

    NEW = "new"
    PREPARED = "prepared"
    FROZEN = "frozen"
    THAWED = "thawed"
    COMPLETE = "complete"
    ABORTED = "aborted"


_ALLOWED: Final = {
    Step.NEW: {Step.PREPARED, Step.ABORTED},
    Step.PREPARED: {Step.FROZEN, Step.ABORTED},
    Step.FROZEN: {Step.THAWED, Step.ABORTED},
    Step.THAWED: {Step.COMPLETE, Step.ABORTED},
    Step.COMPLETE: set[Step](),
    Step.ABORTED: set[Step](),
}


class LeftOut(NamedTuple):
    """A database of the storage group that takes no part in a snapshot, and why."""

    database: Database
    reason: str


@dataclass(frozen=True)
class SnapshotSource:
    """A storage group to be backed up: its mounted databases, those left out, and where it belongs.

    `server` is the server's name, `server_guid` tells it from others of that name, and `config` is the text
    of its `server.toml`; the last two are empty where a program has databases without a server. `noted_in` is
    the directory in which the server keeps what it knows of its last backups.
    """

    server: str
    group: str
    databases: Sequence[Database]
    administrative_group: str = FIRST_ADMINISTRATIVE_GROUP
    server_guid: bytes = b""
    config: str = ""
    left_out: Sequence[LeftOut] = ()
    noted_in: Path | None = None


def source_of(server: Server, group: StorageGroup) -> SnapshotSource:
    """A storage group of an open server as it is now: databases that are not mounted are left out."""
    databases = list(group.databases.values())
    mounted = [database for database in databases if database.state is not MountState.DISMOUNTED]
    left_out = [
        LeftOut(database, str(server.not_mounted.get(database.label) or "it is dismounted"))
        for database in databases
        if database not in mounted
    ]
    return SnapshotSource(
        server.path.resolve().name,
        group.name,
        mounted,
        server_guid=server.guid,
        config=server.config_text(),
        left_out=left_out,
        noted_in=server.backups_path,
    )


class GroupSnapshot:
    """One snapshot of one storage group. Used once, from one thread."""

    def __init__(
        self,
        source: SnapshotSource,
        repository: Repository,
        *,
        clock: Clock,
        kind: SnapshotKind = SnapshotKind.FULL,
        hooks: Sequence[SnapshotHook] = (),
        freeze_timeout_ms: int = FREEZE_TIMEOUT_MS,
        progress: Progress | None = None,
    ) -> None:
        """Nothing happens before `run`. `freeze_timeout_ms` bounds hooks and databases together."""
        self.step = Step.NEW
        self.freeze_ms = 0
        self._source = source
        # In one order everywhere, so that two snapshots at once cannot wait for each other.
        self._databases = sorted(source.databases, key=lambda database: database.guid)
        self._repository = repository
        self._clock = clock
        self._kind = kind
        self._hooks = hooks
        self._freeze_timeout_ms = freeze_timeout_ms
        self._progress = progress
        self._prepared: list[SnapshotHook] = []
        self._earlier: list[Snapshot] = []
        self._based_on_ms: int | None = None
        self._previous = ""
        self._taken_ms = 0
        self._reads = ExitStack()

    def run(self) -> Snapshot:
        """Take the snapshot; when this returns it is durable in the repository.

        Raises Retryable when the freeze took too long, Refused for an incremental without a full, Dismounted,
        RepositoryLocked, DiskFull, Corrupt, and what a hook raises; the writers go on in every case, and what
        an interrupted transfer stored is used by the next.
        """
        try:
            with self._reads:
                self._prepare()
                frozen = self._freeze()
                snapshot = self._transfer(frozen)
        except BaseException as error:
            self._abort(error)
            raise
        self._complete(snapshot)
        return snapshot

    def _enter(self, step: Step) -> None:
        if step not in _ALLOWED[self.step]:
            raise Refused(f"a snapshot that is {self.step.value} cannot be {step.value}")
        self.step = step

    def _prepare(self) -> None:
        if self.step is not Step.NEW:
            raise Refused("a snapshot is taken once; make another")
        if not self._databases:
            raise NotFound(
                f"storage group {self._source.group!r} has no mounted database", hint="mount one of them"
            )
        self._earlier = self._repository.snapshots()
        self._based_on_ms = choose_base(self._earlier, self._source, self._kind)
        of_group = [snapshot.id for snapshot in self._earlier if is_of_group(snapshot, self._source)]
        self._previous = of_group[-1] if of_group else ""
        for hook in self._hooks:
            self._prepared.append(hook)
            hook.prepare()
        self._enter(Step.PREPARED)

    def _freeze(self) -> list[FrozenDatabase]:
        started_ms = self._clock.monotonic_ms()
        with ExitStack() as held:
            for hook in self._hooks:
                freezer = _HookFreezer(hook, self._freeze_timeout_ms)
                held.callback(freezer.thaw)  # before its freeze: one that failed half way must go on too
                freezer.freeze()
                self._refuse_late(started_ms)
            flushed: dict[bytes, FlushedState] = {}
            for database in self._databases:
                if database.state is not MountState.READ_ONLY:
                    # Those that are paused already must not wait for ever for a transaction in this one.
                    left_ms = started_ms + self._freeze_timeout_ms - self._clock.monotonic_ms()
                    flushed[database.guid] = held.enter_context(database.paused(max(0, left_ms)))
                    self._refuse_late(started_ms)
            self._enter(Step.FROZEN)
            checkpoints = {each.guid: read_checkpoint(each.path) for each in self._databases}
            taken = self._take()
            self._refuse_late(started_ms)
        self.freeze_ms = self._clock.monotonic_ms() - started_ms
        self._enter(Step.THAWED)
        return [
            FrozenDatabase(
                database,
                flushed.get(database.guid) or _end_of(database, checkpoints[database.guid], read),
                read,
            )
            for database, read in taken
        ]

    def _take(self) -> list[tuple[Database, ReadTransaction]]:
        """A read of each database, all of one moment."""
        actor = Actor.task("backup")
        for _ in range(_TAKES_MAX):
            with ExitStack() as reads:
                self._taken_ms = self._clock.now_ms()
                taken = [(each, reads.enter_context(each.read(actor))) for each in self._databases]
                # Those not moved on since they were read were still the same when the last one was read.
                if all(_is_still(database, read, actor) for database, read in taken[:-1]):
                    self._reads.push(reads.pop_all())
                    return taken
        raise Retryable(
            "the databases change too often to be seen at one moment from another process",
            hint="try again, or let the program that writes them take the snapshot",
        )

    def _refuse_late(self, started_ms: int) -> None:
        if self._clock.monotonic_ms() - started_ms > self._freeze_timeout_ms:
            raise Retryable(
                f"the freeze took longer than {self._freeze_timeout_ms} ms; the writers go on",
                hint="see which database or program was slow to freeze, then take the snapshot again",
            )

    def _transfer(self, frozen: Sequence[FrozenDatabase]) -> Snapshot:
        with self._repository.writer() as writer:
            stored = [
                (each, store_database(
                    self._repository, writer, each, find_previous(self._earlier, each.database.guid),
                    progress=self._progress,
                ))
                for each in frozen
            ]  # fmt: skip
            manifest = {
                "format": MANIFEST_FORMAT,
                "layout": LAYOUT_VERSION,
                "kind": str(self._kind),
                "based_on_ms": self._based_on_ms,
                "previous": self._previous,
                "server": self._source.server,
                "server_guid": self._source.server_guid,
                "config": self._source.config,
                "administrative_group": self._source.administrative_group,
                "group": self._source.group,
                "databases": [describe_database(*each) for each in stored],
                "left_out": [
                    {"guid": each.guid, "name": each.name, "kind": int(each.kind)}
                    for each, _ in self._source.left_out
                ],
            }
            roots = tuple(each.root for _, each in stored)
            snapshot_id = writer.save_snapshot(manifest, roots, time_ms=self._taken_ms)
        return Snapshot(snapshot_id, self._taken_ms, roots, manifest)

    def _complete(self, snapshot: Snapshot) -> None:
        self._enter(Step.COMPLETE)
        if self._source.noted_in is not None:
            held = [(each, database_guids(each)) for each in (*self._earlier, snapshot)]
            guids = [database.guid for database in self._databases]
            note_backup(self._source.noted_in, self._repository, held, guids, self._clock)
        if self._kind is not SnapshotKind.CAPTURE:  # one a minute would hide every other event
            for database in self._databases:
                database.report(EventId.SNAPSHOT_FINISHED, snapshot=snapshot.id)
            for left_out in self._source.left_out:
                left_out.database.report(EventId.SNAPSHOT_FAILED, error=left_out.reason)
        for hook in self._prepared:
            hook.complete()

    def _abort(self, error: BaseException) -> None:
        if self.step in (Step.COMPLETE, Step.ABORTED):
            return
        self.step = Step.ABORTED
        for database in self._databases:
            database.report(EventId.SNAPSHOT_FAILED, error=str(error) or type(error).__name__)
        with ExitStack() as told:  # every one of them, even when one fails
            for hook in reversed(self._prepared):
                told.callback(hook.abort)


class _HookFreezer:
    """Freezes and thaws one hook in a thread, and waits for neither longer than the time-out (ms)."""

    def __init__(self, hook: SnapshotHook, timeout_ms: int) -> None:
        self._hook = hook
        self._timeout_ms = timeout_ms
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pillarbox-hook")
        self._hangs = False

    def freeze(self) -> None:
        """Raises Retryable when it takes too long, and what the hook raises."""
        frozen = self._thread.submit(self._hook.freeze)
        self._hangs = not wait([frozen], self._timeout_ms / 1000).done
        if self._hangs:
            raise Retryable(
                f"a hook of the program did not freeze within {self._timeout_ms} ms; the writers go on",
                hint="see why it hangs, then take the snapshot again",
            )
        frozen.result()

    def thaw(self) -> None:
        """One whose freeze hangs thaws when that returns. Raises what the hook raises."""
        thawed = self._thread.submit(self._hook.thaw)
        self._thread.shutdown(wait=False)
        if not self._hangs and wait([thawed], self._timeout_ms / 1000).done:
            thawed.result()


def _is_still(database: Database, read: ReadTransaction, actor: Actor) -> bool:
    """True when a database is as it was read; one that is paused is, without looking."""
    if database.state is not MountState.READ_ONLY:
        return True
    with database.read(actor) as now:
        return now.state().sequence == read.state().sequence


def _end_of(database: Database, checkpoint: Checkpoint, read: ReadTransaction) -> FlushedState:
    """Where the stream of a database ended when it was read, looked for from an earlier checkpoint on."""
    sequence = read.state().sequence
    position = find_transaction(database.stream, checkpoint.position, checkpoint.sequence, sequence)
    return FlushedState(sequence, position)


# --- what earlier snapshots say -----------------------------------------------------------------------------


def snapshot_databases(snapshot: Snapshot) -> Iterator[tuple[Mapping[str, Any], BlobId]]:
    """The entries of a snapshot for each of its databases, with the root tree of each.

    Raises InvalidContent; UnsupportedVersion for a snapshot of a newer program.
    """
    entries = snapshot.manifest.get("databases")
    version = snapshot.manifest.get("format")
    if isinstance(version, int) and version > MANIFEST_FORMAT:
        raise UnsupportedVersion(
            f"snapshot {snapshot.id} is in format {version}",
            hint=f"this program knows {MANIFEST_FORMAT}; use a newer one, or another snapshot",
        )
    if version != MANIFEST_FORMAT or not isinstance(entries, list) or len(entries) != len(snapshot.roots):
        raise InvalidContent(
            f"snapshot {snapshot.id} is not one of a storage group in a format this program knows",
            hint="use a newer program, or another snapshot",
        )
    for entry, root in zip(entries, snapshot.roots, strict=True):
        if not _is_described(entry):
            raise InvalidContent(
                f"snapshot {snapshot.id} describes a database in a way that is not ours",
                hint="use another snapshot; `pillarbox backup check` tells what is damaged",
            )
        yield entry, root


def _is_described(entry: object) -> bool:
    """True when what a manifest, perhaps an enemy's, says of a database can be worked with."""
    if not isinstance(entry, dict):
        return False
    guid, counts = entry.get("guid"), [entry.get(key) for key in _COUNTS]
    return (
        isinstance(entry.get("name"), str)
        and isinstance(guid, bytes)
        and len(guid) == _GUID_BYTES
        and all(each is None or (isinstance(each, int) and each >= 0) for each in counts)
    )


def find_previous(snapshots: Sequence[Snapshot], guid: bytes) -> BlobId | None:
    """The root tree of the newest of `snapshots`, oldest first, that holds the database of that GUID."""
    for snapshot in reversed(snapshots):
        with suppress(*OF_ANOTHER_PROGRAM):
            for entry, root in snapshot_databases(snapshot):
                if entry["guid"] == guid:
                    return root
    return None


def choose_base(snapshots: Sequence[Snapshot], source: SnapshotSource, kind: SnapshotKind) -> int | None:
    """The time, ms UTC, of the backup that one of `kind` follows; None for those that follow none.

    Raises Refused when an incremental or differential has no full before it.
    """
    if kind in (SnapshotKind.FULL, SnapshotKind.COPY):
        return None
    bases = {SnapshotKind.FULL}
    if kind is SnapshotKind.INCREMENTAL:
        bases.add(SnapshotKind.INCREMENTAL)
    found = [each for each in snapshots if is_of_group(each, source)]
    if kind is SnapshotKind.CAPTURE:
        return max((each.time_ms for each in found), default=None)
    if not any(each.manifest.get("kind") == SnapshotKind.FULL for each in found):
        raise Refused(
            f"storage group {source.group!r} has no full backup in this repository yet",
            hint="take a full backup first; it too stores only what the repository does not have",
        )
    return max(each.time_ms for each in found if each.manifest.get("kind") in bases)


def is_of_group(snapshot: Snapshot, source: SnapshotSource) -> bool:
    """True when a snapshot is one of that storage group of that server.

    Where one of the two has no GUID of the server, its name must be the same, and a database in common:
    servers of several machines mostly lie in directories of the same name.
    """
    guid = server_guid_of(snapshot)
    if guid and source.server_guid:
        return guid == source.server_guid and snapshot.manifest.get("group") == source.group
    guids = {each.guid for each in (*source.databases, *(each.database for each in source.left_out))}
    is_common = not guids.isdisjoint(database_guids(snapshot) | left_out_guids(snapshot))
    return _names(snapshot) == (source.server, source.group) and is_common


def server_guid_of(snapshot: Snapshot) -> bytes:
    """The GUID of the server that a snapshot is of; empty where it was taken before servers had any."""
    guid = snapshot.manifest.get("server_guid")
    return guid if isinstance(guid, bytes) and len(guid) == _GUID_BYTES else b""


def left_out_guids(snapshot: Snapshot) -> set[bytes]:
    """The GUIDs of the databases that the storage group had, and the snapshot has not."""
    found = snapshot.manifest.get("left_out")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return {entry["guid"] for entry in entries if isinstance(entry.get("guid"), bytes)}


def _names(snapshot: Snapshot) -> tuple[Any, Any]:
    return snapshot.manifest.get("server"), snapshot.manifest.get("group")


def database_guids(snapshot: Snapshot) -> set[bytes]:
    """The GUIDs of a snapshot's databases; none where it is of another program or format."""
    try:
        return {entry["guid"] for entry, _ in snapshot_databases(snapshot)}
    except OF_ANOTHER_PROGRAM:
        return set()
