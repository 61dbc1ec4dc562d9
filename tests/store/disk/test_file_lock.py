"""One process at a time holds a lock file; one that is passing is waited for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.file_lock import PASSING_WAIT_MS, FileLock, is_locked
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
    clock.lock = FileLock(tmp_path / "lock", "it", clock, is_passing=True)
    FileLock(tmp_path / "lock", "it", clock).close()
    assert clock.monotonic_ms() >= 1000


def test_one_who_never_passes_is_not_waited_for_without_end(tmp_path: Path) -> None:
    clock = VirtualClock()
    held = FileLock(tmp_path / "lock", "it", clock, is_passing=True)
    with pytest.raises(WriterBusy):
        FileLock(tmp_path / "lock", "it", clock)
    assert PASSING_WAIT_MS <= clock.monotonic_ms() < PASSING_WAIT_MS + 1000
    held.close()


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
    lock = FileLock(tmp_path / "lock", "it", VirtualClock(), is_passing=True)
    assert is_locked(tmp_path / "lock")
    lock.close()
