"""The checkpoint file: where replay starts, the LMDB meta pages of that moment, and the tables' sums.

Written atomically (new file, flush, rename, flush of the directory); docs/format.md, "Checkpoint", has the
bytes. `boot` says during which start of the machine the database was last mounted: after a mere kill the
page cache still holds LMDB's later state, after a new boot only the checkpoint can be believed.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from xxhash import xxh3_128_digest

from pillarbox.store.disk.records import pack, unpack
from pillarbox.store.disk.stream import Position, disk_error, flush_directory, preallocate
from pillarbox.store.disk.tables import LAYOUT_VERSION, refuse_unknown_layout
from pillarbox.store.errors import Corrupt, UnsupportedVersion

CHECKPOINT_MAGIC: Final = b"PBCHECKP"
CHECKPOINT_VERSION: Final = 4
_VERSION_WITHOUT_LAYOUT: Final = 1
_VERSION_WITH_OTHER_SUMS: Final = 3  # of stretches of the file, free pages too
CHECKPOINT_FILE: Final = "checkpoint"
_HEADER: Final = struct.Struct("<8sHxxI16s")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Checkpoint(NamedTuple):
    """A state that is wholly on disk.

    `tables_sums` are those of the pages of its state (`page_sums`): nobody changes these before the next
    checkpoint is there. Empty, they prove nothing. Who changes anything in the property file under a clean
    checkpoint replaces it first.
    """

    database: bytes
    clean: bool
    boot: bytes
    sequence: int
    position: Position
    meta_pages: bytes
    tables_sums: bytes = b""


def boot_identity() -> bytes:
    """16 bytes that change with every start of the machine; random ones where the system does not tell."""
    try:
        return uuid.UUID(_BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return uuid.uuid4().bytes


def write_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Put a checkpoint in the place of the one before, which stays when this raises a disk error.

    From now on the database may hold what only this program's table layout knows: the checkpoint says so.
    """
    body = pack(
        (
            checkpoint.database,
            checkpoint.clean,
            checkpoint.boot,
            checkpoint.sequence,
            tuple(checkpoint.position),
            checkpoint.meta_pages,
            checkpoint.tables_sums,
            LAYOUT_VERSION,
        )
    )
    data = _header_of(CHECKPOINT_VERSION, body) + body
    write_atomically(directory / CHECKPOINT_FILE, data)
    # On a full disk the next one still has its room: it lets the tables use again what only this one needs.
    with suppress(OSError), _new_of(directory / CHECKPOINT_FILE).open("wb") as file:
        preallocate(file.fileno(), 0, len(data))


def doubt_tables(directory: Path) -> None:
    """Have the next mount put back the checkpoint's meta pages, as after a new start of the machine.

    Raises as `read_checkpoint` and `write_checkpoint`.
    """
    write_checkpoint(directory, read_checkpoint(directory)._replace(clean=False, boot=uuid.uuid4().bytes))


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a small file by `data`, durably: after a crash the old or the new one is there, whole."""
    new = _new_of(path)
    try:
        # One that is there already has its room on the disk.
        with new.open("r+b" if new.exists() else "wb") as file:
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        flush_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise disk_error(error, str(path)) from error


def _new_of(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def read_checkpoint(directory: Path) -> Checkpoint:
    """The checkpoint of a database.

    Raises Corrupt; UnsupportedVersion when a newer program has had the database; or a disk error.
    """
    path = directory / CHECKPOINT_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise Corrupt(f"{path} is missing", file=str(path)) from error
    except OSError as error:
        raise disk_error(error, str(path)) from error
    if len(data) < _HEADER.size or data[:8] != CHECKPOINT_MAGIC:
        raise Corrupt(f"{path}: not a checkpoint", file=str(path), offset=0)
    version = _HEADER.unpack_from(data)[1]
    if not _VERSION_WITHOUT_LAYOUT <= version <= CHECKPOINT_VERSION:
        raise UnsupportedVersion(
            f"{path}: checkpoint format {version}",
            hint=f"this program knows {_VERSION_WITHOUT_LAYOUT} to {CHECKPOINT_VERSION}; use a newer one",
        )
    body = data[_HEADER.size :]
    if data[: _HEADER.size] != _header_of(version, body):
        raise Corrupt(f"{path}: checksum does not hold", file=str(path), offset=0)
    try:
        fields = unpack(body)
        if version != _VERSION_WITHOUT_LAYOUT:
            *fields, layout = fields
            refuse_unknown_layout(layout, str(path.parent))
        if version == _VERSION_WITH_OTHER_SUMS:
            *fields, _ = fields
        if version != CHECKPOINT_VERSION:
            fields = (*fields, b"")
        return _checkpoint_in(fields)
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{path}: {error}", file=str(path), offset=_HEADER.size) from error


def refuse_newer_program(directory: Path) -> None:
    """Raise UnsupportedVersion when a newer program has had a database; call it before anything is touched.

    Damage is for later, when nobody else can be writing. Raises a disk error.
    """
    with suppress(Corrupt):
        read_checkpoint(directory)


def _header_of(version: int, body: bytes) -> bytes:
    return _HEADER.pack(CHECKPOINT_MAGIC, version, len(body), xxh3_128_digest(body))


def _checkpoint_in(fields: Sequence[Any]) -> Checkpoint:
    database, clean, boot, sequence, position, meta_pages, tables_sums = fields
    segment, offset = position
    if (
        not all(isinstance(each, bytes) for each in (database, boot, meta_pages, tables_sums))
        or not isinstance(clean, bool)
        or not all(isinstance(each, int) for each in (sequence, segment, offset))
        or not (sequence >= 0 and segment >= 1 and offset >= 0)
    ):
        raise ValueError("a field is not what a checkpoint has there")
    return Checkpoint(database, clean, boot, sequence, Position(segment, offset), meta_pages, tables_sums)
