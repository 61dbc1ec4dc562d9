"""Maintenance gives space back, and neither a message nor a promise of the stream is lost by it."""

from __future__ import annotations

import base64
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, ItemRecord, Table
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Corrupt, DiskFull
from pillarbox.store.events import EventId
from pillarbox.store.files.mbox import read_mbox
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep import maintenance
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import (
    MAILBOX_RETENTION_MS,
    compact,
    purge_disconnected,
    run_maintenance,
    train_dictionary,
)
from pillarbox.store.upkeep.repair import repair_database
from pillarbox.store.upkeep.sizes import logical_size_bytes, physical_size_bytes

DATA = Path(__file__).resolve().parents[2] / "data"
ACTOR = Actor.task("test")
MAIL = [item.raw for item in read_mbox(DATA / "lists.mbox")]
MAIL += [path.read_bytes() for path in sorted((DATA / "spam").glob("*.eml"))]


class Events:
    def __init__(self) -> None:
        self.ids: list[int] = []

    def report(self, event: Any) -> None:
        self.ids.append(event.event_id)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def database(tmp_path: Path, events: Events, clock: VirtualClock) -> Iterator[Database]:
    """Mounted, with the mailbox anna in it."""
    made = Database(
        tmp_path / "db",
        b"x" * 16,
        "Mail",
        DatabaseKind.MAILBOX_STORE,
        clock=clock,
        rng=random.Random(1),
        reporter=events,
        tuning=Tuning(segment_bytes=30_000),
    )
    made.create()
    made.mount()
    with made.transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
    yield made
    made.dismount()


def mailbox_guid(database: Database) -> bytes:
    with database.read(ACTOR) as reader:
        return mailboxes.find(reader, "anna").guid


def deliver(database: Database, mail: list[bytes]) -> list[ItemRecord]:
    guid = mailbox_guid(database)
    items = []
    for raw in mail:
        prepared = messages.prepare(database.files, raw)
        with database.transaction(ACTOR) as txn:
            items += messages.deliver(txn, [guid], prepared)
    return items


def delete(database: Database, items: list[ItemRecord]) -> None:
    for item in items:
        with database.transaction(ACTOR) as txn:
            messages.delete(txn, item.message_id)


def contents(database: Database) -> list[tuple[ItemRecord, bytes]]:
    found = []
    with database.read(ACTOR) as reader:
        for box in mailboxes.all_of(reader):
            for _, each in folders.walk(reader, box.root_id):
                found += [
                    (item, messages.content(reader, item))
                    for item in folders.messages(reader, each.folder_id)
                ]
    return found


def tables(database: Database) -> dict[tuple[Table, bytes], bytes]:
    """Every row but those that a repair numbers anew: the sums of segments and the counters."""
    with database.read(ACTOR) as reader:
        return {
            (table, key): value
            for table in Table
            if table not in (Table.META, Table.SEGMENT)
            for key, value in reader.view.scan(table, b"", None)
        }


def assert_clean(database: Database) -> None:
    assert check_database(database, ACTOR).findings == ()


def test_space_of_deleted_mail_comes_back_and_all_else_stays(database: Database, events: Events) -> None:
    items = deliver(database, MAIL)
    delete(database, items[: len(items) * 3 // 4])
    before, size = contents(database), database.stream.total_bytes()
    segments = database.stream.segments()
    freed = compact(database, ACTOR)
    assert freed > 0 and database.stream.total_bytes() < size
    assert set(segments) - set(database.stream.segments())
    assert contents(database) == before
    assert EventId.COMPACTION_FINISHED in events.ids
    assert_clean(database)
    database.dismount()
    database.mount()
    assert contents(database) == before
    assert_clean(database)


def test_the_stream_that_is_left_still_makes_the_same_tables(database: Database) -> None:
    items = deliver(database, MAIL)
    delete(database, items[5:30])
    with database.transaction(ACTOR) as txn:
        for item in items[:5]:
            messages.set_flags(txn, item.message_id, add=["\\Seen"])
    for _ in range(3):
        compact(database, ACTOR)
        delete(database, deliver(database, MAIL[:8]))
    before, rows = contents(database), tables(database)
    assert database.stream.segments()[0] > 1
    database.dismount()
    (database.path / "properties" / "data.mdb").write_bytes(b"")
    report = repair_database(database)
    assert report.from_stream and report.lost == () and report.restored == ()
    database.mount()
    assert contents(database) == before
    assert tables(database) == rows
    assert_clean(database)


def test_a_deletion_is_kept_as_long_as_an_older_segment_could_bring_the_message_back(
    database: Database,
) -> None:
    """The older segment is full of mail that stays; the one that tells of the deletion is given back."""
    doomed = deliver(database, [b"Subject: doomed\n\nGone.\n"])
    rng = random.Random(2)
    kept = [b"Subject: kept\n\n" + rng.randbytes(9000) for _ in range(4)]
    deliver(database, kept)
    delete(database, doomed)
    delete(database, deliver(database, [b"Subject: more\n\n" + rng.randbytes(9000) for _ in range(8)]))
    before = database.stream.segments()
    compact(database, ACTOR)
    left = database.stream.segments()
    assert 1 in left and 2 in before and 2 not in left
    lose_tables(database)
    repair_database(database)
    database.mount()
    assert [raw for _, raw in contents(database)] == kept
    assert_clean(database)


def test_a_second_run_finds_nothing_to_do(database: Database) -> None:
    delete(database, deliver(database, MAIL)[:20])
    for _ in range(3):
        compact(database, ACTOR)
    segments, size = database.stream.segments(), database.stream.total_bytes()
    before = tables(database)
    assert compact(database, ACTOR) == 0
    assert database.stream.segments() == segments and database.stream.total_bytes() == size
    assert tables(database) == before


def test_a_segment_that_a_read_looks_at_stays_until_the_read_ends(database: Database) -> None:
    items = deliver(database, MAIL)
    with database.read(ACTOR) as reader:
        delete(database, items)
        segments = database.stream.segments()
        compact(database, ACTOR)
        assert set(segments) <= set(database.stream.segments())
        assert [messages.content(reader, item) for item in items] == MAIL
    assert_clean(database)
    compact(database, ACTOR)
    assert not set(segments[:-1]) & set(database.stream.segments())
    assert_clean(database)


def test_a_damaged_segment_is_left_alone(database: Database, events: Events) -> None:
    delete(database, deliver(database, MAIL))
    path = database.stream.path(1)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"damage")
    damaged = path.read_bytes()
    compact(database, ACTOR)
    assert 1 in database.stream.segments() and 2 not in database.stream.segments()
    assert path.read_bytes() == damaged
    assert EventId.DAMAGE_FOUND in events.ids
    assert events.ids.count(EventId.DAMAGE_FOUND) == 1


def test_nothing_is_maintained_by_tables_with_bent_pages(database: Database, events: Events) -> None:
    delete(database, deliver(database, MAIL))
    segments = database.stream.segments()
    database.checkpoint()
    data = database.path / "properties" / "data.mdb"
    whole = data.read_bytes()
    bent = bytearray(whole)
    for page in range(2 * 4096, len(bent), 4096):
        bent[page + 10] = 0
    with data.open("r+b") as file:
        file.write(bent)
    try:
        with pytest.raises(Corrupt, match="nothing was maintained"):
            run_maintenance(database, ACTOR)
    finally:
        with data.open("r+b") as file:  # in place, since it is mapped
            file.write(whole)
    assert EventId.DAMAGE_FOUND in events.ids
    assert database.stream.segments() == segments
    assert_clean(database)


def variants(count: int) -> list[bytes]:
    """Small mail as it comes every day: real headers, each with something of its own."""
    headers = [raw.split(b"\n\n", 1)[0] for raw in MAIL]
    return [
        headers[each % len(headers)] + f"\nX-Number: {each * 7919}\n\nHello {each}\n".encode()
        for each in range(count)
    ]


def test_a_dictionary_makes_later_mail_smaller_and_is_still_known_after_a_mount(database: Database) -> None:
    prepared = [messages.prepare(database.files, raw) for raw in variants(600)]
    with database.transaction(ACTOR) as txn:
        guid = mailboxes.find(txn, "anna").guid
        for each in prepared[:520]:
            messages.deliver(txn, [guid], each)
    plain = sum(len(each.content.skeleton.frame(database.files.dictionaries)) for each in prepared[520:])
    assert train_dictionary(database, ACTOR) == 1
    items = deliver(database, variants(600)[520:])
    with database.read(ACTOR) as reader:
        packed = sum(reader.record(Table.CONTENT, item.digest).length for item in items)
    assert packed < plain * 0.8
    assert_clean(database)
    database.dismount()
    database.mount()
    assert [raw for _, raw in contents(database)][520:] == variants(600)[520:]
    assert train_dictionary(database, ACTOR) == 0  # another would save nothing
    delete(database, [item for item, _ in contents(database)[:520]])
    compact(database, ACTOR)
    database.dismount()
    database.mount()
    assert [raw for _, raw in contents(database)] == variants(600)[520:]
    assert_clean(database)


def test_no_dictionary_is_made_of_little_mail(database: Database) -> None:
    deliver(database, MAIL)
    assert train_dictionary(database, ACTOR) == 0


def test_a_mailbox_is_purged_when_its_time_is_over(database: Database, clock: VirtualClock) -> None:
    deliver(database, MAIL[:3])
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "bob")
        mailboxes.disconnect(txn, mailboxes.find(txn, "anna").guid)
    clock.advance_ms(MAILBOX_RETENTION_MS - 1)
    assert purge_disconnected(database, ACTOR) == 0
    clock.advance_ms(1)
    assert purge_disconnected(database, ACTOR) == 1
    with database.read(ACTOR) as reader:
        assert [box.name for box in mailboxes.all_of(reader)] == ["bob"]
    assert contents(database) == []
    assert_clean(database)


def test_a_run_ends_with_the_event_that_tells_the_free_space(database: Database, events: Events) -> None:
    delete(database, deliver(database, MAIL))
    report = run_maintenance(database, ACTOR)
    assert report.freed_bytes > 0
    assert report.free_bytes == physical_size_bytes(database) - logical_size_bytes(database)
    assert events.ids[-1] == EventId.FREE_SPACE_AFTER_MAINTENANCE
    assert_clean(database)


class Model:
    """Random operations, and what must be there after them: content by message id."""

    def __init__(self, database: Database, rng: random.Random) -> None:
        self.database = database
        self.rng = rng
        self.held: dict[int, bytes] = {}
        with database.read(ACTOR) as reader:
            roles = mailboxes.find(reader, "anna").roles
            self.folders = [roles["inbox"], roles["sent"], roles["drafts"]]

    def step(self) -> None:
        getattr(self, self.rng.choice(("deliver", "deliver", "delete", "delete", "move", "flag")))()

    def raw(self) -> bytes:
        if self.rng.random() < 0.5:
            return self.rng.choice(MAIL)
        attachment = base64.encodebytes(self.rng.randbytes(self.rng.choice((200, 5000))))
        return b"Subject: %d\nContent-Transfer-Encoding: base64\n\n" % self.rng.randrange(99) + attachment

    def deliver(self) -> None:
        prepared = [messages.prepare(self.database.files, self.raw()) for _ in range(self.rng.randrange(6))]
        with self.database.transaction(ACTOR) as txn:
            for each in prepared:
                item = messages.append(txn, self.rng.choice(self.folders), each)
                self.held[item.message_id] = each.raw

    def some(self) -> list[int]:
        return self.rng.sample(sorted(self.held), min(len(self.held), self.rng.randrange(6)))

    def delete(self) -> None:
        with self.database.transaction(ACTOR) as txn:
            for message_id in self.some():
                messages.delete(txn, message_id)
                del self.held[message_id]

    def move(self) -> None:
        with self.database.transaction(ACTOR) as txn:
            for message_id in self.some():
                messages.move(txn, message_id, self.rng.choice(self.folders))

    def flag(self) -> None:
        with self.database.transaction(ACTOR) as txn:
            for message_id in self.some():
                messages.set_flags(txn, message_id, add=[self.rng.choice(("\\Seen", "\\Flagged", "todo"))])

    def assert_held(self) -> None:
        assert {item.message_id: raw for item, raw in contents(self.database)} == self.held


def seeds() -> list[Any]:
    return [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))]


@pytest.mark.parametrize("seed", seeds())
def test_at_any_point_of_any_history_compaction_changes_nothing_that_is_seen(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor after a mount, nor when the tables are lost and made again from the stream alone."""
    monkeypatch.setattr(maintenance, "SKELETONS_MIN", 20)
    monkeypatch.setattr(maintenance, "DICTIONARY_BYTES", 4 << 10)
    monkeypatch.setattr(maintenance, "_pays", lambda *_: True)
    monkeypatch.setattr(maintenance, "_REMOVE_EVERY", 2)
    rng = random.Random(seed)
    model = Model(database, rng)
    for _ in range(8):
        for _ in range(rng.randrange(40)):
            model.step()
        if rng.random() < 0.4:
            train_dictionary(database, ACTOR)
        before = tables(database)
        compact(database, ACTOR, live_ratio_max=rng.choice((0.3, 0.5, 0.9, 1.0)))
        model.assert_held()
        after = tables(database)
        assert before.keys() == after.keys()
        assert_clean(database)
        if rng.random() < 0.5:
            database.dismount()
            database.mount()
            model.assert_held()
        if rng.random() < 0.5:
            lose_tables(database)
            assert repair_database(database).lost == ()
            database.mount()
            assert tables(database) == after
            model.assert_held()
            assert_clean(database)
    assert database.stream.segments()[0] > 1


def lose_tables(database: Database) -> None:
    """Its checkpoint tells where the stream ends; without that, a repair leaves numbers out."""
    database.dismount()
    (database.path / "properties" / "data.mdb").write_bytes(b"lost")


def test_deliveries_and_reads_go_on_during_compaction(database: Database) -> None:
    stop = threading.Event()
    writing = 2
    kept: list[list[bytes]] = [[], []]
    failures: list[BaseException] = []

    def write(number: int) -> None:
        nonlocal writing
        rng = random.Random(number)
        guid = mailbox_guid(database)
        for _ in range(60):
            raw = b"Subject: %d %d\n\n" % (number, len(kept[number])) + rng.randbytes(1500)
            doomed = b"Subject: doomed %d\n\n" % number + rng.randbytes(6000)
            prepared = [messages.prepare(database.files, each) for each in (raw, doomed)]
            with database.transaction(ACTOR) as txn:
                messages.deliver(txn, [guid], prepared[0])
                (item,) = messages.deliver(txn, [guid], prepared[1])
            kept[number].append(raw)
            with database.transaction(ACTOR) as txn:
                messages.delete(txn, item.message_id)
        writing -= 1

    def read() -> None:
        while not stop.is_set():
            contents(database)

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    works = [lambda: write(0), lambda: write(1), read]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        while writing and not failures:
            compact(database, ACTOR)
            assert_clean(database)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert sorted(raw for _, raw in contents(database)) == sorted(kept[0] + kept[1])
    compact(database, ACTOR)
    assert database.stream.segments()[0] > 1
    assert_clean(database)


# Mounts for reading only, tells so, and reads everything once it is told to.
READING_PROCESS = """
import sys
from pathlib import Path
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.access import Actor
from pillarbox.store.engine.database import Database
from pillarbox.store.disk.tables import DatabaseKind

database = Database(Path(sys.argv[1]), b"x" * 16, "Mail", DatabaseKind.MAILBOX_STORE)
database.mount(read_only=True)
print("mounted", flush=True)
sys.stdin.readline()
with database.read(Actor.task("test")) as reader:
    inbox = mailboxes.find(reader, "anna").roles["inbox"]
    for item in folders.messages(reader, inbox):
        print(messages.content(reader, item).hex())
database.dismount()
"""


def test_mail_packed_with_a_dictionary_is_read_by_a_process_that_mounted_before_it_was_trained(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after the dictionary has moved to another segment, and after a repair from the stream."""
    monkeypatch.setattr(maintenance, "SKELETONS_MIN", 100)
    monkeypatch.setattr(maintenance, "DICTIONARY_BYTES", 4 << 10)
    monkeypatch.setattr(maintenance, "_pays", lambda *_: True)
    before = deliver(database, variants(120))
    command = [sys.executable, "-c", READING_PROCESS, str(database.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "mounted\n"
        assert train_dictionary(database, ACTOR) == 1
        beside = deliver(database, variants(150)[120:])
        later = variants(180)[150:]
        deliver(database, later)
        delete(database, before + beside)
        place = dictionary_place(database)
        compact(database, ACTOR)
        assert dictionary_place(database) != place
        output, _ = process.communicate("read\n", timeout=60)
    assert [bytes.fromhex(line) for line in output.split()] == later
    lose_tables(database)
    assert repair_database(database).lost == ()
    database.mount()
    assert [raw for _, raw in contents(database)] == later
    assert_clean(database)


def dictionary_place(database: Database) -> tuple[int, int]:
    with database.read(ACTOR) as reader:
        ((_, record),) = reader.records(Table.DICTIONARY, b"", None)
    return record.segment, record.offset


def test_what_is_begun_ends_and_no_more_is_begun_when_the_time_is_over(
    database: Database, clock: VirtualClock
) -> None:
    delete(database, deliver(database, MAIL))
    segments = database.stream.segments()
    assert compact(database, ACTOR, until_ms=clock.now_ms()) == 0
    assert database.stream.segments() == segments
    assert compact(database, ACTOR, until_ms=clock.now_ms() + 1) > 0


def test_when_the_disk_is_full_what_was_emptied_before_is_given_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    delete(database, deliver(database, [b"Subject: x\n\n" + rng.randbytes(6000) for _ in range(40)])[::2])
    before, oldest = contents(database), database.stream.segments()[0]
    write_again = maintenance._write_again

    def full_at_the_third(txn: Any, number: int, *needed: Any) -> None:
        if number >= 3:
            raise DiskFull("no space left on the disk")
        write_again(txn, number, *needed)

    monkeypatch.setattr(maintenance, "_write_again", full_at_the_third)
    with pytest.raises(DiskFull):
        compact(database, ACTOR, live_ratio_max=1.0)
    assert database.stream.segments()[0] == 3 > oldest
    assert contents(database) == before
    assert_clean(database)


def test_a_reading_process_that_was_killed_keeps_no_segments(database: Database) -> None:
    items = deliver(database, MAIL)
    held = READING_PROCESS.replace("sys.stdin.readline()", "open_read = database.read(Actor.task('test'))")
    held = held.replace('print("mounted", flush=True)', "").replace(
        "with database.read", 'print("reading", flush=True); sys.stdin.readline()\nwith database.read'
    )
    command = [sys.executable, "-c", held, str(database.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "reading\n"
        delete(database, items)
        segments = database.stream.segments()
        compact(database, ACTOR)
        assert set(segments) <= set(database.stream.segments())
        process.kill()
    compact(database, ACTOR)
    assert not set(segments[:-1]) & set(database.stream.segments())


# -- the segment that is being written


def only_segment(database: Database) -> int:
    (number,) = database.stream.segments()
    return number


@pytest.fixture
def small(database: Database) -> Database:
    """All that it has lies in one segment, which is being written."""
    database.dismount()
    database.tuning = Tuning(segment_bytes=1 << 20)
    database.mount()
    return database


def test_a_store_smaller_than_a_segment_gives_space_back_too(small: Database) -> None:
    items = deliver(small, [b"Subject: x\r\n\r\n" + random.Random(n).randbytes(20_000) for n in range(20)])
    first = only_segment(small)
    delete(small, items[2:])
    before = contents(small)
    assert compact(small, ACTOR) > 300_000
    assert only_segment(small) == first + 1
    assert contents(small) == before and len(before) == 2
    assert compact(small, ACTOR) == 0 and only_segment(small) == first + 1
    assert_clean(small)
    small.dismount()
    repair_database(small)
    small.mount()
    assert contents(small) == before


def test_a_segment_that_is_being_written_stays_while_half_of_it_is_needed(small: Database) -> None:
    items = deliver(small, [b"Subject: x\r\n\r\n" + random.Random(n).randbytes(20_000) for n in range(20)])
    delete(small, items[12:])
    first = only_segment(small)
    assert compact(small, ACTOR) == 0
    assert only_segment(small) == first


def test_deliveries_go_on_while_the_segment_that_is_written_is_emptied(small: Database) -> None:
    items = deliver(small, [b"Subject: x\r\n\r\n" + random.Random(n).randbytes(20_000) for n in range(20)])
    delete(small, items)
    more = [b"Subject: beside\r\n\r\n" + random.Random(99 + n).randbytes(3000) for n in range(40)]
    thread = threading.Thread(target=lambda: deliver(small, more))
    thread.start()
    freed = compact(small, ACTOR)
    thread.join()
    # A segment that a delivery's read still looked at is left for the next run.
    assert freed + compact(small, ACTOR) > 0
    assert {raw for _, raw in contents(small)} == set(more)
    assert_clean(small)
    small.dismount()
    repair_database(small)
    small.mount()
    assert {raw for _, raw in contents(small)} == set(more)


def test_an_interruption_after_sealing_leaves_a_whole_database(
    small: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = deliver(small, [b"Subject: x\r\n\r\n" + random.Random(n).randbytes(20_000) for n in range(20)])
    delete(small, items[2:])
    before = contents(small)
    small.seal_segment()
    small.dismount()
    small.mount()
    assert contents(small) == before
    deliver(small, [b"Subject: more\r\n\r\n"])
    assert compact(small, ACTOR) > 0
    assert len(contents(small)) == 3
    assert_clean(small)
