"""Processes that use a server and look after it until they are killed, for tests of what that leaves.

One that has imported all begins the others by fork, so that a round costs no start of Python. Each line of
its input asks for one: what it does, the server, a seed, and after how many seconds it is killed: of work, or
less than 0 from its beginning.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.tables_compaction import Compaction
from pillarbox.store.errors import AlreadyExists, Corrupt, NotFound, Refused
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.server import Server
from pillarbox.store.upkeep.maintenance import compact, run_maintenance
from pillarbox.store.upkeep.move_mailbox import _Move
from pillarbox.store.upkeep.repair import _Repair, repair_database

ACTOR: Final = Actor.task("test")
NAMES: Final = ("anna", "bert", "carl")
DOOMED: Final = "doomed "
TUNING: Final = Tuning(
    segment_bytes=64 << 10, checkpoint_stream_bytes=96 << 10, checkpoint_pages=64, tables_bytes=64 << 10
)
_BEGUN: Final = signal.SIGUSR1
# A step may never come: tables that are mostly tombstones are not compacted, however long one waits.
_STEP_COMES_S: Final = 10
# A move, or a purge, of others may have taken the mailbox meanwhile.
_MEANWHILE: Final = (AlreadyExists, NotFound, Refused)


def raw_of(seed: int) -> bytes:
    """The message of a seed."""
    rng = random.Random(seed)
    return b"Subject: %d\r\n\r\n" % seed + rng.randbytes(rng.choice((20, 300, 1500)))


def stores(server: Server) -> list[Database]:
    """The mailbox stores of a server that was opened without mounting, tuned to cross every boundary."""
    found = [each for each in server.databases() if each.kind == DatabaseKind.MAILBOX_STORE]
    for database in found:
        database.tuning = TUNING
    return found


def mount_or_repair(database: Database) -> bool:
    """Mount a database; True where a repair was killed while it exchanged files, and was run again for it."""
    try:
        database.mount()
    except Corrupt:
        assert not (database.path / "checkpoint").exists()
        report = repair_database(database)
        assert (report.lost, report.dropped, report.recovered) == ((), (), 0)
        database.mount()
        return True
    return False


def say(*words: object) -> None:
    """Write a line as one, whichever thread or process writes others."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _deliver(server: Server, rng: random.Random, seed: int) -> None:
    name = rng.choice(NAMES)
    database, _ = server.mailboxes.find(name)
    prepared = messages.prepare(database.files, raw_of(seed))
    with database.transaction(ACTOR) as txn:
        messages.deliver(txn, name, prepared)
    say("delivered", name, seed)


def _move(server: Server, rng: random.Random, seed: int) -> None:
    server.mailboxes.move(ACTOR, rng.choice(NAMES), rng.choice(stores(server)).label)
    say("moved")


def _maintain(server: Server, rng: random.Random, seed: int) -> None:
    database = rng.choice(stores(server))
    if rng.random() < 0.5:
        run_maintenance(database, ACTOR)
    else:
        compact(database, ACTOR, live_ratio_max=0.9)
    say("maintained")


def _purge(server: Server, rng: random.Random, seed: int) -> None:
    database, box = server.mailboxes.create(ACTOR, f"{DOOMED}{seed}", rng.choice(stores(server)).label)
    for number in range(10):
        prepared = messages.prepare(database.files, b"Subject: doomed\r\n\r\n%d %d" % (seed, number))
        with database.transaction(ACTOR) as txn:
            messages.deliver(txn, box.guid, prepared)
    if rng.random() < 0.3:
        (elsewhere,) = (each for each in stores(server) if each is not database)
        server.mailboxes.move(ACTOR, box.name, elsewhere.label)
        database = elsewhere
    with database.transaction(ACTOR) as txn:
        mailboxes.purge(txn, box.guid)
    say("purged")


def _for_ever(task: Callable[[Server, random.Random, int], None], server: Server, first: int) -> None:
    rng = random.Random(first)
    seed = first
    while True:
        try:
            task(server, rng, seed)
        except _MEANWHILE:
            pass
        except BaseException as error:
            say("wrong", task.__name__, repr(error))
            return
        seed += 1


def _use(server: Server, first: int) -> None:
    for database in stores(server):
        mount_or_repair(database)
    for number, task in enumerate((_deliver, _deliver, _move, _maintain, _purge)):
        words = (task, server, first + number * 10_000)
        threading.Thread(target=_for_ever, args=words, daemon=True).start()
    os.kill(os.getppid(), _BEGUN)
    signal.pause()


def _move_on(server: Server, first: int) -> None:
    """Move mailboxes with a little mail in each."""
    for database in stores(server):
        mount_or_repair(database)
    rng = random.Random(first)
    seed = first
    while True:
        _deliver(server, rng, seed)
        name = rng.choice(NAMES)
        database, _ = server.mailboxes.find(name)
        (elsewhere,) = (each for each in stores(server) if each is not database)
        server.mailboxes.move(ACTOR, name, elsewhere.label)
        say("moved")
        seed += 1


def _mount(server: Server, first: int) -> None:
    """Leave the tables mostly free, so that the next mount compacts them."""
    seed = first
    while True:
        for database in stores(server):
            mount_or_repair(database)
        say("mounted")
        for _ in range(3):
            _purge(server, random.Random(seed), seed)
            seed += 1
        for database in stores(server):
            database.finish_removals()
            database.dismount()


def _repair(server: Server, first: int) -> None:
    while True:
        for database in random.Random(first).sample(stores(server), 2):
            report = repair_database(database)
            if report.lost or report.dropped or report.recovered:
                say("wrong", "repair", report)
            say("repaired")


def _begins_as(step: str, of: type, work: Callable[[Server, int], None]) -> Callable[[Server, int], None]:
    """Do `work`, and be killed so long after a step of it begins: one that takes a moment."""

    def aimed(server: Server, first: int) -> None:
        taken = getattr(of, step)

        def told(*words: Any) -> Any:
            os.kill(os.getppid(), _BEGUN)
            return taken(*words)

        setattr(of, step, told)
        work(server, first)

    return aimed


WORK: Final = {
    "use": _use,
    "mount": _mount,
    "repair": _repair,
    "compaction": _begins_as("_exchange", Compaction, _mount),
    "exchange": _begins_as("_replace", _Repair, _repair),
    "end of a move": _begins_as("_end", _Move, _move_on),
}
AIMED: Final = ("compaction", "exchange", "end of a move")


def _run(what: str, path: str, first: int) -> None:
    try:
        WORK[what](Server.open(Path(path), mount=False, wait_ms=20_000), first)
    except BaseException as error:
        say("wrong", what, repr(error))


def serve() -> None:
    """Begin and kill a process for each line of the input; "ended" tells that it is gone."""
    told = {signal.SIGCHLD, _BEGUN}
    signal.pthread_sigmask(signal.SIG_BLOCK, told)
    for line in sys.stdin:
        what, path, first, seconds = line.rsplit(maxsplit=3)
        if not (child := os.fork()):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _run(what, path, int(first))
            os._exit(0)
        if float(seconds) >= 0:
            signal.sigtimedwait(told, _STEP_COMES_S)
        signal.sigtimedwait({signal.SIGCHLD}, abs(float(seconds)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while signal.sigtimedwait(told, 0):
            pass
        say("ended")


if __name__ == "__main__":
    serve()
