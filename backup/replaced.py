"""Databases that restores in place replaced: kept until an administrator discards them.

<server>/replaced/<time>/<storage group>/<database>/    files of a database, as they were
<database>.replaced-<time>                              the same, of a database on a disk of its own
<database>.replaced                                     the same, left there by an interrupted restore
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.store.disk.stream import disk_error, flush_directory
from pillarbox.store.engine.database import Database
from pillarbox.store.server import Server
from pillarbox.store.server_config import REPLACED

REPLACED_SUFFIX: Final = ".replaced"
_REMOVING: Final = ".removing"
_TIME: Final = re.compile(r"\d{8}T\d{6}Z(-\d+)*")


class ReplacedDatabase(NamedTuple):
    """The files of a database that was replaced. `database` is where they were, below the server."""

    path: Path
    database: str
    size_bytes: int


def new_place(server: Path, now_ms: int) -> Path:
    """A directory that is not there yet, for what a restore of now replaces."""
    time = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    place, number = server / REPLACED / time, 1
    while place.exists():
        number += 1
        place = server / REPLACED / f"{time}-{number}"
    return place


def _free_target(place: Path, database: Path) -> Path:
    """Where the files of a database go in a place; in one beside it when it has files of that database."""
    target, number = place / database.parent.name / database.name, 1
    while target.exists():
        number += 1
        target = place.with_name(f"{place.name}-{number}") / database.parent.name / database.name
    return target


def replaced_beside(database: Path) -> Path:
    """Where the files of a database are while those of a restore take their place."""
    return database.with_name(database.name + REPLACED_SUFFIX)


def put_away(database: Path, place: Path) -> Path | None:
    """Move what was replaced from beside a database to a `new_place`; where it is then, None without any.

    Durable when this returns. On another disk it stays beside the database. Raises DiskFull, PillarboxError.
    """
    beside = replaced_beside(database)
    if not beside.exists():
        return None
    target = _free_target(place, database)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            target = beside.with_name(f"{beside.name}-{place.name}")
            beside.rename(target)
        for directory in (*list(target.parents)[:4], beside.parent):
            if directory.is_dir():
                flush_directory(directory)
    except OSError as error:
        raise disk_error(error, str(target)) from error
    return target


def replaced_of(server: Server, database: Database) -> list[ReplacedDatabase]:
    """The files that restores replaced of a database which the server has, and that are kept."""
    name = str(database.path.relative_to(server.path))
    return [each for each in replaced_databases(server) if each.database == name]


def replaced_databases(server: Server) -> list[ReplacedDatabase]:
    """All that restores replaced and that is kept, the oldest first."""
    return sorted(_kept_below(server.path), key=lambda each: each.path) + [
        ReplacedDatabase(path, str(database.path.relative_to(server.path)), _size_of(path))
        for database in server.databases()
        for path in _kept_beside(database)
    ]


def _kept_below(server: Path) -> Iterator[ReplacedDatabase]:
    for place in _places(server):
        for path in place.glob("*/*"):
            yield ReplacedDatabase(path, str(path.relative_to(place)), _size_of(path))


def _places(server: Path) -> list[Path]:
    """The directories of `replaced`, by the times of the restores; half removed ones too."""
    if not (server / REPLACED).is_dir():
        return []
    found = (server / REPLACED).iterdir()
    return sorted(path for path in found if _TIME.fullmatch(path.name.removesuffix(_REMOVING)))


def _kept_beside(database: Database) -> list[Path]:
    if not database.path.exists():
        return []  # what lies beside it is then the only copy
    beside = replaced_beside(database.path)
    pattern = re.compile(re.escape(beside.name) + "(-" + _TIME.pattern + ")?")
    return sorted(path for path in beside.parent.iterdir() if pattern.fullmatch(path.name))


def _size_of(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def discard_replaced(server: Server) -> list[ReplacedDatabase]:
    """Remove all that restores replaced, for good; what it was. After an interruption the same call ends it.

    Raises PillarboxError when the disk fails.
    """
    found = replaced_databases(server)
    live = {database.path.parent for database in server.databases()}
    try:
        for place in _places(server.path):
            if place not in live:
                removing = place.with_name(place.name.removesuffix(_REMOVING) + _REMOVING)
                shutil.rmtree(place.rename(removing))
        for database in server.databases():
            for path in _kept_beside(database):
                shutil.rmtree(path)
        if (server.path / REPLACED).is_dir() and not any((server.path / REPLACED).iterdir()):
            (server.path / REPLACED).rmdir()
    except OSError as error:
        raise disk_error(error, str(server.path / REPLACED)) from error
    return found
