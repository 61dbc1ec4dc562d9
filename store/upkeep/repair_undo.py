"""Undo a repair that was interrupted, or tidy up behind one that is complete (docs/format.md, "Repair").

A segment is removed only by a durable record of the first number that the repair made: it is written when
nothing can mount any more, and removed before anything can mount again. So no acknowledged segment is ever
among those that it names, wherever the repair, or the undoing of it, is interrupted.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from xxhash import xxh3_128_digest

from pillarbox.store.disk.checkpoint import CHECKPOINT_FILE, write_atomically
from pillarbox.store.disk.stream import Stream, flush_directory
from pillarbox.store.engine.database import PROPERTIES

WORK: Final = "repair.new"
FIRST_NEW: Final = "first-new-segment"
_BEFORE: Final = ".before-repair"
_DIGEST_BYTES: Final = 16


def before(path: Path) -> Path:
    """The place that a file or directory is moved to until the repair is complete."""
    return path.with_name(path.name + _BEFORE)


def keep_first_new(path: Path, segment: int) -> None:
    """Record durably that the segments of a database from this number on are the repair's.

    Raises a disk error.
    """
    number = str(segment).encode()
    write_atomically(path / WORK / FIRST_NEW, xxh3_128_digest(number) + number)


def undo_or_tidy(path: Path, stream: Stream) -> None:
    """Have all as it was before the repair, or as the repair left it when it is complete.

    It may be interrupted anywhere and called again. Raises OSError: then the next call goes on with it.
    """
    _remove_new_segments(path, stream)
    _forget_first_new(path)
    _put_back(path)
    shutil.rmtree(path / WORK, ignore_errors=True)
    shutil.rmtree(before(path / PROPERTIES), ignore_errors=True)
    before(path / CHECKPOINT_FILE).unlink(missing_ok=True)


def _remove_new_segments(path: Path, stream: Stream) -> None:
    first_new = _first_new(path)
    # The new checkpoint left the work directory as the last step: from then on the segments are acknowledged.
    is_complete = (path / CHECKPOINT_FILE).exists() or not (path / WORK / CHECKPOINT_FILE).exists()
    if first_new is None or is_complete:
        return
    for segment in stream.segments():
        if segment >= first_new:
            stream.path(segment).unlink()
    flush_directory(stream.directory)


def _first_new(path: Path) -> int | None:
    """The first number of the repair's segments; None when it wrote none, or when nothing proves it."""
    try:
        data = (path / WORK / FIRST_NEW).read_bytes()
    except FileNotFoundError:
        return None
    digest, number = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return int(number) if digest == xxh3_128_digest(number) else None


def _forget_first_new(path: Path) -> None:
    record = path / WORK / FIRST_NEW
    if record.exists():
        record.unlink()
        flush_directory(record.parent)  # before a checkpoint lets others write segments of these numbers


def _put_back(path: Path) -> None:
    checkpoint, properties = path / CHECKPOINT_FILE, path / PROPERTIES
    if checkpoint.exists():
        return
    if before(properties).exists():
        shutil.rmtree(properties, ignore_errors=True)
        before(properties).rename(properties)
        flush_directory(path)  # a checkpoint in place must not meet the new tables
    if before(checkpoint).exists():
        before(checkpoint).rename(checkpoint)
        flush_directory(path)
