"""Programs that are interrupted at any moment, catch that, and go on: nothing is stuck, nothing half made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"
QUICK_COUNT = 10
ACTIONS = (
    "deliver",
    "append",
    "transaction",
    "pause",
    "message move",
    "mailbox move",
    "maintenance",
    "mount",
    "close",
)

# Run as `PROGRAM server action count seed kept`; `kept` keeps each traceback until the next, as a shell does.
PROGRAM = """
import faulthandler, random, signal, sys, threading, time
from pathlib import Path
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import Dismounted, NotFound, PillarboxError, Refused
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.mail.delivery import deliver
from pillarbox.store.server import Server
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import run_maintenance

path, action, kept = Path(sys.argv[1]), sys.argv[2], sys.argv[5]
count, seed = int(sys.argv[3]), int(sys.argv[4])
ACTOR = Actor.task("test")
SMALL = Tuning(segment_bytes=64 << 10, checkpoint_stream_bytes=96 << 10, checkpoint_pages=64)
rng = random.Random(seed)
server = Server.create(path, Edition.ENTERPRISE)
first, anna = server.mailboxes.create(ACTOR, "anna")
_, bert = server.mailboxes.create(ACTOR, "bert", first.name)
if action == "mailbox move":
    server.create_database(next(iter(server.groups)), "Second", DatabaseKind.MAILBOX_STORE)
for database in server.databases():
    database.dismount()
    database.tuning = SMALL
    database.mount()
inbox, sent = anna.roles["inbox"], anna.roles["sent"]
acknowledged, begun, number = set(), set(), 0
stop = threading.Event()
unexpected = []


def raw_of(name, number):
    return b"Subject: %s %d\\r\\n\\r\\n" % (name.encode(), number) + b"text %d " % number * (number % 500)


def work(name):
    number = 0
    while not stop.is_set():
        number += 1
        raw = raw_of(name, number)
        try:
            deliver(first, ACTOR, [bert.guid], raw)
            acknowledged.add(raw)
            with first.transaction(ACTOR) as txn:
                item = messages.append(txn, bert.roles["sent"], messages.prepare(first.files, raw + b"."))
            with first.transaction(ACTOR) as txn:
                messages.delete(txn, item.message_id)
        except (Dismounted, NotFound):
            stop.wait(0.001)
        except BaseException as error:
            unexpected.append(error)
            return


def one():
    global number
    number += 1
    raw = raw_of("main", number)
    if action == "deliver":
        begun.add(raw)
        deliver(first, ACTOR, [anna.guid], raw)
        acknowledged.add(raw)
    elif action == "append":
        begun.add(raw)
        prepared = messages.prepare(first.files, raw)
        with first.transaction(ACTOR) as txn:
            messages.append(txn, inbox, prepared)
        acknowledged.add(raw)
    elif action == "transaction":
        with first.transaction(ACTOR) as txn:
            folder = folders.create(txn, anna.root_id, "one")
            folders.rename(txn, folder.folder_id, "two")
            folders.delete(txn, folder.folder_id)
            mailboxes.set_property(txn, anna.guid, "number", number)
    elif action == "pause":
        with first.paused():
            pass
        first.checkpoint()
    elif action == "message move":
        begun.add(raw)
        deliver(first, ACTOR, [anna.guid], raw)
        acknowledged.add(raw)
        with first.transaction(ACTOR) as txn:
            for item in list(folders.messages(txn, inbox))[-3:]:
                messages.move(txn, item.message_id, sent)
    elif action == "mailbox move":
        here = server.mailboxes.find("anna")[0]
        target = "Second" if here is first else first.name
        server.mailboxes.move(ACTOR, "anna", target)
    elif action == "maintenance":
        run_maintenance(first, ACTOR)
    elif action == "mount":
        first.dismount()
        first.mount()
    elif action == "close":
        server.close()
        for database in server.databases():
            database.mount()


threads = [threading.Thread(target=work, args=(f"worker{n}",)) for n in range(2)]
for thread in threads:
    thread.start()
signal.signal(signal.SIGALRM, signal.default_int_handler)
last, slept = None, 0
longest = 0.02 if action in ("mailbox move", "maintenance", "mount", "close") else 0.003
for at in range(count):
    faulthandler.dump_traceback_later(120, exit=True)
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, longest))
        # Where the interrupt comes within a callback of the interpreter's, it is told and goes no further.
        until = time.monotonic() + 2
        while time.monotonic() < until:
            one()
    except KeyboardInterrupt as error:
        last = error if kept == "kept" else None
    except (Dismounted, NotFound, Refused, PillarboxError) as error:
        # One that was interrupted before may go on beside, and is in the way of the next.
        if action not in ("mailbox move", "mount", "close"):
            raise
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            pass
signal.setitimer(signal.ITIMER_REAL, 0)
faulthandler.dump_traceback_later(300, exit=True)
stop.set()
for thread in threads:
    thread.join()
for database in server.databases():
    database.mount()
assert not unexpected, unexpected
if action == "mailbox move":
    for _ in range(3):
        try:
            server.mailboxes.move(ACTOR, "anna", first.name)
        except PillarboxError:
            continue
deliver(first, ACTOR, [bert.guid], raw_of("last", 1))
acknowledged.add(raw_of("last", 1))
server.close()
with Server.open(path) as again:
    found = []
    for database in again.databases():
        assert check_database(database, ACTOR).clean
        with database.read(ACTOR) as read:
            for mailbox in mailboxes.all_of(read):
                for _, folder in folders.walk(read, mailbox.root_id):
                    items = folders.messages(read, folder.folder_id)
                    found += [messages.content(read, item) for item in items]
    assert acknowledged <= set(found), "lost"
    assert len(found) == len(set(found)) or action == "mailbox move", "made twice"
    mains = {raw for raw in found if raw.startswith(b"Subject: main")}
    assert mains <= begun, "something that nobody began"
print("whole", len(acknowledged), number)
"""

# Each task delivers and is cancelled at a random moment.
CANCELS = """
import asyncio, faulthandler, random, sys
from pathlib import Path
from pillarbox.store.access import Actor
from pillarbox.store.aio import AsyncDatabase
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.server import Server
from pillarbox.store.upkeep.check import check_database

path, count, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
ACTOR = Actor.task("test")


async def main(database, anna):
    acknowledged, begun = set(), set()

    async def deliver(store, number):
        raw = b"Subject: %d\\r\\n\\r\\n" % number
        begun.add(raw)
        await store.deliver(ACTOR, [anna.guid], raw)
        acknowledged.add(raw)
        await store.transaction(ACTOR, lambda txn: mailboxes.set_property(txn, anna.guid, "number", number))

    async with AsyncDatabase(database) as store:
        for number in range(count):
            faulthandler.dump_traceback_later(120, exit=True)
            tasks = [asyncio.create_task(deliver(store, 2 * number + each)) for each in range(2)]
            await asyncio.sleep(rng.uniform(0, 0.002))
            tasks[0].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(each is None or isinstance(each, asyncio.CancelledError) for each in results), results
    return acknowledged, begun


with Server.create(path) as server:
    database, anna = server.mailboxes.create(ACTOR, "anna")
    acknowledged, begun = asyncio.run(main(database, anna))
    with database.read(ACTOR) as read:
        found = [messages.content(read, item) for item in folders.messages(read, anna.roles["inbox"])]
    assert acknowledged <= set(found) <= begun and len(found) == len(set(found))
    assert check_database(database, ACTOR).clean
print("whole", len(acknowledged), len(begun))
"""

# Ends without closing anything, with other threads at work that it does not wait for.
ENDS = """
import sys, threading
from pathlib import Path
from pillarbox.store.access import Actor
from pillarbox.store.mail.delivery import deliver
from pillarbox.store.server import Server

ACTOR = Actor.task("test")
server = Server.create(Path(sys.argv[1]))
database, anna = server.mailboxes.create(ACTOR, "anna")
enough = threading.Event()
count = 0


def work():
    global count
    while True:
        deliver(database, ACTOR, [anna.guid], b"Subject: thread\\r\\n\\r\\n%d" % count)
        count += 1
        if count > 20:
            enough.set()


for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
enough.wait()
for number in range(10):
    deliver(database, ACTOR, [anna.guid], b"Subject: main\\r\\n\\r\\n%d" % number)
"""


def run(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


@pytest.mark.parametrize("action", ["deliver", "transaction", "mount"])
def test_a_program_that_is_interrupted_anywhere_goes_on(tmp_path: Path, action: str) -> None:
    assert run(PROGRAM, tmp_path / "server", action, QUICK_COUNT, 1, "kept").startswith("whole")


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["kept", "let go"])
@pytest.mark.parametrize("action", ACTIONS)
def test_interrupts_campaign(tmp_path: Path, action: str, kept: str) -> None:
    assert run(PROGRAM, tmp_path / "server", action, 100 if SHORT else 1000, 2, kept).startswith("whole")


def test_an_asyncio_program_whose_tasks_are_cancelled_anywhere_goes_on(tmp_path: Path) -> None:
    assert run(CANCELS, tmp_path / "server", QUICK_COUNT, 1).startswith("whole")


@pytest.mark.slow
def test_cancelled_tasks_campaign(tmp_path: Path) -> None:
    assert run(CANCELS, tmp_path / "server", 100 if SHORT else 1000, 2).startswith("whole")


def test_a_program_that_ends_without_closing_ends_and_loses_nothing(tmp_path: Path) -> None:
    from pillarbox.store.access import Actor
    from pillarbox.store.mail import folders
    from pillarbox.store.server import Server

    run(ENDS, tmp_path / "server")
    with Server.open(tmp_path / "server") as server:
        database, anna = server.mailboxes.find("anna")
        with database.read(Actor.task("test")) as read:
            subjects = [item.subject for item in folders.messages(read, anna.roles["inbox"])]
    assert subjects.count("main") == 10
    assert subjects.count("thread") > 20
