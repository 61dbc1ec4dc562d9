"""Many threads and several processes at one database."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Dismounted, ReadOnly, WriterBusy
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
GUID = b"threads-of-tests"
TUNING = Tuning(segment_bytes=64 << 10, checkpoint_stream_bytes=128 << 10, checkpoint_pages=64)
THREADS = 16
EACH = 25


def new_database(path: Path) -> Database:
    return Database(path, GUID, "DB", DatabaseKind.MAILBOX_STORE, tuning=TUNING)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = new_database(tmp_path / "database")
    database.create()
    database.mount()
    return database


def inbox_of(database: Database) -> int:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, "anna").roles["inbox"]


def raw_of(thread: int, number: int) -> bytes:
    return b"Subject: %d %d\r\n\r\n" % (thread, number) + bytes(range(256)) * (number % 9)


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread waits forever"


def test_sixteen_threads_deliver_at_once_and_readers_see_whole_states(database: Database) -> None:
    inbox = inbox_of(database)
    acknowledged: dict[int, bytes] = {}
    failures: list[BaseException] = []
    done = threading.Event()

    def deliver(thread: int) -> None:
        try:
            for number in range(EACH):
                prepared = messages.prepare(database.files, raw_of(thread, number))
                with database.transaction(ACTOR) as txn:
                    first = messages.append(txn, inbox, prepared)
                    messages.append(txn, inbox, prepared)
                acknowledged[first.message_id] = prepared.raw
                with database.read(ACTOR) as read:
                    assert messages.content(read, messages.get(read, first.message_id)) == prepared.raw
        except BaseException as error:
            failures.append(error)

    def look() -> None:
        try:
            before = 0
            while not done.is_set():
                with database.read(ACTOR) as read:
                    counted = folders.get(read, inbox).messages_count
                    assert counted == len(list(folders.messages(read, inbox)))
                    assert counted % 2 == 0, "half a transaction was seen"
                    assert counted >= before
                    before = counted
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    run_all([threading.Thread(target=deliver, args=(number,)) for number in range(THREADS)])
    done.set()
    for reader in readers:
        reader.join(60)
    assert failures == []
    assert len(acknowledged) == THREADS * EACH
    database.dismount()
    database.mount()
    with database.read(ACTOR) as read:
        items = list(folders.messages(read, inbox))
        assert [item.uid for item in items] == list(range(1, 2 * THREADS * EACH + 1))
        found = {item.message_id: messages.content(read, item) for item in items}
    assert acknowledged.items() <= found.items()
    assert check_database(database, ACTOR).clean
    database.dismount()


def test_a_dismount_while_threads_deliver_loses_nothing_that_was_acknowledged(database: Database) -> None:
    inbox = inbox_of(database)
    acknowledged: set[int] = set()
    unexpected: list[BaseException] = []
    under_way = threading.Event()

    def deliver(thread: int) -> None:
        try:
            for number in range(10_000):
                prepared = messages.prepare(database.files, raw_of(thread, number))
                with database.transaction(ACTOR) as txn:
                    item = messages.append(txn, inbox, prepared)
                acknowledged.add(item.message_id)
                under_way.set()
        except Dismounted:
            return
        except BaseException as error:
            unexpected.append(error)

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert under_way.wait(10)
    database.dismount("for a test")
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if unexpected:
        raise unexpected[0]
    database.mount()
    with database.read(ACTOR) as read:
        assert acknowledged <= {item.message_id for item in folders.messages(read, inbox)}
    assert check_database(database, ACTOR).clean
    database.dismount()


# -- processes

OTHER_PROCESS = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_database_threads import ACTOR, new_database
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.errors import PillarboxError

database = new_database(Path(sys.argv[1]))
read_only = sys.argv[2] == "read"
try:
    database.mount(read_only=read_only)
except PillarboxError as error:
    print(type(error).__name__, flush=True)
    sys.exit()
print("mounted", flush=True)
for line in sys.stdin:
    with database.read(ACTOR) as read:
        box = mailboxes.find(read, "anna")
        items = list(folders.messages(read, box.roles["inbox"]))
        print(len(items), sum(len(messages.content(read, item)) for item in items), flush=True)
    if not read_only:
        break
"""


def other_process(database: Database, mode: str) -> subprocess.Popen[str]:
    code = OTHER_PROCESS.format(here=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(database.path), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_writing_process_is_refused_until_the_first_has_ended(database: Database) -> None:
    with other_process(database, "write") as other:
        out, _ = other.communicate()
    assert out == "WriterBusy\n"
    database.dismount()
    with other_process(database, "write") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mounted\n"
        with pytest.raises(WriterBusy):
            database.mount()
        other.communicate()
    database.mount()
    database.dismount()


def test_a_reading_process_beside_the_writer_sees_each_acknowledged_state(database: Database) -> None:
    inbox = inbox_of(database)
    with other_process(database, "read") as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "mounted\n"
        total = 0
        for number in range(60):
            raw = raw_of(1, number)
            prepared = messages.prepare(database.files, raw)
            with database.transaction(ACTOR) as txn:
                messages.append(txn, inbox, prepared)
            total += len(raw)
            if number % 10 == 9:
                other.stdin.write("look\n")
                other.stdin.flush()
                assert other.stdout.readline() == f"{number + 1} {total}\n"
        other.stdin.close()
        other.stdin = None
        other.wait(30)
    database.dismount()


def test_a_process_that_reads_only_does_not_write(database: Database) -> None:
    inbox_of(database)
    database.dismount()
    database.mount(read_only=True)
    with pytest.raises(ReadOnly), database.transaction(ACTOR):
        pytest.fail("a transaction was begun")
    with database.read(ACTOR) as read:
        assert mailboxes.find(read, "anna").name == "anna"
    database.dismount()
