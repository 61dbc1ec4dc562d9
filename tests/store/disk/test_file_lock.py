"""One process at a time holds a lock file; one that is passing is waited for."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.file_lock import (
    PASSING,
    PASSING_WAIT_MS,
    REPLACING,
    FileLock,
    is_held_to_write,
    is_locked,
)
from pillarbox.store.errors import WriterBusy


class LettingGo(VirtualClock):
    """A clock that lets go of a lock once somebody has waited for a second."""

    lock: FileLock

    def sleep_ms(self, duration_ms: int) -> None:
        super().sleep_ms(duration_ms)
        if self.monotonic_ms() >= 1000:
            self.lock.close()


def test_a_second_writer_is_refused_at_once(tmp_path: Path) -> None:
    clock = VirtualClock()
    held = FileLock(tmp_path / "lock", "it", clock)
    with pytest.raises(WriterBusy):
        FileLock(tmp_path / "lock", "it", clock)
    assert clock.monotonic_ms() == 0 and is_locked(tmp_path / "lock")
    held.close()
    FileLock(tmp_path / "lock", "it", clock).close()


def test_one_who_is_passing_is_waited_for(tmp_path: Path) -> None:
    clock = LettingGo()
    clock.lock = FileLock(tmp_path / "lock", "it", clock, word=PASSING)
    FileLock(tmp_path / "lock", "it", clock).close()
    assert clock.monotonic_ms() >= 1000


def test_one_who_never_passes_is_not_waited_for_without_end(tmp_path: Path) -> None:
    clock = VirtualClock()
    held = FileLock(tmp_path / "lock", "it", clock, word=PASSING)
    with pytest.raises(WriterBusy):
        FileLock(tmp_path / "lock", "it", clock)
    assert PASSING_WAIT_MS <= clock.monotonic_ms() < PASSING_WAIT_MS + 1000
    held.close()


class LookingAway(VirtualClock):
    """A clock by which a look at a lock ends once somebody waits."""

    looking = -1

    def sleep_ms(self, duration_ms: int) -> None:
        super().sleep_ms(duration_ms)
        if self.looking >= 0:
            os.close(self.looking)
            self.looking = -1


def look(path: Path) -> int:
    """Begin what `is_locked` does, and be stopped within it."""
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def test_who_looks_whether_it_is_locked_keeps_no_writer_from_it(tmp_path: Path) -> None:
    clock = LookingAway()
    (tmp_path / "lock").touch()
    clock.looking = look(tmp_path / "lock")
    held = FileLock(tmp_path / "lock", "it", clock)
    assert is_locked(tmp_path / "lock")
    held.close()


def test_who_is_stopped_while_it_looks_is_not_waited_for_without_end(tmp_path: Path) -> None:
    clock = VirtualClock()
    (tmp_path / "lock").touch()
    looking = look(tmp_path / "lock")
    with pytest.raises(WriterBusy):
        FileLock(tmp_path / "lock", "it", clock)
    assert clock.monotonic_ms() < 5000
    os.close(looking)


def test_what_a_killed_process_left_in_the_file_means_nothing(tmp_path: Path) -> None:
    clock = VirtualClock()
    (tmp_path / "lock").write_bytes(b"passing")
    held = FileLock(tmp_path / "lock", "it", clock)
    with pytest.raises(WriterBusy):
        FileLock(tmp_path / "lock", "it", clock)
    assert clock.monotonic_ms() == 0
    held.close()


def test_one_who_is_passing_needs_no_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "pwrite", full)
    lock = FileLock(tmp_path / "lock", "it", VirtualClock(), word=PASSING)
    assert is_locked(tmp_path / "lock")
    lock.close()


def test_who_replaces_the_files_is_no_writer_of_them(tmp_path: Path) -> None:
    clock = VirtualClock()
    held = FileLock(tmp_path / "lock", "it", clock, word=REPLACING)
    assert is_locked(tmp_path / "lock") and not is_held_to_write(tmp_path / "lock")
    held.close()
    held = FileLock(tmp_path / "lock", "it", clock)
    assert is_held_to_write(tmp_path / "lock")
    held.close()
    assert not is_held_to_write(tmp_path / "lock")


def test_a_process_that_was_forked_leaves_lock_and_word_to_its_parent(tmp_path: Path) -> None:
    held = FileLock(tmp_path / "lock", "it", VirtualClock(), word=PASSING)
    child = os.fork()
    if not child:
        held.forget_inherited()
        os._exit(0)
    os.waitpid(child, 0)
    assert is_locked(tmp_path / "lock") and (tmp_path / "lock").read_bytes() == PASSING
    held.close()
