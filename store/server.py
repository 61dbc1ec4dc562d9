"""A server: a folder with its storage groups and databases, and what is set for each (DOMAIN.md "Store").

    <server>/server.toml                what there is, and its settings
    <server>/<group>/<database>/        the databases
    <server>/events/                    the event log

A database that cannot be mounted keeps none of the others from being mounted.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import tomli_w

from pillarbox.store import mailbox
from pillarbox.store.access import Actor
from pillarbox.store.checkpoint import write_atomically
from pillarbox.store.clock import Clock, SystemClock
from pillarbox.store.database import Database
from pillarbox.store.database_limits import Edition, limits_from_settings
from pillarbox.store.errors import (
    AlreadyExists,
    Corrupt,
    NotFound,
    PillarboxError,
    RecoveryNeeded,
    UnsupportedVersion,
)
from pillarbox.store.events import (
    Diagnostics,
    EventId,
    EventLog,
    PythonLoggingSink,
    Reporter,
    make_event,
    tee,
)
from pillarbox.store.ids import guid_text, new_guid, parse_guid
from pillarbox.store.tables import DatabaseKind, MailboxRecord

CONFIG: Final = "server.toml"
CONFIG_FORMAT: Final = "pillarbox-server"
CONFIG_VERSION: Final = 1
FIRST_GROUP: Final = "First Storage Group"
_FIRST_DATABASES: Final = {
    "Mailbox Store": DatabaseKind.MAILBOX_STORE,
    "Public Folder Store": DatabaseKind.PUBLIC_FOLDER_STORE,
}
_TASK: Final = Actor.task("server")


class Server:
    """An open server. Close it, or use it as a context: that dismounts its databases cleanly."""

    def __init__(self, path: Path, config: dict[str, Any], clock: Clock, rng: random.Random | None) -> None:
        self.path = path
        self.edition = Edition(config["edition"])
        self.events = EventLog(path / "events")
        self.not_mounted: dict[str, PillarboxError] = {}
        self.groups: dict[str, dict[str, Database]] = {}
        self._clock = clock
        diagnostics = Diagnostics(config.get("diagnostics", {}))
        self._reporter: Reporter = diagnostics.filter(tee(PythonLoggingSink(), self.events))
        for each in config["databases"]:
            database = self._database(each, rng)
            self.groups.setdefault(each["group"], {})[database.name] = database

    @classmethod
    def create(
        cls,
        path: Path,
        edition: Edition = Edition.STANDARD,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Make a server of one storage group with a mailbox store and a public folder store.

        Raises AlreadyExists when something is at `path`, DiskFull.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise AlreadyExists(f"{path} is there already", hint="name a folder that is not there yet")
        source = rng or random.SystemRandom()
        databases = [
            {"group": FIRST_GROUP, "name": name, "guid": guid_text(new_guid(source)), "kind": int(kind)}
            for name, kind in _FIRST_DATABASES.items()
        ]
        for each in databases:
            _bare(path, each, clock or SystemClock(), rng).create()
        # The configuration comes last: until it is there, there is no server.
        config = {
            "format": CONFIG_FORMAT,
            "version": CONFIG_VERSION,
            "edition": edition.value,
            "databases": databases,
        }
        write_atomically(path / CONFIG, tomli_w.dumps(config).encode())

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_only: bool = False,
        wait_ms: int = 0,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> Server:
        """Open a server and mount what can be mounted; `not_mounted` says why the rest was not.

        `wait_ms` is how long to wait for another process that writes. Raises NotFound, Corrupt,
        UnsupportedVersion.
        """
        server = cls(path, _read_config(path), clock or SystemClock(), rng)
        for database in server.databases():
            server._mount(database, read_only, wait_ms)
        return server

    def _database(self, config: dict[str, Any], rng: random.Random | None) -> Database:
        database = _bare(self.path, config, self._clock, rng)
        database.reporter = self._reporter
        configured = limits_from_settings(config.get("limits", {}), self.edition)
        database.limits = configured.limits
        for rejected in configured.rejected:
            database.report(EventId.SETTING_NOT_USED, **rejected._asdict())
        return database

    def _mount(self, database: Database, read_only: bool, wait_ms: int) -> None:
        try:
            try:
                database.mount(read_only=read_only, wait_ms=wait_ms)
            except RecoveryNeeded:
                database.mount(wait_ms=wait_ms)
                database.dismount()
                database.mount(read_only=True)
        except PillarboxError as error:
            self.not_mounted[database.name] = error
            now_ms = self._clock.now_ms()
            event = make_event(EventId.DATABASE_NOT_MOUNTED, now_ms, database.name, reason=str(error))
            self._reporter.report(event)

    def databases(self) -> Iterator[Database]:
        """Every database of every storage group, mounted or not."""
        for group in self.groups.values():
            yield from group.values()

    def mailbox_stores(self) -> list[Database]:
        """The mounted mailbox stores. Raises what kept the first of them from being mounted when none is."""
        stores = [each for each in self.databases() if each.kind == DatabaseKind.MAILBOX_STORE]
        mounted = [each for each in stores if each.name not in self.not_mounted]
        if stores and not mounted:
            raise self.not_mounted[stores[0].name]
        return mounted

    def find_mailbox(self, name: str) -> tuple[Database, MailboxRecord]:
        """The mailbox of that name and its database. Raises NotFound."""
        missing = NotFound(f"there is no mailbox {name!r}", hint="list those there are: `pillarbox status`")
        for database in self.mailbox_stores():
            with database.read(_TASK) as read:
                try:
                    return database, mailbox.find(read, name)
                except NotFound as error:
                    missing = error
        raise missing

    def create_mailbox(self, actor: Actor, name: str) -> tuple[Database, MailboxRecord]:
        """Make a mailbox in the first mailbox store. Raises AlreadyExists, InvalidName."""
        for database in self.mailbox_stores():
            with database.transaction(actor) as txn:
                record = mailbox.create(txn, name)
            return database, record
        raise NotFound("the server has no mailbox store")

    def close(self) -> None:
        """Dismount every database."""
        for database in self.databases():
            database.dismount("the server was closed")
        self.events.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _bare(path: Path, config: dict[str, Any], clock: Clock, rng: random.Random | None) -> Database:
    place = path / config["group"] / config["name"]
    guid, kind = parse_guid(config["guid"]), DatabaseKind(config["kind"])
    return Database(place, guid, config["name"], kind, clock=clock, rng=rng)


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    try:
        config = tomllib.loads(file.read_text())
    except FileNotFoundError as error:
        raise NotFound(f"{path} is no server", hint="make one with `pillarbox init`") from error
    except (ValueError, OSError) as error:
        raise Corrupt(f"{file}: {error}", file=str(file), hint="mend the file by hand") from error
    if config.get("format") != CONFIG_FORMAT or not isinstance(config.get("databases"), list):
        raise Corrupt(f"{file} is not a server's configuration", file=str(file), hint="mend it by hand")
    if config.get("version") != CONFIG_VERSION:
        raise UnsupportedVersion(f"{file} is of version {config.get('version')}", hint="use a newer program")
    return config
