"""Files that tell, at the next mount, that a process died of a fault while it had the database mounted.

LMDB ends the process that meets a bent page, and Python's `faulthandler` writes to its file when a process
dies of SIGABRT, SIGSEGV or SIGBUS, and not when it is killed. So each process that mounts a database has a
file there, empty, which a dismount removes; one that is left and is not empty tells of such a death. A
program that has enabled `faulthandler` for itself keeps it, and leaves no mark.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "died-"

_lock = threading.Lock()
_marked: set[Path] = set()  # of this process
_file = -1  # that faulthandler writes to: one file with a name in each database


def tells_of_fault(directory: Path) -> bool:
    """True when a process has died of a fault since the marks of a database were last removed."""
    return any(_tells(mark) for mark in directory.glob(_PREFIX + "*") if mark not in _marked)


def _tells(mark: Path) -> bool:
    try:
        return mark.stat().st_size > 0
    except FileNotFoundError:  # its process has just dismounted the database
        return False


def remove_old_marks(directory: Path) -> None:
    """Forget how earlier processes ended. Raises OSError."""
    for mark in directory.glob(_PREFIX + "*"):
        if mark not in _marked:
            mark.unlink(missing_ok=True)


def set_mark(directory: Path) -> None:
    """Have a death of this process told in a database. Where nothing can be written there nothing is told."""
    mark = directory / f"{_PREFIX}{os.getpid()}"
    with _lock, suppress(OSError):
        if faulthandler.is_enabled() and _file < 0:
            return
        mark.unlink(missing_ok=True)
        _marked.add(mark)
        if not _is_linked(mark):
            _begin_file(mark)


def _is_linked(mark: Path) -> bool:
    for other in _marked - {mark}:
        with suppress(OSError):  # removed by hand, or on another file system
            os.link(other, mark)
            return True
    return False


def _begin_file(mark: Path) -> None:
    global _file
    before, _file = _file, os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    faulthandler.enable(_file, all_threads=False)
    if before >= 0:
        os.close(before)


def remove_mark(directory: Path) -> None:
    """The database is dismounted: a death of this process says nothing of it any more."""
    mark = directory / f"{_PREFIX}{os.getpid()}"
    with _lock, suppress(OSError):
        _marked.discard(mark)
        mark.unlink(missing_ok=True)
