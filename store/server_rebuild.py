"""A server.toml made anew from the databases that lie in a server's directory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.checkpoint import read_checkpoint
from pillarbox.store.disk.env import Env
from pillarbox.store.disk.redo import read_redo
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, FrameKind, Position, Stream
from pillarbox.store.disk.tables import IDENTITY_KEY, DatabaseKind, IdentityRecord, Table, decode_record
from pillarbox.store.engine.database import PROPERTIES, STREAM
from pillarbox.store.errors import AlreadyExists, Conflict, NotFound, PillarboxError
from pillarbox.store.names import check_name, name_key
from pillarbox.store.server_config import (
    CONFIG_FILE,
    TAKEN_DIRECTORIES,
    DatabaseEntry,
    GroupEntry,
    ServerConfig,
    write_config,
)
from pillarbox.store.storage_group import smallest_edition

# Directories beside a database that are made of one, or become one.
_NO_DATABASES: Final = (".new", ".restoring", ".removing", ".replaced")


FindConfig = Callable[[Collection[bytes]], tuple[ServerConfig, str] | None]
"""The configuration, and its text, that a backup has of the server with databases of these GUIDs."""


class Rebuilt(NamedTuple):
    """A configuration made anew, and the directories whose identity could not be read.

    `is_known` is set when it is that of a backup.
    """

    config: ServerConfig
    unknown: tuple[Path, ...]
    is_known: bool


def rebuild_config(server: PathLike, find_config: FindConfig = lambda _: None) -> Rebuilt:
    """Write a server.toml for the databases below a directory that has none; durable when this returns.

    It is the one that `find_config` finds in a backup, with databases that came since. Else groups and
    databases are called as their directories are, settings have their defaults, and the edition is the
    smallest that allows so many. Raises AlreadyExists when there is a server.toml, NotFound when there is
    no database, Conflict when two directories hold the same one.
    """
    server = as_path(server, "server")
    if (server / CONFIG_FILE).exists():
        raise AlreadyExists(f"{server / CONFIG_FILE} is there", hint="correct it, or move it away first")
    groups: dict[str, GroupEntry] = {}
    seen: dict[bytes, Path] = {}
    unknown = []
    for path in _database_directories(server):
        identity = _identity_of(path)
        if identity is None:
            unknown.append(path)
            continue
        if identity.guid in seen:
            raise Conflict(
                f"{path} and {seen[identity.guid]} hold the same database",
                hint="move the one away that is only a copy",
            )
        seen[identity.guid] = path
        group = groups.setdefault(path.parent.name, GroupEntry(path.parent.name, path.parent.name))
        group.databases.append(
            DatabaseEntry(path.name, path.name, identity.guid, DatabaseKind(identity.kind))
        )
    if not groups:
        raise NotFound(f"there is no database below {server}", hint="name the directory of a server")
    made = list(groups.values())
    known = find_config(seen.keys())
    if known is None:
        edition = smallest_edition([[entry.kind for entry in group.databases] for group in made])
        config = ServerConfig(edition, made)
        write_config(server, config)
    else:
        config, text = known
        _add_unknown(config, made)
        write_config(server, config, text)
    return Rebuilt(config, tuple(unknown), known is not None)


def _add_unknown(config: ServerConfig, found: list[GroupEntry]) -> None:
    """Add the databases that are there and that a configuration does not have, where their files lie.

    What it has stays, also without files: those can be restored.
    """
    known = {entry.guid for group in config.groups for entry in group.databases}
    by_directory = {name_key(group.directory): group for group in config.groups}
    for group in found:
        new = [entry for entry in group.databases if entry.guid not in known]
        if new and name_key(group.directory) in by_directory:
            by_directory[name_key(group.directory)].databases += new
        elif new:
            config.groups.append(replace(group, databases=new))


def _database_directories(server: Path) -> Iterator[Path]:
    for path in sorted(server.glob(f"*/*/{STREAM}")):
        database = path.parent
        with suppress(PillarboxError):
            check_name(database.parent.name)
            check_name(database.name)
            is_other = database.suffix in _NO_DATABASES or ".replaced-" in database.name
            if database.parent.name not in TAKEN_DIRECTORIES and not is_other:
                yield database


def _identity_of(path: Path) -> IdentityRecord | None:
    """The identity of a database, from its tables or, where they are damaged, the head of its stream."""
    with suppress(PillarboxError):
        env = Env(path / PROPERTIES, read_only=True)
        try:
            with env.view() as view:
                found = decode_record(Table.META, IDENTITY_KEY, view.get(Table.META, IDENTITY_KEY) or b"")
        finally:
            env.close()
        if isinstance(found, IdentityRecord):
            return found
    with suppress(PillarboxError):
        return _identity_in(Stream(path / STREAM, read_checkpoint(path).database))
    return None


def _identity_in(stream: Stream) -> IdentityRecord | None:
    for number in stream.segments()[:1]:
        for offset, frame in stream.frames(number, SEGMENT_HEADER_BYTES):
            if frame.kind == FrameKind.REDO:
                redo = read_redo(frame, Position(number, offset + frame.length), str(stream.path(number)))
                for table, key, value in redo.rows:
                    if table == Table.META and key == IDENTITY_KEY and value is not None:
                        found = decode_record(Table.META, key, value)
                        return found if isinstance(found, IdentityRecord) else None
    return None
