"""The recovery groups of a server: databases of a backup that only recovery tools reach.

    <server>/recovery/recovery.toml           what is in it (recovery_config); without it there is no group
    <server>/recovery/<group>/<database>/     restored files, or the records of a database in a repository
    <server>/public-folder-recovery/          the same for public folder stores

The rules are those of DOMAIN.md "Recovery storage group", which takes mailbox stores only; public folder
stores have the public folder recovery group, under the same rules. Their databases are none of
`Server.databases()`: no client, delivery, size check, maintenance or backup comes to them, and opening the
server mounts none of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from pillarbox.backup.database_snapshot import Progress
from pillarbox.backup.recovery_config import (
    RECOVERY_FILE,
    HeldAs,
    RecoveryConfig,
    RecoveryEntry,
    read_recovery,
    write_recovery,
)
from pillarbox.backup.replaced import new_place
from pillarbox.backup.repository.repository import Repository, Snapshot
from pillarbox.backup.restore import (
    RECOVERY_TITLES,
    Destination,
    Fill,
    RecoverySource,
    RestorableDatabase,
    RestoredDatabase,
    ServerState,
    check_path_part,
    refuse_for_recovery,
    rename_durably,
    restorable_databases,
    restore_files,
    restore_in_place,
    restore_records,
    unfinished_all,
)
from pillarbox.backup.restore_rate import note_restore
from pillarbox.backup.salvage import salvage_files
from pillarbox.backup.snapshot import FIRST_ADMINISTRATIVE_GROUP
from pillarbox.backup.snapshot_mount import RecoveryDatabase, open_snapshot_mount
from pillarbox.backup.snapshot_owner import foreign_snapshot, is_of_server, mark_of
from pillarbox.store.clock import Clock
from pillarbox.store.disk.file_lock import FileLock
from pillarbox.store.disk.stream import Stream, disk_error, flush_directory
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import PROPERTIES, STREAM
from pillarbox.store.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Dismounted,
    InvalidContent,
    InvalidName,
    NotFound,
    PillarboxError,
    ReadOnly,
    Refused,
)
from pillarbox.store.events import EventId, PythonLoggingSink, make_event, tee
from pillarbox.store.names import name_key
from pillarbox.store.server import Server
from pillarbox.store.server_config import KIND_TEXTS
from pillarbox.store.upkeep.repair_rebuild import LostMessage

RECOVERY_LOCK: Final = "recovery.lock"
_LOCK_WAIT_MS: Final = 5000
_REMOVING: Final = ".removing"
_OWN_FILES: Final = frozenset({RECOVERY_FILE, RECOVERY_FILE + ".new", RECOVERY_LOCK})

FillPlace = Callable[[RestorableDatabase, Path], HeldAs]
OnLost = Callable[[bytes, LostMessage], None]
"""Told each message that a damaged snapshot has lost, with the GUID of its database."""
_DAMAGE: Final = (Corrupt, InvalidContent, NotFound)


def has_recovery_group(server: Server) -> bool:
    """True when the server has a recovery storage group."""
    return _is_group(server.recovery_paths[DatabaseKind.MAILBOX_STORE])


def recovery_groups(server: Server, *, clock: Clock) -> list[RecoveryGroup]:
    """The recovery groups that the server has: the recovery storage group first. Raises as `open`."""
    return [
        RecoveryGroup.open(server, clock=clock, kind=kind)
        for kind, path in server.recovery_paths.items()
        if _is_group(path)
    ]


def _is_group(path: Path) -> bool:
    return (path / RECOVERY_FILE).is_file()


def goes_to_recovery_group(server: Server) -> bool:
    """True when a restore to the server goes to its recovery storage group, not over its databases."""
    if not has_recovery_group(server):
        return False
    return not read_recovery(server.recovery_paths[DatabaseKind.MAILBOX_STORE]).override


class RecoveryGroup:
    """The recovery storage group of a server, or with the kind PUBLIC_FOLDER_STORE its public folder recovery
    group. What is in it is read at every call: others use it too.

    Databases that were opened are closed by `close`, or at the end of a `with` block. Use one of these in a
    process, from one thread: a process can open a database once. What it opened is read from any thread.
    """

    def __init__(
        self,
        server: Server,
        *,
        clock: Clock,
        kind: DatabaseKind = DatabaseKind.MAILBOX_STORE,
        administrative_group: str = FIRST_ADMINISTRATIVE_GROUP,
    ) -> None:
        """Use `create`, `open` or `open_or_begin`. `kind` is that of all databases in it."""
        self.kind = kind
        self.title = RECOVERY_TITLES[kind]
        self.path = server.recovery_paths[kind]
        self._server = server
        self._clock = clock
        self._administrative_group = administrative_group
        # Whatever the levels: a mount in the group lasts, and is no mere opening by a command.
        self._reporter = tee(PythonLoggingSink(), server.events)
        self._open: dict[bytes, RecoveryDatabase] = {}
        self._may_be_missing = False

    @classmethod
    def create(
        cls,
        server: Server,
        *,
        clock: Clock,
        kind: DatabaseKind = DatabaseKind.MAILBOX_STORE,
        administrative_group: str = FIRST_ADMINISTRATIVE_GROUP,
    ) -> RecoveryGroup:
        """Make an empty group. Raises AlreadyExists, ReadOnly, DiskFull."""
        group = cls(server, clock=clock, kind=kind, administrative_group=administrative_group)
        with group._locked():
            if _is_group(group.path):
                raise AlreadyExists(
                    f"the server has a {group.title} already", hint="use it, or remove it first"
                )
            config = RecoveryConfig(kind)
            group._clear_leftovers(config)
            group._write(config)
        return group

    @classmethod
    def open(
        cls,
        server: Server,
        *,
        clock: Clock,
        kind: DatabaseKind = DatabaseKind.MAILBOX_STORE,
        administrative_group: str = FIRST_ADMINISTRATIVE_GROUP,
    ) -> RecoveryGroup:
        """The group that is there. Raises NotFound when there is none, InvalidSetting, UnsupportedVersion."""
        read_recovery(server.recovery_paths[kind], kind)
        return cls(server, clock=clock, kind=kind, administrative_group=administrative_group)

    @classmethod
    def open_or_begin(
        cls,
        server: Server,
        *,
        clock: Clock,
        kind: DatabaseKind = DatabaseKind.MAILBOX_STORE,
        administrative_group: str = FIRST_ADMINISTRATIVE_GROUP,
    ) -> RecoveryGroup:
        """The group that is there, or one that the server has once a first database is in it.

        Killed before, nothing of it takes later restores. Raises InvalidSetting, UnsupportedVersion.
        """
        group = cls(server, clock=clock, kind=kind, administrative_group=administrative_group)
        group._may_be_missing = True
        group._config()
        return group

    def remove(self) -> None:
        """Remove the group with all its databases, for good. Raises ReadOnly, WriterBusy."""
        with self._locked():
            self.close()
            self._clear_leftovers(RecoveryConfig(self.kind))
            self._unlink()

    def close(self) -> None:
        """Close the databases that were opened here. They stay in the group, and mounted."""
        for database in self._open.values():
            database.close()
        self._open.clear()

    def __enter__(self) -> RecoveryGroup:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- what is in it

    def entries(self) -> list[RecoveryEntry]:
        """Its databases, in the order in which they came."""
        return self._config().databases

    def entry(self, name: str) -> RecoveryEntry:
        """Its database of that name, in any case. Raises NotFound."""
        return self._entry(self._config(), name)

    def place(self, entry: RecoveryEntry) -> Path:
        """Where the files of one of its databases are."""
        return self._place(self._config(), entry.name)

    @property
    def source(self) -> RecoverySource | None:
        """The storage group that its databases come from; None while it is empty."""
        return self._config().source

    @property
    def override(self) -> bool:
        """True when restores go to the original place all the same ("Recovery SG Override")."""
        return self._config().override

    def set_override(self, override: bool) -> None:
        """Set "Recovery SG Override", durably. Raises ReadOnly."""
        with self._changed() as config:
            config.override = override

    def server_state(self) -> ServerState:
        """The state of the server that the rules for restores ask for."""
        config = self._config()
        guids = {database.guid for database in self._server.databases()}
        return ServerState(guids, self._administrative_group, True, config.override, config.source)

    def _config(self) -> RecoveryConfig:
        if self._may_be_missing and not _is_group(self.path):
            return RecoveryConfig(self.kind)
        return read_recovery(self.path, self.kind)

    def _place(self, config: RecoveryConfig, name: str) -> Path:
        if config.source is None:
            raise NotFound(f"the {self.title} is empty")
        return self.path / check_path_part(config.source.group) / check_path_part(name)

    def _entry(self, config: RecoveryConfig, name: str) -> RecoveryEntry:
        for entry in config.databases:
            if name_key(entry.name) == name_key(name):
                return entry
        names = ", ".join(entry.name for entry in config.databases) or "there is none"
        raise NotFound(f"the {self.title} has no database {name!r}", hint=f"its databases: {names}")

    # -- databases that come and go

    def mount_snapshot(
        self,
        repository: Repository,
        location: str,
        snapshot: Snapshot,
        *,
        names: Collection[str] = (),
        foreign: bool = False,
        on_lost: OnLost | None = None,
        progress: Progress | None = None,
    ) -> list[RecoveryEntry]:
        """Mount the databases of a snapshot that are of the group's kind, or those of the names, all or none.

        Only their records are brought over; content is fetched from the repository as it is touched.
        `location` is kept, for who opens them later; `progress` is told bytes of records as they come (their
        sum is `records_bytes` of the manifest). `foreign` takes a snapshot of another server too: a merge
        would put its mail into mailboxes of the same names here. With `on_lost` a database whose records are
        damaged is restored instead, as `salvage_files` does, and mounted from its files. Raises Refused for
        one of another server without `foreign`, and by the rules of the group; AlreadyExists, NotFound,
        Corrupt, DiskFull, ReadOnly, WriterBusy; event 20001 tells it.
        """
        if not foreign:
            self._refuse_foreign(snapshot)

        def fill(database: RestorableDatabase, place: Path) -> HeldAs:
            try:
                restore_records(repository, database, place, progress=progress)
                open_snapshot_mount(repository, database, place).close()
            except _DAMAGE:
                if on_lost is None:
                    raise
                shutil.rmtree(place / PROPERTIES, ignore_errors=True)
                lost = salvage_files(repository, database, place, clock=self._clock, thorough=False)
                for message in lost:
                    on_lost(database.guid, message)
                return HeldAs.FILES
            return HeldAs.REPOSITORY

        held = RecoveryEntry(b"", "", HeldAs.REPOSITORY, True, snapshot.id, location, repository.id)
        chosen = self._choose(snapshot, names)
        try:
            taken = self._take(chosen, held, fill)
        except PillarboxError as error:
            for each in chosen:
                self._report(EventId.DATABASE_NOT_MOUNTED, each.name, reason=str(error))
            raise
        for entry in taken:
            self._report(EventId.DATABASE_MOUNTED, entry.name)
        return taken

    def restore(
        self,
        repository: Repository,
        location: str,
        snapshot: Snapshot,
        *,
        names: Collection[str] = (),
        foreign: bool = False,
        thorough: bool = False,
        fill: Fill | None = None,
        on_lost: OnLost | None = None,
        progress: Progress | None = None,
    ) -> list[RecoveryEntry]:
        """Restore the databases of a snapshot that are of the group's kind, or those of the names, with all
        their files.

        They are not mounted (`mount`). All or none. `foreign` is that of `mount_snapshot`; `thorough`,
        `fill` and `progress` are those of `restore_to_directory`. Raises as `mount_snapshot`.
        """
        if not foreign:
            self._refuse_foreign(snapshot)

        def write(database: RestorableDatabase, place: Path) -> HeldAs:
            write_files = fill or restore_files
            lost = write_files(
                repository, database, place, clock=self._clock, thorough=thorough, progress=progress
            )
            if on_lost is not None:
                for message in lost:
                    on_lost(database.guid, message)
            return HeldAs.FILES

        held = RecoveryEntry(b"", "", HeldAs.FILES, False, snapshot.id, location, repository.id)
        taken = self._take(self._choose(snapshot, names), held, write)
        for entry in taken:
            self._report(EventId.RESTORE_FINISHED, entry.name, snapshot=snapshot.id)
        return taken

    def _choose(self, snapshot: Snapshot, names: Collection[str]) -> list[RestorableDatabase]:
        """The databases of those names, of any kind; without names those of the group's. Raises NotFound."""
        found = restorable_databases(snapshot, names)
        if not names:
            found = [each for each in found if each.kind is self.kind]
        if not found:
            raise NotFound(
                f"snapshot {snapshot.id} holds no {KIND_TEXTS[self.kind]}; the {self.title} takes no other",
                hint="see what it holds with `pillarbox backup show`",
            )
        return found

    def _refuse_foreign(self, snapshot: Snapshot) -> None:
        if not is_of_server(snapshot, mark_of(self._server)):
            raise foreign_snapshot(snapshot)

    def _take(
        self, chosen: Sequence[RestorableDatabase], held: RecoveryEntry, fill: FillPlace
    ) -> list[RecoveryEntry]:
        """Take databases in; those are in the group that `recovery.toml` names, so it is written last."""
        with self._changed() as config:
            state = ServerState((), self._administrative_group, recovery_source=config.source)
            refuse_for_recovery(chosen, state, self.kind)
            self._refuse_taken(chosen, config)
            config.source = config.source or chosen[0].source
            self._clear_leftovers(config)
            places = [self._place(config, each.name) for each in chosen]
            with unfinished_all(places) as unfinished:
                ways = [fill(each, place) for each, place in zip(chosen, unfinished, strict=True)]
                for new, place in zip(unfinished, places, strict=True):
                    rename_durably(new, place)
            taken = [
                replace(held, guid=each.guid, name=each.name, held_as=way)
                for each, way in zip(chosen, ways, strict=True)
            ]
            config.databases += taken
        return taken

    def _refuse_taken(self, chosen: Sequence[RestorableDatabase], config: RecoveryConfig) -> None:
        if chosen[0].group.casefold() in _OWN_FILES:
            raise InvalidName(f"a storage group {chosen[0].group!r} cannot lie in the {self.title}")
        names = {name_key(entry.name) for entry in config.databases}
        guids = {entry.guid for entry in config.databases}
        for each in chosen:
            if each.guid in guids or name_key(each.name) in names:
                raise AlreadyExists(
                    f"database {each.name!r} is in the {self.title} already",
                    hint="remove it from there first with `pillarbox recovery dismount`",
                )

    def mount(self, name: str) -> RecoveryEntry:
        """Let recovery tools read a database that was restored. Mounted already: nothing.

        Raises NotFound, Corrupt, ReadOnly, WriterBusy, with event 20001.
        """
        entry = self.entry(name)
        if entry.is_mounted:
            return entry
        try:
            self._open_files(entry).close()
        except PillarboxError as error:
            self._report(EventId.DATABASE_NOT_MOUNTED, entry.name, reason=str(error))
            raise
        return self._set_mounted(name, True)

    def dismount(self, name: str, *, remove_empty: bool = False) -> RecoveryEntry:
        """Let nobody read a database any more; what it was.

        One mounted from a repository leaves the group as `delete` says; restored files stay until `delete`.
        Raises NotFound, ReadOnly, WriterBusy, DiskFull.
        """
        entry = self.entry(name)
        if entry.held_as is HeldAs.REPOSITORY:
            return self.delete(name, remove_empty=remove_empty)
        return self._set_mounted(name, False)

    def _set_mounted(self, name: str, is_mounted: bool) -> RecoveryEntry:
        with self._changed() as config:
            entry = self._entry(config, name)
            config.databases[config.databases.index(entry)] = replace(entry, is_mounted=is_mounted)
        if entry.is_mounted is not is_mounted:
            self._close(entry)
            event = EventId.DATABASE_MOUNTED if is_mounted else EventId.DATABASE_DISMOUNTED
            self._report(event, entry.name)
        return replace(entry, is_mounted=is_mounted)

    def delete(self, name: str, *, remove_empty: bool = False) -> RecoveryEntry:
        """Remove a database from the group with its files, mounted or not; what it was.

        With `remove_empty` the group goes with its last database. After a crash or an error on the way the
        same call ends it. Raises NotFound, ReadOnly, WriterBusy; DiskFull when the space that its files had
        is taken by others at once.
        """
        with self._changed(remove_empty=remove_empty) as config:
            entry = self._entry(config, name)
            place = self._place(config, entry.name)
            config.databases.remove(entry)
            self._close(entry)
            # Its files first, then what says that it is there: a full disk has no room for that before.
            with suppress(OSError):  # out of the way at once: nobody reads half of them
                place.rename(place.with_name(place.name + _REMOVING))
            self._clear_leftovers(config)
        if entry.is_mounted:
            self._report(EventId.DATABASE_DISMOUNTED, entry.name)
        return entry

    def _clear_leftovers(self, config: RecoveryConfig) -> None:
        """Remove the files of what is not in the group (any more)."""
        held = {self._place(config, entry.name) for entry in config.databases}
        for group in [each for each in self.path.iterdir() if each.is_dir()]:
            for place in list(group.iterdir()):
                if place not in held:
                    shutil.rmtree(place, ignore_errors=True)
            if not any(place.parent == group for place in held):
                shutil.rmtree(group, ignore_errors=True)

    # -- reading

    def database(self, name: str, repository: Repository | None = None) -> RecoveryDatabase:
        """A mounted database, open to be read; the same one when it is asked for again.

        One mounted from a repository needs that repository, opened (`entry` tells where it lies). Raises
        Dismounted when it is not mounted; Refused without the repository, Conflict for another one; NotFound
        also when its snapshot has been forgotten, or its files are gone; Corrupt.
        """
        entry = self.entry(name)
        if not entry.is_mounted:
            raise Dismounted(f"database {entry.name} is not mounted", hint="mount it first")
        found = self._open.get(entry.guid)
        if found is None or not found.is_open:
            if entry.held_as is HeldAs.FILES:
                found = self._open_files(entry)
            else:
                found = self._open_mount(entry, repository)
            self._open[entry.guid] = found
        return found

    def _open_files(self, entry: RecoveryEntry) -> RecoveryDatabase:
        place = self._files(entry)
        stream = Stream(place / STREAM, entry.guid)
        return RecoveryDatabase(place / PROPERTIES, entry.guid, entry.name, self.kind, stream)

    def _open_mount(self, entry: RecoveryEntry, repository: Repository | None) -> RecoveryDatabase:
        if repository is None:
            raise Refused(
                f"the content of database {entry.name} is in the repository {entry.repository}",
                hint="open the repository, and pass it on",
            )
        if repository.id != entry.repository_id:
            raise Conflict(
                f"database {entry.name} was mounted from repository {entry.repository_id}, "
                f"this one is {repository.id}",
                hint=f"it was at {entry.repository} then",
            )
        for each in restorable_databases(_snapshot_of(entry, repository)):
            if each.guid == entry.guid:
                return open_snapshot_mount(repository, each, self._files(entry))
        raise NotFound(f"snapshot {entry.snapshot} does not hold database {entry.name}")

    def _files(self, entry: RecoveryEntry) -> Path:
        place = self.place(entry)
        if not place.exists():
            raise NotFound(
                f"the files of database {entry.name} are gone: its removal was interrupted",
                hint="end that with `pillarbox recovery dismount`; for restored files say --delete",
            )
        return place

    def _close(self, entry: RecoveryEntry) -> None:
        found = self._open.pop(entry.guid, None)
        if found is not None:
            found.close()

    # -- the file and its lock

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._server.read_only:
            raise _opened_for_reading()
        self._refuse_directory_of_group()
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(error, str(self.path)) from error
        lock = self.path / RECOVERY_LOCK
        with closing(FileLock(lock, f"the {self.title}", self._clock, wait_ms=_LOCK_WAIT_MS)):
            yield

    def _refuse_directory_of_group(self) -> None:
        """Raises Conflict where an older program put a storage group: what is not listed here is removed."""
        for group in self._server.groups.values():
            if group.path == self.path:
                raise Conflict(
                    f"storage group {group.name} lies in {self.path}, the place of the {self.title}",
                    hint="make another storage group, and move its mailboxes there",
                )

    @contextmanager
    def _changed(self, *, remove_empty: bool = False) -> Iterator[RecoveryConfig]:
        """The configuration, to be changed in a `with` block: durable then; an exception changes nothing.

        With `remove_empty` a group is gone in the end that has no database left.
        """
        with self._locked():
            config = self._config()
            yield config
            if not config.databases:
                config.source = None
            if remove_empty and not config.databases:
                self._unlink()
            else:
                self._write(config)

    def _write(self, config: RecoveryConfig) -> None:
        write_recovery(self.path, config)
        try:
            flush_directory(self.path.parent)  # the directory may be new
        except OSError as error:
            raise disk_error(error, str(self.path.parent)) from error

    def _unlink(self) -> None:
        """Remove what says that there is a group, durably, and its directory unless other files are in it."""
        try:
            (self.path / RECOVERY_FILE).unlink(missing_ok=True)
            flush_directory(self.path)
            if [path.name for path in self.path.iterdir()] == [RECOVERY_LOCK]:
                (self.path / RECOVERY_LOCK).unlink()
                self.path.rmdir()
                flush_directory(self.path.parent)
        except OSError as error:
            raise disk_error(error, str(self.path)) from error

    def _report(self, event_id: int, database: str, **details: str) -> None:
        self._reporter.report(make_event(event_id, self._clock.now_ms(), database, **details))


def _snapshot_of(entry: RecoveryEntry, repository: Repository) -> Snapshot:
    try:
        return repository.snapshot(entry.snapshot)
    except NotFound as error:
        raise NotFound(
            f"database {entry.name} was mounted from snapshot {entry.snapshot[:12]}, which is gone",
            hint="`pillarbox recovery dismount` it, then mount another snapshot",
        ) from error


def _opened_for_reading() -> ReadOnly:
    return ReadOnly("the server was opened for reading only", hint="open it for writing")


def restore_to_server(
    repository: Repository,
    location: str,
    snapshot: Snapshot,
    server: Server,
    *,
    names: Collection[str] = (),
    foreign: bool = False,
    fill: Fill | None = None,
    clock: Clock,
    administrative_group: str = FIRST_ADMINISTRATIVE_GROUP,
    progress: Progress | None = None,
) -> tuple[Destination, list[RestoredDatabase]]:
    """Restore databases of a snapshot to a server: into its recovery storage group when it has one whose
    override is not set, else those that are named over the same ones (`plan_restore` says what goes then, and
    `replaced` has it). `foreign` is that of `mount_snapshot`, `fill` that of `restore_to_directory`.

    Databases in their original place are mounted after when they were before. Raises as
    `RecoveryGroup.restore` and `restore_in_place`.
    """
    if server.read_only:
        raise _opened_for_reading()
    if not has_recovery_group(server):
        state = ServerState({database.guid for database in server.databases()}, administrative_group)
    else:
        group = RecoveryGroup.open(server, clock=clock, administrative_group=administrative_group)
        state = group.server_state()
        if not state.recovery_override:
            lost: dict[bytes, list[LostMessage]] = {}
            entries = group.restore(
                repository,
                location,
                snapshot,
                names=names,
                foreign=foreign,
                fill=fill,
                on_lost=lambda guid, message: lost.setdefault(guid, []).append(message),
                progress=progress,
            )
            places = [group.place(each) for each in entries]
            return Destination.RECOVERY_GROUP, [
                RestoredDatabase(
                    each.guid, each.name, place.parent.name, place, lost=tuple(lost.get(each.guid, ()))
                )
                for each, place in zip(entries, places, strict=True)
            ]
    databases = list(server.databases())
    began_ms = clock.monotonic_ms()
    restored = restore_in_place(
        repository,
        snapshot,
        databases,
        names=names,
        kept_in=new_place(server.path, clock.now_ms()),
        server=state,
        clock=clock,
        fill=fill,
        progress=progress,
    )
    if fill is None:  # to go on over damage takes its own time
        took_ms = clock.monotonic_ms() - began_ms
        note_restore(server.backups_path, snapshot, [each.guid for each in restored], took_ms, clock)
    return Destination.ORIGINAL, restored
