"""The configuration of a recovery group: `recovery.toml`, its source and its databases.

A server has two: the recovery storage group for mailbox stores, and the public folder recovery group.

    format = "pillarbox-recovery"
    version = 1
    recovery_sg_override = false

    [source]
    server = "server"
    group = "First Storage Group"
    server_guid = "..."

    [[databases]]
    name = "Mailbox Store"
    guid = "..."
    kind = "mailbox store"
    held_as = "repository"
    is_mounted = true
    snapshot = "..."
    repository = "/backup/mail"
    repository_id = "..."

`held_as` is `repository` where content is fetched from there, `files` where all was restored. All databases
are of the one `kind` that the group takes.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from pillarbox.backup.restore import RECOVERY_TITLES, RecoverySource
from pillarbox.store.disk.checkpoint import write_atomically
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.errors import InvalidSetting, NotFound, UnsupportedVersion
from pillarbox.store.ids import guid_text, parse_guid
from pillarbox.store.server_config import KIND_TEXTS
from pillarbox.store.toml_text import format_toml

RECOVERY_FILE: Final = "recovery.toml"
RECOVERY_FORMAT: Final = "pillarbox-recovery"
RECOVERY_VERSION: Final = 1
ValueT = TypeVar("ValueT")


class HeldAs(StrEnum):
    """The way in which a database is in a recovery group."""

    FILES = "files"
    REPOSITORY = "repository"


@dataclass(frozen=True)
class RecoveryEntry:
    """A database of a recovery group, of the kind that the group takes, and where it came from.

    `repository` is where the repository lay when it was used, as whoever used it wrote it.
    """

    guid: bytes
    name: str
    held_as: HeldAs
    is_mounted: bool
    snapshot: str
    repository: str
    repository_id: str


@dataclass
class RecoveryConfig:
    """A whole `recovery.toml`. `source` is the storage group its databases come from, None without any."""

    kind: DatabaseKind = DatabaseKind.MAILBOX_STORE
    source: RecoverySource | None = None
    databases: list[RecoveryEntry] = field(default_factory=list)
    override: bool = False


def read_recovery(directory: Path, kind: DatabaseKind = DatabaseKind.MAILBOX_STORE) -> RecoveryConfig:
    """The configuration in the directory of the recovery group that takes databases of a kind.

    Raises NotFound when there is no group, InvalidSetting naming what is wrong, UnsupportedVersion.
    """
    path = directory / RECOVERY_FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        if table.get("format") == RECOVERY_FORMAT and table.get("version") != RECOVERY_VERSION:
            raise UnsupportedVersion(
                f"{path} has version {table.get('version')!r}",
                hint=f"this program knows version {RECOVERY_VERSION}; use a newer one",
            )
        return _parse(table, kind)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"the server has no {RECOVERY_TITLES[kind]}",
            hint="make one: `pillarbox recovery mount SERVER REPO SNAPSHOT`",
        ) from error
    except OSError as error:
        raise disk_error(error, str(path)) from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise InvalidSetting(
            f"{path}: {error}",
            hint=f"remove {path}: the databases beside it are copies of what is in a backup",
        ) from error


def write_recovery(directory: Path, config: RecoveryConfig) -> None:
    """Put a configuration in the place of the one before, durably. Raises DiskFull, PillarboxError."""
    table: dict[str, Any] = {
        "format": RECOVERY_FORMAT,
        "version": RECOVERY_VERSION,
        "recovery_sg_override": config.override,
    }
    if config.source is not None:
        table["source"] = {"server": config.source.server, "group": config.source.group}
        if config.source.server_guid:
            table["source"]["server_guid"] = guid_text(config.source.server_guid)
    table["databases"] = [
        {
            "name": entry.name,
            "guid": guid_text(entry.guid),
            "kind": KIND_TEXTS[config.kind],
            "held_as": str(entry.held_as),
            "is_mounted": entry.is_mounted,
            "snapshot": entry.snapshot,
            "repository": entry.repository,
            "repository_id": entry.repository_id,
        }
        for entry in config.databases
    ]
    write_atomically(directory / RECOVERY_FILE, format_toml(table).encode())


def _parse(table: dict[str, Any], kind: DatabaseKind) -> RecoveryConfig:
    if table.get("format") != RECOVERY_FORMAT:
        raise ValueError(f'it does not say format = "{RECOVERY_FORMAT}"')
    databases = [_parse_entry(each, kind) for each in _value(table, "databases", list, [])]
    source = None
    if databases:
        held = _value(table, "source", dict)
        guid = parse_guid(_value(held, "server_guid", str)) if "server_guid" in held else b""
        source = RecoverySource(_value(held, "server", str), _value(held, "group", str), guid)
    # There it is a number, 0 or 1; `true` and `false` are what this program writes.
    return RecoveryConfig(kind, source, databases, bool(_value(table, "recovery_sg_override", int, 0)))


def _parse_entry(table: Any, kind: DatabaseKind) -> RecoveryEntry:
    if not isinstance(table, dict):
        raise ValueError("databases is a list of tables")
    if table.get("kind") != KIND_TEXTS[kind]:
        raise ValueError(f"a database in it is always a {KIND_TEXTS[kind]}")
    return RecoveryEntry(
        parse_guid(_value(table, "guid", str)),
        _value(table, "name", str),
        HeldAs(_value(table, "held_as", str)),
        _value(table, "is_mounted", bool),
        _value(table, "snapshot", str),
        _value(table, "repository", str),
        _value(table, "repository_id", str),
    )


def _value(table: dict[str, Any], key: str, kind: type[ValueT], default: ValueT | None = None) -> ValueT:
    value = table.get(key, default)
    if not isinstance(value, kind):
        raise ValueError(f"{key} is missing" if key not in table else f"{key} cannot be {value!r}")
    return value
