"""`replication status --wait`: it waits for the process that serves, and never stands in its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from organisations import make_organisation
from served_organisations import Organisation

import pillarbox as pillarbox_of
from pillarbox.store.clock import SystemClock, VirtualClock
from pillarbox.store.disk.file_lock import is_locked
from pillarbox.store.engine.database import LOCK
from pillarbox.store.errors import NotFound, PeerUnreachable
from pillarbox.tools.commands import replication
from pillarbox.tools.serving.lending import LET_GO

if TYPE_CHECKING:
    from conftest import Pillarbox

SERVED, MOUNTED = "for a process that serves this server", "for its databases to be mounted"
FOR_P1 = "for p1: Forum"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """What a terminal is shown: how many are in sync, of how many, and for whom it waits."""
    shown: list[tuple[int, int, str]] = []

    @contextmanager
    def recorded(*_: Any) -> Iterator[Any]:
        yield lambda done, total, what: shown.append((done, total, what))

    monkeypatch.setattr(replication, "progress", recorded)
    return shown


class Looking(VirtualClock):
    """A clock that stands still but for the rests between looks, in which something is done."""

    def __init__(self, at_rest: Callable[[], None]) -> None:
        super().__init__()
        self._at_rest = at_rest

    def sleep_ms(self, duration_ms: int) -> None:
        self._at_rest()
        super().sleep_ms(duration_ms)


class Happening(SystemClock):
    """The machine's clock; in each of the first rests between looks one thing more has happened."""

    def __init__(self, *happenings: Callable[[], object]) -> None:
        self.left = list(happenings)

    def sleep_ms(self, duration_ms: int) -> None:
        if self.left:
            self.left.pop(0)()
        else:
            super().sleep_ms(duration_ms)


def test_a_server_that_nobody_serves_is_left_alone(
    pillarbox: Pillarbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[int, int, str]],
) -> None:
    b1 = make_organisation(tmp_path, {"b1": "berlin", "p1": "paris"})["b1"]
    with pillarbox_of.Server.open(b1, mount=False) as server:
        locks = [database.path / LOCK for database in server.databases()]
    assert len(locks) == 2 and all(lock.exists() for lock in locks)
    held: list[bool] = []
    clock = Looking(lambda: held.extend(map(is_locked, locks)))
    monkeypatch.setattr(replication, "SystemClock", lambda: clock)
    told = pillarbox.refused(PeerUnreachable.exit_code, "replication", "status", b1, "--wait", 90)
    assert "is not served" in told and "start `pillarbox serve`" in told
    assert len(held) > 2 and not any(held)
    assert clock.monotonic_ms() == 90_000
    assert set(steps) == {(0, 1, SERVED)}
    told = pillarbox.refused(NotFound.exit_code, "replication", "status", tmp_path / "b2", "--wait", 90)
    assert clock.monotonic_ms() == 90_000, f"what is not there is not waited for: {told}"


@pytest.mark.slow
def test_who_waits_goes_on_with_the_process_that_serves(
    pillarbox: Pillarbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[int, int, str]],
) -> None:
    organisation = Organisation(pillarbox, tmp_path, {"b1": "berlin", "p1": "paris"})
    b1 = organisation.paths["b1"]
    organisation.answer("b1", "folder create", "/", "Forum")
    organisation.answer("b1", "replica add", "Forum", "p1")
    borrowing: list[pillarbox_of.Connected] = []

    def serve() -> None:
        organisation.serve("b1")
        with pillarbox_of.connect(b1) as connected:  # the databases are its own from the first moment on
            connected.call("replication.synchronize_hierarchy")

    def borrow() -> None:
        borrowing.append(pillarbox_of.connect(b1))
        borrowing[0].call(LET_GO, databases=[])

    clock = Happening(
        serve,
        borrow,
        lambda: borrowing[0].call("database.take_back"),
        lambda: organisation.end("b1"),
        lambda: organisation.serve("p1"),
        serve,
    )
    monkeypatch.setattr(replication, "SystemClock", lambda: clock)
    try:
        words = ("replication", "status", b1, "Forum", "--wait", 150)
        (found,) = pillarbox.answer(*words)
        assert found["in_sync"] and not clock.left
        waited = [what for _, _, what in steps[:6]]
        assert waited == [SERVED, FOR_P1, MOUNTED, FOR_P1, SERVED, SERVED]
        assert steps[1][:2] == (1, 2)
    finally:
        for each in borrowing:
            each.close()
        organisation.close()
