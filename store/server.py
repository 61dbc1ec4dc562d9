"""A server: its storage groups and databases in one directory, mounted, checked and reported on together.

    <server>/server.toml              what it consists of (server_config)
    <server>/server.lock              held while server.toml is changed
    <server>/<group>/<database>/      files of a database
    <server>/mailboxes/               the names of the mailboxes in each database (mailbox_directory)
    <server>/backups/                 when each database was last backed up (last_backup)
    <server>/events/                  the event log
    <server>/recovery/                the recovery storage group
    <server>/public-folder-recovery/  the public folder recovery group

Directories are named when a group or database is made; a rename moves no files.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, tzinfo
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from pillarbox.store.access import Actor
from pillarbox.store.arguments import PathLike, as_path, check_kind
from pillarbox.store.clock import Clock, SystemClock
from pillarbox.store.disk.file_lock import REPLACING, FileLock
from pillarbox.store.disk.mailbox_names import MailboxNames
from pillarbox.store.disk.stream import disk_error, make_directories
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import LOCK, Database, MountState
from pillarbox.store.engine.database_limits import Edition, changed_settings, limits_from_settings
from pillarbox.store.engine.uninterrupted import Uninterrupted
from pillarbox.store.errors import (
    AlreadyExists,
    Dismounted,
    InvalidName,
    InvalidSetting,
    NotEmpty,
    NotFound,
    PillarboxError,
    ReadOnly,
    RecoveryNeeded,
    Refused,
    WriterBusy,
)
from pillarbox.store.events import Diagnostics, EventId, EventLog, Level, PythonLoggingSink, make_event, tee
from pillarbox.store.ids import new_guid
from pillarbox.store.mail import public_folders
from pillarbox.store.mailbox_directory import MailboxDirectory
from pillarbox.store.names import check_name, name_key, safe_name
from pillarbox.store.server_config import (
    BACKUPS,
    CONFIG_FILE,
    EVENTS,
    MAILBOX_NAMES,
    PUBLIC_FOLDER_RECOVERY,
    RECOVERY,
    TAKEN_DIRECTORIES,
    DatabaseEntry,
    GroupEntry,
    ServerConfig,
    format_config,
    parse_config,
    read_config,
    read_config_text,
    write_config,
)
from pillarbox.store.server_lock import ServerChange, ServerLock
from pillarbox.store.storage_group import (
    StorageGroup,
    refuse_another_database,
    refuse_another_group,
    refuse_edition,
)
from pillarbox.store.upkeep.backup_ages import BackupRules, rules_from_settings
from pillarbox.store.upkeep.daily_maintenance import DailyMaintenance
from pillarbox.store.upkeep.daily_size_check import DailySizeCheck
from pillarbox.store.upkeep.last_backup import forget_last_backup
from pillarbox.store.upkeep.sizes import above_limit_ms, last_size_check_ms, record_size_check

if TYPE_CHECKING:
    from pillarbox.store.upkeep.maintenance import MaintenanceReport

FIRST_GROUP: Final = "First Storage Group"
FIRST_DATABASES: Final = {
    "Mailbox Store": DatabaseKind.MAILBOX_STORE,
    "Public Folder Store": DatabaseKind.PUBLIC_FOLDER_STORE,
}
SERVER_LOCK: Final = "server.lock"
_LOCAL_TIME: Final = Path("/etc/localtime")
_CHANGE_WAIT_MS: Final = 5000  # others hold server.lock only while they change server.toml
_DIRECTORY_BYTES_MAX: Final = 100
_NEW: Final = ".new"  # Database.create makes its files in a directory of this ending, and empties it first


def machine_zone() -> tzinfo:
    """The machine's time zone, in which daily checks are timed; UTC where it does not say."""
    try:
        with _LOCAL_TIME.open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except (OSError, ValueError):
        return UTC


class Server:
    """A server that is open in this process. Its methods may be called from any thread.

    `groups` are the regular storage groups by name; `not_mounted` says of each database that should be
    mounted and is not, why; `mailboxes` finds, makes and moves mailboxes by name; `events` is the log;
    `recovery_paths` are the places of the recovery storage group, which takes mailbox stores, and of the
    public folder recovery group; `backups_path` is where it is kept when databases were last backed up, and
    `backup_rules` say how old that may be.
    """

    def __init__(
        self,
        path: Path,
        config: ServerConfig,
        text: str = "",
        *,
        read_only: bool = False,
        wait_ms: int = 0,
        diagnostics_min: Level = Level.NONE,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        zone: tzinfo | None = None,
    ) -> None:
        """Use `create` or `open`: this mounts nothing. `text` is what `config` was read from."""
        self.path = path
        self.edition = config.edition
        self.read_only = read_only
        self.groups: dict[str, StorageGroup] = {}
        self.not_mounted: dict[str, PillarboxError] = {}
        self.events = EventLog(path / EVENTS)
        self.recovery_paths = {
            DatabaseKind.MAILBOX_STORE: path / RECOVERY,
            DatabaseKind.PUBLIC_FOLDER_STORE: path / PUBLIC_FOLDER_RECOVERY,
        }
        self.backups_path = path / BACKUPS
        self.backup_rules = BackupRules()
        self._wait_ms = wait_ms
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.SystemRandom()
        self._changing = threading.RLock()
        self._uninterrupted = Uninterrupted()
        self.mailboxes = MailboxDirectory(self, self._changing, self._locked)
        self._checking = threading.Lock()
        self._maintaining = threading.Lock()
        self._diagnostics = Diagnostics(lowest=diagnostics_min)
        self._reporter = self._diagnostics.filter(tee(PythonLoggingSink(), self.events))
        self.size_check = DailySizeCheck(
            self._mounted, self._dismount_above_limit, clock=self._clock, zone=zone or machine_zone()
        )
        self.maintenance = DailyMaintenance(self._mounted, clock=self._clock, zone=zone or machine_zone())
        self._config = config
        self._read_diagnostics(config.diagnostics)
        self._adopt(config, text)

    def __repr__(self) -> str:
        use = " for reading" if self.read_only else ""
        return f"<Server {self.path}{use}: {', '.join(map(repr, self.databases())) or 'no databases'}>"

    # -- creating, opening, closing

    @classmethod
    def create(
        cls,
        path: PathLike,
        edition: Edition | str = Edition.STANDARD,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        zone: tzinfo | None = None,
    ) -> Server:
        """Make a server in a new or empty directory, and open it for writing.

        It has one storage group of a mailbox store and a public folder store. `edition` may be named by its
        text. A server is there once its `server.toml` is; what was made is removed when that fails. Raises
        AlreadyExists, InvalidName, InvalidSetting for no edition, DiskFull, NoPermission, PillarboxError.
        """
        path, edition = as_path(path, "path"), _edition(edition)
        _refuse_path_without_text(path)
        _refuse_used_directory(path)
        server = cls(path, ServerConfig(edition), clock=clock, rng=rng, zone=zone)
        group = GroupEntry(FIRST_GROUP, FIRST_GROUP)
        try:
            for name, kind in FIRST_DATABASES.items():
                group.databases.append(server._create_files(group, name, kind))
            write_config(path, ServerConfig(edition, [group], guid=new_guid(server._rng)))
        except BaseException:
            (path / CONFIG_FILE).unlink(missing_ok=True)  # first: what is left without it is no server
            shutil.rmtree(path / FIRST_GROUP, ignore_errors=True)
            raise
        return cls.open(path, clock=clock, rng=rng, zone=zone)

    @classmethod
    def open(
        cls,
        path: PathLike,
        *,
        read_only: bool = False,
        mount: bool = True,
        daily_check: bool = False,
        wait_ms: int = 0,
        diagnostics_min: Level = Level.NONE,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        zone: tzinfo | None = None,
    ) -> Server:
        """Open a server and mount those of its databases that are to be mounted at start-up.

        Without `mount` none is: to look after the server itself, or to mount one by one. A database that
        cannot be mounted is in `not_mounted`, with event 20001; the others serve. When it is opened for
        writing, sizes above their limits are reported; with `daily_check` the daily check is carried out at
        once instead, due or not. `wait_ms` is how long to wait for another process to let go of a database.
        `diagnostics_min` is how much each diagnostic category writes at least: a service asks for MINIMUM,
        so that its mounts and dismounts are told. `rng` gives GUIDs, `zone` the local time of daily checks;
        by default the system's.
        Raises NotFound, InvalidSetting, UnsupportedVersion.
        """
        path = as_path(path, "path")
        text = read_config_text(path)
        config = parse_config(text, str(path / CONFIG_FILE))
        server = cls(
            path,
            config,
            text,
            read_only=read_only,
            wait_ms=wait_ms,
            diagnostics_min=diagnostics_min,
            clock=clock,
            rng=rng,
            zone=zone,
        )
        if not read_only and not config.guid:
            server._take_guid()
        if mount:
            try:
                server._start(daily_check)
            except BaseException:
                server.close()
                raise
        return server

    def _take_guid(self) -> None:
        """Give a server made before there were GUIDs its own, or another time if it cannot be written."""
        with suppress(PillarboxError), self._changed() as config:
            config.guid = config.guid or new_guid(self._rng)

    def _start(self, daily_check: bool) -> None:
        for database in self.databases():
            if self.is_to_be_mounted(database.label):
                try:
                    self._mount(database)
                except PillarboxError:
                    continue  # kept in `not_mounted`, and reported
            elif self.mounts_at_startup(database.label):
                self.not_mounted[database.label] = _above_limit(database)
        if not self.read_only:
            self._discard_copies()
            self._report(EventId.SERVER_OPENED, "", {"server": self.path.name})
            with self._checking:
                if daily_check:
                    self.size_check.run_now()
                else:
                    self.size_check.look(self._mounted())

    def close(self) -> None:
        """Dismount every database. Closing twice is harmless. Raises what a dismount raises, after all."""
        with self._changing, ExitStack() as stack:
            stack.callback(self.events.close)
            for database in self.databases():
                stack.callback(database.dismount, "the server was closed")

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- finding

    @property
    def guid(self) -> bytes:
        """Tells this server from all others; empty for one of before GUIDs that was not written since."""
        return self._config.guid

    def config_text(self) -> str:
        """The text of `server.toml`, comments and all; where it cannot be read, what of it is in force."""
        try:
            text = (self.path / CONFIG_FILE).read_text(encoding="utf-8")
            parse_config(text)
        except (OSError, ValueError, PillarboxError):
            return format_config(self._config)  # a person is in the middle of changing it
        return text

    def group(self, name: str) -> StorageGroup:
        """The storage group of that name, in any case. Raises NotFound."""
        return self.groups[self._config.group(name).name]

    def databases(self) -> Iterator[Database]:
        """Every database of the regular storage groups."""
        for group in list(self.groups.values()):
            yield from list(group.databases.values())

    def database(self, name: str) -> Database:
        """The database of that name, in any case, or of the name `Storage Group/Database`.

        Raises NotFound; InvalidName when more than one group has a database of that name.
        """
        check_kind(name, "name", str, "the name of a database")
        group_name, _, short = name.rpartition("/")
        found = [
            database
            for group in list(self.groups.values())
            for database in group.databases.values()
            if name_key(database.name) == name_key(short)
            and (not group_name or name_key(group.name) == name_key(group_name))
        ]
        if len(found) > 1:
            raise InvalidName(
                f"more than one storage group has a database {name!r}", hint="say `Storage Group/Database`"
            )
        if not found:
            names = ", ".join(each.label for each in self.databases()) or "there is none"
            raise NotFound(f"there is no database {name!r}", hint=f"the databases: {names}")
        return found[0]

    # -- mounting

    def mount(self, name: str, *, starts_grace: bool = True) -> Database:
        """Mount a database, and report when its size is above its limit. Mounted already: nothing.

        One that a daily size check has dismounted serves again, in all processes, until the next one. Without
        `starts_grace` it is mounted as when the server is opened, for who follows what others decided.
        Raises NotFound, InvalidName, and as `Database.mount`, with event 20001.
        """
        with self._changing:
            database = self.database(name)
            if database.state is not MountState.DISMOUNTED:
                return database
            self._mount(database)
            if starts_grace and not self.read_only:
                self._start_grace(database)
        if not self.read_only:
            self._discard_copies()
            with self._checking:
                self.size_check.look([database])
        return database

    def _start_grace(self, database: Database) -> None:
        if self._entry(database).dismounted_above_limit:
            with self._changing, self._changed() as config:
                config.place_of(database.guid)[1].dismounted_above_limit = False
        if above_limit_ms(database) is not None:
            record_size_check(database, last_size_check_ms(database) or 0)

    def _mount(self, database: Database) -> None:
        try:
            if self.read_only:
                self._mount_to_read(database)
            else:
                names = database.mailbox_names
                were_known = names is None or names.is_known()
                database.mount(wait_ms=self._wait_ms)
                if not were_known:
                    self._end_doubles(database)
        except PillarboxError as error:
            self.not_mounted[database.label] = error
            database.report(EventId.DATABASE_NOT_MOUNTED, reason=str(error))
            raise
        self.not_mounted.pop(database.label, None)

    def _end_doubles(self, database: Database) -> None:
        try:
            self.mailboxes.end_doubles(database)
        except PillarboxError as error:  # `MailboxDirectory.find` tells of a double
            database.report(EventId.REQUEST_FAILED, request="mailbox names", error=str(error))

    def _discard_copies(self) -> None:
        """Delete what interrupted moves have left; event 1025 tells why it stays."""
        try:
            self.mailboxes.discard_copies()
        except PillarboxError as error:
            self._report(EventId.REQUEST_FAILED, "(all)", {"request": "discard copies", "error": str(error)})

    def _mount_to_read(self, database: Database) -> None:
        try:
            database.mount(read_only=True)
        except RecoveryNeeded:
            # Nobody writes it, so after a crash this process may do what a writer would: replay, once.
            database.recover(wait_ms=self._wait_ms)
            database.mount(read_only=True)

    def dismount(self, name: str, reason: str = "it was dismounted by an administrator") -> Database:
        """Dismount a database until it is mounted or the server is opened again.

        Raises NotFound, InvalidName.
        """
        with self._changing:
            database = self.database(name)
            self.not_mounted.pop(database.label, None)
            database.dismount(reason)
        return database

    def check_sizes(self, *, now: bool = False) -> int:
        """Carry out the daily size checks that are due, or `now` all; when to call next, ms UTC (DOMAIN.md
        "Limits").

        A database that was reported above its limit before, and still is, is dismounted, for all processes,
        until it is mounted by `mount` or by command.
        """
        with self._checking:
            return self.size_check.run_now() if now else self.size_check.run_due()

    def _dismount_above_limit(self, database: Database) -> None:
        try:
            with self._changing, self._changed() as config:
                config.place_of(database.guid)[1].dismounted_above_limit = True
        finally:
            reason = _above_limit(database)
            database.dismount(str(reason))
            self.not_mounted[database.label] = reason

    def maintain(self) -> int:
        """Carry out the daily maintenance that is due; when to call next, ms UTC (DOMAIN.md "Limits").

        May take hours on large databases, while everything goes on: give it a thread of its own.
        """
        with self._maintaining:
            next_ms = self.maintenance.run_due()
            self._discard_copies()
            return next_ms

    def maintain_now(
        self, name: str, actor: Actor, *, step: Callable[[], None] = lambda: None
    ) -> MaintenanceReport:
        """Maintain a mounted database now, due or not; `step` is as in `run_maintenance`.

        Raises WriterBusy while a run of daily maintenance goes on in this process, NotFound, InvalidName, and
        as `run_maintenance`.
        """
        from pillarbox.store.upkeep.maintenance import run_maintenance  # here: few programs maintain by hand

        database = self.database(name)
        if not self._maintaining.acquire(blocking=False):
            raise WriterBusy("daily maintenance runs already", hint="wait until it has ended")
        try:
            report = run_maintenance(database, actor, step=step)
            self._discard_copies()
            return report
        finally:
            self._maintaining.release()

    def _mounted(self) -> list[Database]:
        return [database for database in self.databases() if database.state is MountState.MOUNTED]

    # -- storage groups and databases

    def create_group(self, name: str) -> StorageGroup:
        """Make an empty storage group. Raises InvalidName, AlreadyExists, Refused above the edition's cap."""
        with self._changing, self._changed() as config:
            check_name(name)
            _refuse_taken(name, config.groups)
            refuse_another_group(config.edition, len(config.groups))
            taken = TAKEN_DIRECTORIES | {entry.directory for entry in config.groups}
            config.groups.append(GroupEntry(name, _free_directory(self.path, name, taken)))
        return self.group(name)

    def rename_group(self, name: str, new_name: str) -> StorageGroup:
        """Give a storage group another name. Raises NotFound, InvalidName, AlreadyExists."""
        with self._changing, self._changed() as config:
            entry = config.group(name)
            check_name(new_name)
            _refuse_taken(new_name, [each for each in config.groups if each is not entry])
            entry.name = new_name
        return self.group(new_name)

    def delete_group(self, name: str) -> None:
        """Delete a storage group. Raises NotFound, NotEmpty."""
        with self._changing, self._changed() as config:
            entry = config.group(name)
            if entry.databases:
                raise NotEmpty(
                    f"storage group {entry.name} has {len(entry.databases)} database(s)",
                    hint="delete its databases first: `pillarbox database delete`",
                )
            config.groups.remove(entry)

    def create_database(self, group_name: str, name: str, kind: DatabaseKind) -> Database:
        """Make an empty database in a storage group, and mount it.

        Raises NotFound, InvalidName, AlreadyExists, DiskFull, and Refused above the edition's limit.
        """
        with self._changing, self._changed() as config:
            group = config.group(group_name)
            check_name(name)
            _refuse_taken(name, group.databases)
            refuse_another_database(config.edition, [each.kind for each in group.databases], kind)
            group.databases.append(self._create_files(group, name, kind))
        return self.mount(f"{group.name}/{name}")

    def _create_files(self, group: GroupEntry, name: str, kind: DatabaseKind) -> DatabaseEntry:
        directory = self.path / group.directory
        try:
            make_directories(directory)
        except OSError as error:
            raise disk_error(error, str(directory)) from error
        taken = {entry.directory for entry in group.databases}
        entry = DatabaseEntry(name, _free_directory(directory, name, taken), new_guid(self._rng), kind)
        database = Database(
            directory / entry.directory, entry.guid, name, kind, clock=self._clock, rng=self._rng
        )
        try:
            database.create()
            if kind == DatabaseKind.PUBLIC_FOLDER_STORE:
                with _mounted_for_setup(database), database.transaction(Actor.task("setup")) as txn:
                    public_folders.create_tree(txn)
        except BaseException:
            shutil.rmtree(database.path, ignore_errors=True)
            raise
        return entry

    def rename_database(self, name: str, new_name: str) -> Database:
        """Give a database another name; it may stay mounted. Raises NotFound, InvalidName, AlreadyExists."""
        with self._changing, self._changed() as config:
            database = self.database(name)
            group, entry = config.place_of(database.guid)
            check_name(new_name)
            _refuse_taken(new_name, [each for each in group.databases if each is not entry])
            self.not_mounted.pop(database.label, None)
            entry.name = new_name
        return database

    def delete_database(self, name: str) -> None:
        """Delete a database that is not mounted, with all its files, for good.

        Raises NotFound, InvalidName; Refused while it is mounted, WriterBusy when another process has it so.
        """
        with self._changing, self._changed() as config:
            database = self.database(name)
            if database.state is not MountState.DISMOUNTED:
                raise Refused(
                    f"database {database.name} is mounted", hint="dismount it first: `pillarbox dismount`"
                )
            label = database.label
            with self._kept_from_others(database):
                group, entry = config.place_of(database.guid)
                group.databases.remove(entry)
                # First what says that it exists, then its files: what a crash leaves between is only space.
                write_config(self.path, config)
                shutil.rmtree(database.path, ignore_errors=True)
                if database.mailbox_names is not None:
                    database.mailbox_names.forget()
                forget_last_backup(self.backups_path, database.guid)
            self.not_mounted.pop(label, None)

    @contextmanager
    def _kept_from_others(self, database: Database) -> Iterator[None]:
        if not database.path.is_dir():
            yield
            return
        what = f"database {database.name}"
        with closing(FileLock(database.path / LOCK, what, self._clock, word=REPLACING)):
            yield

    # -- settings

    def set_limits(self, name: str, settings: Mapping[str, int | None]) -> Database:
        """Change settings of a database's size limits (`settings_of`), in force at once; None: the default.

        Raises NotFound, InvalidName; InvalidSetting for an unknown key or a value the edition does not allow,
        and then nothing is changed.
        """
        with self._changing, self._changed() as config:
            database = self.database(name)
            _, entry = config.place_of(database.guid)
            entry.settings = changed_settings(entry.settings, settings, config.edition)
        return database

    def set_edition(self, edition: Edition) -> None:
        """Change what the server is set up as, and with it the limits of databases that have the default.

        Raises Refused when it has more storage groups, databases or higher limits than the edition allows:
        the error names all of them, and nothing is changed.
        """
        with self._changing, self._changed() as config:
            refuse_edition(edition, config)
            config.edition = edition

    def set_mount_at_startup(self, name: str, mount: bool) -> Database:
        """Set whether opening the server mounts a database. Raises NotFound, InvalidName."""
        with self._changing, self._changed() as config:
            database = self.database(name)
            config.place_of(database.guid)[1].mount_at_startup = mount
        return database

    def mounts_at_startup(self, name: str) -> bool:
        """True when a database is set to be mounted as the server is opened. Raises NotFound, InvalidName."""
        return self._entry(self.database(name)).mount_at_startup

    def is_to_be_mounted(self, name: str) -> bool:
        """True when opening the server mounts a database: no administrator or size check has dismounted it.

        Raises NotFound, InvalidName.
        """
        entry = self._entry(self.database(name))
        return entry.mount_at_startup and not entry.dismounted_above_limit

    def to_be_mounted(self) -> frozenset[bytes]:
        """The GUIDs of the databases that opening the server mounts, as `is_to_be_mounted` says of one."""
        return frozenset(
            entry.guid
            for group in self._config.groups
            for entry in group.databases
            if entry.mount_at_startup and not entry.dismounted_above_limit
        )

    def set_diagnostics(self, category: str, level: str) -> None:
        """Set how much a diagnostic category writes: none, minimum, medium or maximum.

        Raises InvalidSetting.
        """
        with self._changing, self._changed() as config:
            Diagnostics({category: level})
            config.diagnostics[category] = level.lower()

    def diagnostics(self) -> Diagnostics:
        """The levels of the diagnostic categories."""
        return self._diagnostics

    # -- the configuration

    def reload(self) -> None:
        """Take over what other processes changed in the configuration; nothing is mounted or dismounted,
        but what was deleted. Raises as `open`, and InvalidSetting where it moves a mounted database; then
        nothing is taken over.

        Where nothing was changed it only reads the file, and waits for nobody.
        """
        if read_config_text(self.path) == self._config_text:
            return
        with self._changing:
            text = read_config_text(self.path)
            self._adopt(self._kept_in_place(parse_config(text, str(self.path / CONFIG_FILE))), text)

    def config_on_disk(self) -> ServerConfig:
        """The configuration as it is on disk, whether it was taken over or not. Raises as `reload`."""
        return self._kept_in_place(read_config(self.path))

    def _kept_in_place(self, config: ServerConfig) -> ServerConfig:
        """A configuration that leaves each mounted database where and what it is. Raises InvalidSetting."""
        known = {database.guid: database for database in self.databases()}
        for group in config.groups:
            for entry in group.databases:
                database = known.get(entry.guid)
                if database and not _may_be(
                    database, self.path / group.directory / entry.directory, entry.kind
                ):
                    raise InvalidSetting(
                        f"{self.path / CONFIG_FILE} gives {database.label}, which is {database.state.value}, "
                        "another directory or kind",
                        hint="put that back as it was; before a database is moved it is dismounted",
                    )
        return config

    def _locked(self) -> ServerLock:
        """Keep other processes from changing the server in a `with` block; take `_changing` before it."""
        return ServerLock(self._take_lock, self._uninterrupted)

    def _changed(self) -> ServerChange:
        """The configuration, to be changed in a `with` block: then durable, and in force. As `_locked`."""
        return ServerChange(self._take_lock, self._uninterrupted, self.config_on_disk, self._put_in_force)

    def _take_lock(self) -> FileLock:
        if self.read_only:
            raise ReadOnly("the server was opened for reading only", hint="open it for writing")
        wait_ms = max(self._wait_ms, _CHANGE_WAIT_MS)
        return FileLock(self.path / SERVER_LOCK, "the server", self._clock, wait_ms=wait_ms)

    def _put_in_force(self, config: ServerConfig) -> None:
        self._adopt(config, write_config(self.path, config))

    def _adopt(self, config: ServerConfig, text: str) -> None:
        """Bring the groups and databases of this process in line with a configuration of that text."""
        self._read_diagnostics(config.diagnostics)
        self._read_backup_rules(config.backups)
        self.edition = config.edition
        known_groups = {group.path: group for group in self.groups.values()}
        known = {database.guid: database for database in self.databases()}
        groups: dict[str, StorageGroup] = {}
        for entry in config.groups:
            path = self.path / entry.directory
            group = groups[entry.name] = known_groups.get(path) or StorageGroup(entry.name, path)
            group.name = entry.name
            group.databases = {
                each.name: self._adopted(known.pop(each.guid, None), path, each, config.label_of(each.guid))
                for each in entry.databases
            }
        self.groups, self._config, self._config_text = groups, config, text
        for gone in known.values():
            gone.dismount("it was deleted")

    def _adopted(
        self, database: Database | None, group_path: Path, entry: DatabaseEntry, label: str
    ) -> Database:
        before, path = None, group_path / entry.directory
        if database is None or (database.path, database.kind) != (path, entry.kind):
            database = Database(path, entry.guid, entry.name, entry.kind, clock=self._clock, rng=self._rng)
            database.reporter = self._reporter
            if entry.kind == DatabaseKind.MAILBOX_STORE:
                database.mailbox_names = MailboxNames(
                    self.path / MAILBOX_NAMES / entry.guid.hex(), entry.guid
                )
        else:
            before = (self._entry(database).settings, self._config.edition)
        database.name, database.label = entry.name, label
        if (entry.settings, self.edition) != before:
            limits, rejected = limits_from_settings(entry.settings, self.edition)
            database.limits = limits
            for setting in rejected:
                database.report(EventId.SETTING_NOT_USED, **setting._asdict())
        return database

    def _entry(self, database: Database) -> DatabaseEntry:
        return self._config.place_of(database.guid)[1]

    def _read_diagnostics(self, levels: Mapping[str, Any]) -> None:
        for category, level in levels.items():
            try:
                self._diagnostics.set_level(category, level)
            except InvalidSetting as error:
                details = {"key": category, "value": level, "reason": error.hint, "default": "none"}
                self._report(EventId.SETTING_NOT_USED, "(all)", details)

    def _read_backup_rules(self, configured: Mapping[str, Any]) -> None:
        self.backup_rules, rejected = rules_from_settings(configured)
        for setting in rejected:
            self._report(EventId.SETTING_NOT_USED, "(all)", setting._asdict())

    def _report(self, event_id: int, database: str, details: Mapping[str, Any]) -> None:
        self._reporter.report(make_event(event_id, self._clock.now_ms(), database, **details))


def _may_be(database: Database, path: Path, kind: DatabaseKind) -> bool:
    """True when a database is at a place and of a kind, or is dismounted, so that it can be opened there."""
    return (database.path, database.kind) == (path, kind) or database.state is MountState.DISMOUNTED


@contextmanager
def _mounted_for_setup(database: Database) -> Iterator[None]:
    database.mount()
    try:
        yield
    finally:
        database.dismount()


def _above_limit(database: Database) -> Dismounted:
    return Dismounted(
        f"database {database.label} was dismounted by a daily size check: it is above its size limit",
        hint="mount it with `pillarbox mount` and make room before the next daily check, or raise the limit "
        "with `pillarbox limits set`",
    )


def _refuse_path_without_text(path: Path) -> None:
    """LMDB takes a path as UTF-8. Raises InvalidName when it is none."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InvalidName(
            f"{str(path)!r} cannot be the directory of a server: it is not UTF-8", hint="choose another name"
        ) from error


def _edition(edition: Edition | str) -> Edition:
    try:
        return Edition(edition)
    except ValueError as error:
        editions = ", ".join(known.value for known in Edition)
        raise InvalidSetting(f"{edition!r} is no edition", hint=f"one of {editions}") from error


def _refuse_used_directory(path: Path) -> None:
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "a server already" if (path / CONFIG_FILE).exists() else "not an empty directory"
            raise AlreadyExists(f"{path} is {what}", hint="name a directory that is new or empty")
    except OSError as error:
        raise disk_error(error, str(path)) from error


def _refuse_taken(name: str, entries: Collection[GroupEntry] | Collection[DatabaseEntry]) -> None:
    if any(name_key(entry.name) == name_key(name) for entry in entries):
        raise AlreadyExists(f"there is a {name!r} already", hint="choose another name")


def _free_directory(parent: Path, name: str, taken: Collection[str]) -> str:
    """A directory name made of `name` that nothing in `parent` has, whatever the case."""
    used = {name_key(each) for each in taken}
    if parent.is_dir():
        used |= {name_key(each.name) for each in parent.iterdir()}
    plain = safe_name(name, _DIRECTORY_BYTES_MAX)
    stem = f"{plain}_" if plain.casefold().endswith(_NEW) else plain
    candidate, number = stem, 1
    while name_key(candidate) in used:
        number += 1
        candidate = f"{stem} {number}"
    return candidate
