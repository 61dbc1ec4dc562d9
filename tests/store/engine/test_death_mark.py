"""A process that died of a fault is told from one that was killed: its database is verified before use."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk import death_mark
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Corrupt
from pillarbox.store.events import EventId
from pillarbox.store.mail import mailboxes

GUID = b"x" * 16
ACTOR = Actor.task("test")
DIE = """
import ctypes, os, signal, sys
from pathlib import Path
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
for path in sys.argv[2:]:
    Database(Path(path), b"x" * 16, "DB", DatabaseKind.MAILBOX_STORE).mount()
os.kill(os.getpid(), int(sys.argv[1]))
"""


class Events:
    def __init__(self) -> None:
        self.ids: list[int] = []

    def report(self, event: Any) -> None:
        self.ids.append(event.event_id)


def database(path: Path, events: Events | None = None) -> Database:
    return Database(path, GUID, "DB", DatabaseKind.MAILBOX_STORE, reporter=events)


def die(how: int, *paths: Path) -> None:
    command = [sys.executable, "-P", "-c", DIE, str(int(how)), *map(str, paths)]
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == -how


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "one", tmp_path / "two"]
    for path in made:
        new = database(path)
        new.create()
        new.mount()
        with new.transaction(ACTOR) as txn:
            for number in range(50):
                mailboxes.create(txn, f"user {number}")
        new.dismount()
    return made


@pytest.mark.parametrize("how", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
def test_after_a_death_by_a_fault_every_mounted_database_is_verified_once(
    paths: list[Path], how: int
) -> None:
    die(how, *paths)
    for path in paths:
        for verified in (True, False):
            events = Events()
            again = database(path, events)
            again.mount()
            again.dismount()
            assert (EventId.TABLES_VERIFIED in events.ids) == verified


def test_a_kill_is_no_such_death(paths: list[Path]) -> None:
    die(signal.SIGKILL, *paths)
    events = Events()
    again = database(paths[0], events)
    again.mount()
    again.dismount()
    assert EventId.TABLES_VERIFIED not in events.ids


def test_a_database_with_a_bent_page_stays_dismounted_after_such_a_death(paths: list[Path]) -> None:
    die(signal.SIGABRT, *paths)
    data = paths[0] / "properties" / "data.mdb"
    pages = bytearray(data.read_bytes())
    for page in range(2 * 4096, len(pages), 4096):
        pages[page + 10] ^= 0x40  # the flags of every page
    data.write_bytes(pages)
    for _ in range(2):
        with pytest.raises(Corrupt) as raised:
            database(paths[0]).mount()
        assert "repair" in raised.value.hint
    other = database(paths[1])
    other.mount()
    other.dismount()


def test_a_mark_that_its_process_removes_meanwhile_tells_of_no_fault(tmp_path: Path) -> None:
    # Found in the directory, and not there when it is looked at.
    (tmp_path / "died-1").symlink_to(tmp_path / "gone")
    assert not death_mark.tells_of_fault(tmp_path)
