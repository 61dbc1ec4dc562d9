"""The configuration of a server: `server.toml`, its groups, its databases and their settings.

    format = "pillarbox-server"
    version = 1
    guid = "..."
    edition = "standard"

    [backups]                         # what `backup status` goes by (backup_ages.py)
    snapshot_age_max_in_hours = 48

    [[groups]]
    name = "First Storage Group"
    directory = "First Storage Group"

    [[groups.databases]]
    name = "Mailbox Store"
    directory = "Mailbox Store"
    guid = "..."
    kind = "mailbox store"
    mount_at_startup = true
    settings = { database_size_limit_in_gb = 20 }
    dismounted_above_limit = true     # only where the daily size check has dismounted it

People may edit it. Keys that this program does not know, and comments, are kept when it is written again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.checkpoint import write_atomically
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import InvalidName, InvalidSetting, NotFound, UnsupportedVersion
from pillarbox.store.ids import guid_text, parse_guid
from pillarbox.store.names import check_held_name, name_key, safe_name
from pillarbox.store.toml_text import format_toml

CONFIG_FILE: Final = "server.toml"
CONFIG_FORMAT: Final = "pillarbox-server"
CONFIG_VERSION: Final = 1
EVENTS: Final = "events"
RECOVERY: Final = "recovery"
PUBLIC_FOLDER_RECOVERY: Final = "public-folder-recovery"
REPLACED: Final = "replaced"
MAILBOX_NAMES: Final = "mailboxes"
BACKUPS: Final = "backups"
REPLICATION_NODE: Final = "replication-node"
RESERVED_DIRECTORIES: Final = frozenset({EVENTS, RECOVERY})  # beside the directories of the groups
# No new group gets one of these as its directory; of an older program a group may have one.
TAKEN_DIRECTORIES: Final = RESERVED_DIRECTORIES | {
    *(PUBLIC_FOLDER_RECOVERY, REPLACED, MAILBOX_NAMES, BACKUPS, REPLICATION_NODE),
}
KIND_TEXTS: Final = {
    DatabaseKind.MAILBOX_STORE: "mailbox store",
    DatabaseKind.PUBLIC_FOLDER_STORE: "public folder store",
}
_KINDS: Final = {text: kind for kind, text in KIND_TEXTS.items()}
_DATABASE_KEYS: Final = (
    "name",
    "directory",
    "guid",
    "kind",
    "mount_at_startup",
    "dismounted_above_limit",
    "settings",
)
_GROUP_KEYS: Final = ("name", "directory", "databases")
_SERVER_KEYS: Final = ("format", "version", "guid", "edition", "diagnostics", "backups", "groups")
ValueT = TypeVar("ValueT")


@dataclass
class DatabaseEntry:
    """One database. `directory` is its place in its group's directory and stays when it is renamed.

    `dismounted_above_limit` keeps it dismounted since a daily size check, until somebody mounts it.
    """

    name: str
    directory: str
    guid: bytes
    kind: DatabaseKind
    mount_at_startup: bool = True
    dismounted_above_limit: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)


@dataclass
class GroupEntry:
    """One storage group. `directory` is its place in the server's directory and stays when it is renamed."""

    name: str
    directory: str
    databases: list[DatabaseEntry] = field(default_factory=list)
    other: dict[str, Any] = field(default_factory=dict)


@dataclass
class ServerConfig:
    """A whole `server.toml`. `diagnostics` gives the level of each category, `backups` how old they may be;
    `other` is what is not known.

    `guid` tells servers apart, whatever their directories are called; empty in a file older than GUIDs are.
    """

    edition: Edition
    groups: list[GroupEntry] = field(default_factory=list)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)
    guid: bytes = b""
    backups: dict[str, Any] = field(default_factory=dict)

    def group(self, name: str) -> GroupEntry:
        """The storage group of that name, in any case. Raises NotFound."""
        for entry in self.groups:
            if name_key(entry.name) == name_key(name):
                return entry
        names = ", ".join(entry.name for entry in self.groups) or "there is none"
        raise NotFound(f"there is no storage group {name!r}", hint=f"the storage groups: {names}")

    def place_of(self, guid: bytes) -> tuple[GroupEntry, DatabaseEntry]:
        """The database of that GUID, and its group. Raises NotFound."""
        for group in self.groups:
            for entry in group.databases:
                if entry.guid == guid:
                    return group, entry
        raise NotFound(f"database {guid_text(guid)} is no longer one of this server")

    def label_of(self, guid: bytes) -> str:
        """The shortest name by which people find a database: its own, or `Storage Group/Database` where
        another group has a database of that name. Raises NotFound.
        """
        group, entry = self.place_of(guid)
        key = name_key(entry.name)
        same = [each for other in self.groups for each in other.databases if name_key(each.name) == key]
        return entry.name if len(same) == 1 else f"{group.name}/{entry.name}"


def read_config(server: PathLike) -> ServerConfig:
    """The configuration in a server's directory.

    Raises NotFound when there is no server, InvalidSetting naming what is wrong, UnsupportedVersion.
    """
    server = as_path(server, "server")
    return parse_config(read_config_text(server), str(server / CONFIG_FILE))


def read_config_text(server: PathLike) -> str:
    """The text of the `server.toml` in a server's directory. Raises NotFound, InvalidSetting."""
    server = as_path(server, "server")
    path = server / CONFIG_FILE
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "make one with `pillarbox init`, or name its directory"
        if any(server.glob("*/*/properties")):
            hint = f"its databases are there: `pillarbox rebuild {server} [REPO]` makes {CONFIG_FILE} anew"
        raise NotFound(f"there is no server at {server}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise _wrong(str(path), "it is not UTF-8 text") from error
    except OSError as error:
        raise disk_error(error, str(path)) from error


def write_config(server: PathLike, config: ServerConfig, text: str = "") -> str:
    """Put a configuration in the place of the one before, durably: the old or the new one, whole; its text.

    Comments in it stay, or where there is none those of `text`. Raises DiskFull or PillarboxError when the
    disk fails.
    """
    server = as_path(server, "server")
    path = server / CONFIG_FILE
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else text
    except OSError as error:
        raise disk_error(error, str(path)) from error
    written = format_config(config, before)
    write_atomically(path, written.encode())
    return written


def format_config(config: ServerConfig, before: str = "") -> str:
    """A configuration as the text of a `server.toml`, with the comments of the text `before`."""
    return format_toml(
        {
            "format": CONFIG_FORMAT,
            "version": CONFIG_VERSION,
            **({"guid": guid_text(config.guid)} if config.guid else {}),
            "edition": config.edition.value,
            **config.other,
            "diagnostics": config.diagnostics,
            **({"backups": config.backups} if config.backups else {}),
            "groups": [
                {
                    "name": group.name,
                    "directory": group.directory,
                    **group.other,
                    "databases": [_database_table(entry) for entry in group.databases],
                }
                for group in config.groups
            ],
        },
        before,
    )


def _database_table(entry: DatabaseEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "directory": entry.directory,
        "guid": guid_text(entry.guid),
        "kind": KIND_TEXTS[entry.kind],
        "mount_at_startup": entry.mount_at_startup,
        **({"dismounted_above_limit": True} if entry.dismounted_above_limit else {}),
        **entry.other,
        "settings": entry.settings,
    }


def parse_config(text: str, file: str = CONFIG_FILE) -> ServerConfig:
    """The configuration in the text of a `server.toml`. Raises InvalidSetting, UnsupportedVersion."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong(file, str(error)) from error
    _check_version(table, file)
    try:
        edition = Edition(_value(table, "edition", str))
        groups = [_parse_group(each) for each in _tables(table, "groups")]
        _check_apart(groups, RESERVED_DIRECTORIES)
        guids = [entry.guid for group in groups for entry in group.databases]
        if len(set(guids)) < len(guids):
            raise ValueError("two databases have the same guid")
        diagnostics = _value(table, "diagnostics", dict, {})
        backups = _value(table, "backups", dict, {})
        guid = parse_guid(_value(table, "guid", str)) if "guid" in table else b""
    except (ValueError, InvalidName) as error:
        raise _wrong(file, str(error)) from error
    return ServerConfig(edition, groups, diagnostics, _rest(table, _SERVER_KEYS), guid, backups)


def _check_version(table: Mapping[str, Any], file: str) -> None:
    if table.get("format") != CONFIG_FORMAT:
        raise _wrong(file, f'it does not say format = "{CONFIG_FORMAT}"')
    version = table.get("version")
    if version != CONFIG_VERSION or isinstance(version, bool):
        raise UnsupportedVersion(
            f"{file} has version {version!r}",
            hint=f"this program knows version {CONFIG_VERSION}; use a newer one",
        )


def _parse_group(table: Mapping[str, Any]) -> GroupEntry:
    databases = [_parse_database(each) for each in _tables(table, "databases")]
    _check_apart(databases, frozenset())
    name = check_held_name(_value(table, "name", str))
    return GroupEntry(name, _value(table, "directory", str), databases, _rest(table, _GROUP_KEYS))


def _parse_database(table: Mapping[str, Any]) -> DatabaseEntry:
    kind = _value(table, "kind", str)
    if kind not in _KINDS:
        raise ValueError(f"a database is of kind {' or '.join(_KINDS)}, not {kind!r}")
    return DatabaseEntry(
        check_held_name(_value(table, "name", str)),
        _value(table, "directory", str),
        parse_guid(_value(table, "guid", str)),
        _KINDS[kind],
        _value(table, "mount_at_startup", bool, True),
        _value(table, "dismounted_above_limit", bool, False),
        _value(table, "settings", dict, {}),
        _rest(table, _DATABASE_KEYS),
    )


def _check_apart(entries: Iterable[GroupEntry | DatabaseEntry], reserved: frozenset[str]) -> None:
    """No two of the same name or directory, and no directory that lies elsewhere."""
    names: set[bytes] = set()
    directories = {name_key(directory) for directory in reserved}
    for entry in entries:
        if name_key(entry.name) in names:
            raise ValueError(f"there are two called {entry.name!r}")
        names.add(name_key(entry.name))
        if safe_name(entry.directory) != entry.directory or name_key(entry.directory) in directories:
            raise ValueError(f"{entry.directory!r} cannot be the directory of {entry.name!r}")
        directories.add(name_key(entry.directory))


def _value(table: Mapping[str, Any], key: str, kind: type[ValueT], default: ValueT | None = None) -> ValueT:
    value = table.get(key, default)
    if not isinstance(value, kind):
        raise ValueError(f"{key} is missing" if key not in table else f"{key} cannot be {value!r}")
    return value


def _tables(table: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    for each in _value(table, key, list, []):
        if not isinstance(each, dict):
            raise ValueError(f"{key} is a list of tables")
        yield each


def _rest(table: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in known}


def _wrong(file: str, reason: str) -> InvalidSetting:
    return InvalidSetting(f"{file}: {reason}", hint=f"correct {file}, or put back a copy of it")
