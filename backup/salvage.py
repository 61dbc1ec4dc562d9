"""A restore that goes on over damage: all that is whole of a database comes back, and the rest is named."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from pillarbox.backup.database_snapshot import (
    SEGMENT_CHUNK_BYTES,
    Progress,
    StoredDatabase,
    StoredSegment,
    read_stored_segment,
)
from pillarbox.backup.repository.repository import Repository
from pillarbox.backup.restore import (
    RestorableDatabase,
    close_cleanly,
    read_restorable,
    restore_files,
    write_image,
)
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.clock import Clock
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.stream import disk_error, flush_directory, segment_name
from pillarbox.store.engine.database import PROPERTIES, STREAM, Database
from pillarbox.store.errors import Corrupt, InvalidContent, NotFound
from pillarbox.store.upkeep.repair import repair_database
from pillarbox.store.upkeep.repair_rebuild import LostMessage

_DAMAGE: Final = (Corrupt, InvalidContent, NotFound)


def salvage_files(
    repository: Repository,
    database: RestorableDatabase,
    directory: PathLike,
    *,
    clock: Clock,
    thorough: bool,
    progress: Progress | None = None,
) -> tuple[LostMessage, ...]:
    """Write all that is whole of one database into `directory`; the messages that it is without.

    With nothing damaged this is `restore_files`. Damaged stretches of the stream become zeros, damaged tables
    are made anew from the stream, and a repair then drops what is not whole, so that the database mounts and
    its check is clean. Raises Corrupt, NotFound, InvalidContent when not even the list of its segments can be
    read, DiskFull.
    """
    directory = as_path(directory, "directory")
    try:
        return restore_files(
            repository, database, directory, clock=clock, thorough=thorough, progress=progress
        )
    except _DAMAGE:
        pass  # below, without what is damaged
    stored = read_restorable(repository, database)
    try:
        for place in (directory / PROPERTIES, directory / STREAM):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        for number, tree_id in stored.segments:
            with suppress(*_DAMAGE):  # a segment whose tree is damaged is lost whole
                segment = read_stored_segment(repository, number, tree_id)
                _write_whole_chunks(repository, segment, directory / STREAM / segment_name(number))
        flush_directory(directory / STREAM)
    except OSError as error:
        raise disk_error(error, str(directory)) from error
    _write_tables(repository, stored, directory)
    restored = Database(directory, database.guid, database.name, database.kind, clock=clock)
    return repair_database(restored).lost


def _write_whole_chunks(repository: Repository, segment: StoredSegment, path: Path) -> None:
    with path.open("wb") as file:
        for index, blob_id in enumerate(segment.chunks):
            with suppress(*_DAMAGE):
                data = repository.read(blob_id)
                file.seek(index * SEGMENT_CHUNK_BYTES)
                file.write(data)
        file.truncate(segment.size_bytes)
        file.flush()
        os.fsync(file.fileno())


def _write_tables(repository: Repository, stored: StoredDatabase, directory: Path) -> None:
    """The tables, when they are whole; else none, so that the repair makes them from the stream."""
    try:
        write_image(repository, stored, directory / PROPERTIES / DATA_FILE)
        close_cleanly(repository, stored, directory)
    except _DAMAGE:
        shutil.rmtree(directory / PROPERTIES)
        (directory / PROPERTIES).mkdir()
