"""A server made from a repository alone: the machine that it ran on is gone.

DIR/new-server.restoring/<storage group>/<database>/    while it is made
DIR/<storage group>/<database>/                         moved there when all are whole
DIR/server.toml                                         last: until it is there, there is no server
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.backup.database_snapshot import Progress
from pillarbox.backup.find_snapshot import choose_moment, is_moment, read_moment
from pillarbox.backup.last_backups import last_backups
from pillarbox.backup.repository.repository import LATEST, Repository, Snapshot
from pillarbox.backup.restore import (
    Fill,
    RestorableDatabase,
    RestoredDatabase,
    go_on_with_new_numbers,
    last_number,
    make_directories,
    refuse_layout,
    rename_durably,
    restorable_databases,
    restore_files,
)
from pillarbox.backup.restore_rate import restored_bytes
from pillarbox.backup.snapshot import database_guids, server_guid_of
from pillarbox.backup.snapshot_owner import choose_server, list_servers, split_by_server
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.clock import Clock
from pillarbox.store.disk.stream import disk_error, flush_directory
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import AlreadyExists, InvalidName, InvalidSetting, NotFound, UnsupportedVersion
from pillarbox.store.events import EventId
from pillarbox.store.ids import new_guid
from pillarbox.store.names import name_key, safe_name
from pillarbox.store.server import Server
from pillarbox.store.server_config import (
    BACKUPS,
    CONFIG_FILE,
    DatabaseEntry,
    GroupEntry,
    ServerConfig,
    parse_config,
    write_config,
)
from pillarbox.store.storage_group import smallest_edition
from pillarbox.store.upkeep.last_backup import LastBackup, keep_last_backup
from pillarbox.store.upkeep.new_identity import give_new_identity
from pillarbox.store.upkeep.repair_rebuild import LostMessage

STAGING: Final = "new-server.restoring"
_DIRECTORY_BYTES_MAX: Final = 100


class PlannedDatabase(NamedTuple):
    """A database of the server to be made, where it lies in it, and the newest snapshot that holds it."""

    group: GroupEntry
    entry: DatabaseEntry
    snapshot: Snapshot
    database: RestorableDatabase


@dataclass(frozen=True)
class NewServerPlan:
    """A server to be made. `missing` are databases that it had and no snapshot holds, by name; `config_text`
    is its `server.toml` as it was, empty where the snapshots are older than that, and defaults are taken.
    """

    config: ServerConfig
    databases: tuple[PlannedDatabase, ...]
    missing: tuple[str, ...]
    config_text: str

    @property
    def has_config(self) -> bool:
        """True when the configuration is the server's own."""
        return bool(self.config_text)


def plan_new_server(repository: Repository, name: str, *, of: str | None = None) -> NewServerPlan:
    """The server that a repository holds, as it was at a moment: `latest`, a time, or that of a snapshot.

    Of each database the newest snapshot then or before is taken. `of` names the server, by name or id, where
    the repository holds several. Raises NotFound, InvalidName when it is not clear which server is meant,
    InvalidSetting for a time that is none, Refused while the newest snapshot may be one that cannot be read.
    """
    snapshots = _of_server(repository, name, of)
    newest: dict[bytes, tuple[Snapshot, RestorableDatabase]] = {}
    for snapshot in reversed(snapshots):
        for database in restorable_databases(snapshot):
            newest.setdefault(database.guid, (snapshot, database))
    found = newest_config(snapshots)
    if found is None:
        made = _default_config([database for _, database in newest.values()])
        made.guid = next((guid for each in reversed(snapshots) if (guid := server_guid_of(each))), b"")
        return NewServerPlan(made, _placed(made, newest), (), "")
    config, text = found
    missing = []
    for group in config.groups:
        missing += [entry.name for entry in group.databases if entry.guid not in newest]
        group.databases = [entry for entry in group.databases if entry.guid in newest]
    return NewServerPlan(config, _placed(config, newest), tuple(missing), text)


def _of_server(repository: Repository, name: str, of: str | None) -> list[Snapshot]:
    """The snapshots of one server up to the moment that is named, oldest first."""
    snapshots = repository.snapshots()
    if not is_moment(name):
        meant = repository.snapshot(name)
        servers = [each.snapshots for each in split_by_server(snapshots)]
        (found,) = [each for each in servers if meant.id in {snapshot.id for snapshot in each}]
    else:
        repository.refuse_unclear_newest()
        found = snapshots if of is None else choose_server(snapshots, of)
        servers_there = split_by_server(found)
        if len(servers_there) > 1:
            raise InvalidName(
                f"the repository holds {len(servers_there)} servers: {list_servers(servers_there)}",
                hint="name the one that is meant with --of, by its name or id",
            )
        if not found:
            raise NotFound("the repository has no snapshots", hint="name another repository")
        meant = found[-1] if name == LATEST else choose_moment(found, read_moment(name.removeprefix("@")))
    return [each for each in found if (each.time_ms, each.id) <= (meant.time_ms, meant.id)]


def newest_config(snapshots: Sequence[Snapshot]) -> tuple[ServerConfig, str] | None:
    """The newest configuration that the snapshots, oldest first, hold, and its text."""
    for snapshot in reversed(snapshots):
        text = snapshot.manifest.get("config")
        if isinstance(text, str) and text:
            try:
                return parse_config(text, f"the configuration in snapshot {snapshot.id}"), text
            except (InvalidSetting, UnsupportedVersion):
                continue
    return None


def _default_config(databases: Sequence[RestorableDatabase]) -> ServerConfig:
    groups: dict[bytes, GroupEntry] = {}
    for database in sorted(databases, key=lambda each: (each.group, each.kind, each.name)):
        group = groups.setdefault(
            name_key(database.group),
            GroupEntry(database.group, safe_name(database.group, _DIRECTORY_BYTES_MAX)),
        )
        directory = safe_name(database.name, _DIRECTORY_BYTES_MAX)
        group.databases.append(DatabaseEntry(database.name, directory, database.guid, database.kind))
    made = list(groups.values())
    return ServerConfig(smallest_edition([[each.kind for each in group.databases] for group in made]), made)


def _placed(
    config: ServerConfig, newest: dict[bytes, tuple[Snapshot, RestorableDatabase]]
) -> tuple[PlannedDatabase, ...]:
    return tuple(
        PlannedDatabase(group, entry, *newest[entry.guid])
        for group in config.groups
        for entry in group.databases
    )


def make_new_server(
    repository: Repository,
    plan: NewServerPlan,
    directory: PathLike,
    *,
    as_copy: bool = False,
    fill: Fill | None = None,
    clock: Clock,
    rng: random.Random,
    progress: Progress | None = None,
) -> list[tuple[Snapshot, RestoredDatabase]]:
    """Make a server in a directory that is new or empty; durable when this returns.

    With `as_copy` the server and its databases get GUIDs of their own, and serve beside those that they were
    copied from. `fill` is that of `restore_to_directory`: `salvage_files` goes on over damage. Change
    numbers, ids and UIDs that were given out after the snapshots do not come again.
    After a crash the same call ends it. Raises AlreadyExists, DiskFull, Corrupt, NotFound, InvalidContent.
    """
    directory = as_path(directory, "directory")
    _refuse_used(directory)
    began_ms = clock.monotonic_ms()
    for planned in plan.databases:
        refuse_layout(planned.database)
    guids = {each.entry.guid: new_guid(rng) if as_copy else each.entry.guid for each in plan.databases}
    staging = directory / STAGING
    write = fill or restore_files
    lost: dict[bytes, tuple[LostMessage, ...]] = {}
    try:
        make_directories(directory)
        _clear(directory, staging, {group.directory for group in plan.config.groups})
        for planned in plan.databases:
            place = staging / planned.group.directory / planned.entry.directory
            place.parent.mkdir(parents=True, exist_ok=True)
            lost[planned.entry.guid] = write(
                repository, planned.database, place, clock=clock, thorough=False, progress=progress
            )
            _put_in_service(repository, planned, place, guids, clock)
            flush_directory(place.parent)
        for group in plan.config.groups:
            (staging / group.directory).mkdir(exist_ok=True)
            rename_durably(staging / group.directory, directory / group.directory)
        config = _config_for(plan.config, guids, new_guid(rng) if as_copy else None)
        write_config(directory, config, plan.config_text)
        staging.rmdir()
    except OSError as error:
        raise disk_error(error, str(directory)) from error
    _note_backups(repository, plan, directory / BACKUPS, guids, clock.monotonic_ms() - began_ms, clock)
    return _restored(plan, directory, guids, lost, clock)


def _note_backups(
    repository: Repository,
    plan: NewServerPlan,
    noted_in: Path,
    guids: dict[bytes, bytes],
    took_ms: int,
    clock: Clock,
) -> None:
    """Note what the repository says of the databases' last backups, and how fast it gave them back.

    A copy has no backup yet.
    """
    held = [(snapshot, database_guids(snapshot)) for snapshot in repository.snapshots()]
    known = last_backups(held, repository.reports(), repository.id)
    total_bytes = sum(restored_bytes(each.snapshot, {each.entry.guid}) for each in plan.databases)
    for old, new in guids.items():
        last = known[old] if old == new else LastBackup()
        last = replace(last, restored_bytes=total_bytes, restored_ms=took_ms)
        keep_last_backup(noted_in, new, last, clock.now_ms())


def _refuse_used(directory: Path) -> None:
    if (directory / CONFIG_FILE).exists():
        raise AlreadyExists(f"{directory} is a server already", hint="name a directory that is new or empty")
    is_ours = (directory / STAGING).is_dir()  # a call that was killed left it
    if not is_ours and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise AlreadyExists(
            f"{directory} is not an empty directory", hint="name a directory that is new or empty"
        )


def _clear(directory: Path, staging: Path, groups: Collection[str]) -> None:
    """Remove what a call that was killed left; then the place for this one is there."""
    if staging.is_dir():
        for group in groups:
            shutil.rmtree(directory / group, ignore_errors=True)
        shutil.rmtree(staging)
    staging.mkdir()
    flush_directory(directory)


def _put_in_service(
    repository: Repository, planned: PlannedDatabase, place: Path, guids: dict[bytes, bytes], clock: Clock
) -> None:
    entry = planned.entry
    guid = guids[entry.guid]
    last = last_number(Database(place, entry.guid, entry.name, entry.kind), repository.snapshots())
    if guid != entry.guid:
        give_new_identity(place, entry.guid, guids)
    go_on_with_new_numbers(Database(place, guid, entry.name, entry.kind, clock=clock), last)


def _config_for(config: ServerConfig, guids: dict[bytes, bytes], server_guid: bytes | None) -> ServerConfig:
    groups = [
        replace(group, databases=[replace(entry, guid=guids[entry.guid]) for entry in group.databases])
        for group in config.groups
    ]
    return replace(config, groups=groups, guid=config.guid if server_guid is None else server_guid)


def _restored(
    plan: NewServerPlan,
    directory: Path,
    guids: dict[bytes, bytes],
    lost: dict[bytes, tuple[LostMessage, ...]],
    clock: Clock,
) -> list[tuple[Snapshot, RestoredDatabase]]:
    done = []
    with Server.open(directory, mount=False, clock=clock) as server:
        databases = {database.guid: database for database in server.databases()}
        for planned in plan.databases:
            database = databases[guids[planned.entry.guid]]
            database.report(EventId.RESTORE_FINISHED, snapshot=planned.snapshot.id)
            restored = RestoredDatabase(
                database.guid,
                database.name,
                planned.group.name,
                database.path,
                lost=lost[planned.entry.guid],
            )
            done.append((planned.snapshot, restored))
    return done
