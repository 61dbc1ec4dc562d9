"""Two processes after a kill: one that only reads replays, and one that writes waits for it and mounts."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.mail import mailboxes

ACTOR = Actor.task("test")


def new_database(path: Path, clock: VirtualClock | None = None) -> Database:
    clock = clock or VirtualClock()
    return Database(path, b"k" * 16, "Mail", DatabaseKind.MAILBOX_STORE, clock=clock, rng=random.Random(1))


def in_child(work: Callable[[], None]) -> int:
    """The process that does the work, and ends with 0 when it did."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def test_a_database_whose_writer_was_killed_is_mounted_while_a_reader_replays(tmp_path: Path) -> None:
    path = tmp_path / "db"
    replays, replays_seen = os.pipe()
    goes_on, go_on = os.pipe()

    def write_and_die() -> None:
        database = new_database(path)
        database.create()
        database.mount()
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, "anna")
        os.kill(os.getpid(), signal.SIGKILL)

    def replay_slowly() -> None:
        os.close(go_on)
        replay = Database._replay

        def wait_and_replay(database: Database, *given: Any) -> Any:
            os.write(replays_seen, b".")
            os.read(goes_on, 1)
            return replay(database, *given)

        Database._replay = wait_and_replay  # type: ignore[method-assign]
        new_database(path).recover()

    class Waiting(VirtualClock):
        """Lets the reader go on once it is waited for."""

        ended: int | None = None

        def sleep_ms(self, duration_ms: int) -> None:
            super().sleep_ms(duration_ms)
            if self.ended is None:
                os.write(go_on, b".")
                self.ended = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(write_and_die), 0)[1]) == -signal.SIGKILL
    reader = in_child(replay_slowly)
    os.read(replays, 1)
    clock = Waiting()
    database = new_database(path, clock)
    try:
        database.mount()
    finally:
        os.close(go_on)
    assert clock.ended == 0 and database.state is MountState.MOUNTED
    with database.read(ACTOR) as reading:
        assert [box.name for box in mailboxes.all_of(reading)] == ["anna"]
    database.dismount()
