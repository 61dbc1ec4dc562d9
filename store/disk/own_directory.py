"""Directories for the work of one block, locked while it lasts: others see by that if one is still used.

The system lets go of the lock when a process ends, however that happens: what a killed one has left is
removed by the next who makes a directory of the same kind in the same place.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_ENDING: Final = ".new"


@contextmanager
def own_directory(parent: Path, kind: str) -> Iterator[Path]:
    """An empty directory in `parent` for a `with` block, which nobody else gets. Raises OSError."""
    for left in parent.glob(f"{kind}*{_ENDING}"):
        _remove_left(left)
    directory, descriptor = _make_locked(parent, kind)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)  # last: until then nobody else removes it


def _make_locked(parent: Path, kind: str) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", suffix=_ENDING, dir=parent))
        descriptor = _lock(directory)
        if descriptor is not None:
            return directory, descriptor
        # Another took it for left, in the moment before it was locked, and removes it.


def _remove_left(directory: Path) -> None:
    """Remove a directory unless its block lasts. What cannot be removed is left to the next."""
    try:
        descriptor = _lock(directory)
    except OSError:
        return
    if descriptor is not None:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


def _lock(directory: Path) -> int | None:
    """The descriptor that locks a directory; None when another has locked or removed it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(directory.stat(), os.fstat(descriptor)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
