"""The property file: who keeps it from giving space back is named, and a mount for writing compacts it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from pillarbox.store.disk.env import DATA_FILE, PAGE_BYTES, Env, meta_pages_of
from pillarbox.store.disk.file_lock import Opening
from pillarbox.store.disk.process_age import process_age_ms
from pillarbox.store.disk.tables import DatabaseKind, Table
from pillarbox.store.engine import tables_compaction
from pillarbox.store.engine.checkpointer import Checkpointer, Tuning
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.engine.held_space import is_mostly_free
from pillarbox.store.errors import Corrupt, DiskFull, PillarboxError
from pillarbox.store.events import Event, EventId
from pillarbox.store.mail import folders, mailboxes
from pillarbox.store.upkeep import sizes
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
TUNING = Tuning(
    checkpoint_pages=16, checkpoint_beside=False, remove_beside=False, tables_bytes=100 * PAGE_BYTES
)


class Events:
    def __init__(self) -> None:
        self.seen: list[Event] = []

    def report(self, event: Event) -> None:
        self.seen.append(event)

    def of(self, event_id: EventId) -> list[Event]:
        return [event for event in self.seen if event.event_id == event_id]


@pytest.fixture
def events() -> Events:
    return Events()


def made_at(path: Path, events: Events) -> Database:
    return Database(
        path,
        b"x" * 16,
        "Mail",
        DatabaseKind.MAILBOX_STORE,
        clock=VirtualClock(),
        rng=random.Random(1),
        reporter=events,
        tuning=TUNING,
    )


@pytest.fixture
def database(tmp_path: Path, events: Events) -> Iterator[Database]:
    made = made_at(tmp_path / "db", events)
    made.create()
    made.mount()
    yield made
    made.dismount()


def root_of(database: Database) -> int:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, "anna").root_id


def churn(database: Database, root: int, count: int) -> None:
    """Change one folder many times: each time LMDB writes some pages anew."""
    with database.transaction(ACTOR) as txn:
        made = folders.create(txn, root, "0").folder_id
    for number in range(1, count):
        with database.transaction(ACTOR) as txn:
            folders.rename(txn, made, str(number))


def fill_and_empty(database: Database) -> None:
    """Leave a property file of which most is free, and some rows."""
    root = root_of(database)
    with database.transaction(ACTOR) as txn:
        made = [folders.create(txn, root, f"folder {number}").folder_id for number in range(600)]
    with database.transaction(ACTOR) as txn:
        for folder_id in made[20:]:
            folders.delete(txn, folder_id)
    database.finish_removals()


def rows(database: Database) -> dict[tuple[Table, bytes], bytes]:
    with database.read(ACTOR) as read:
        found = {(table, key): value for table in Table for key, value in read.view.scan(table, b"", None)}
    return {key: value for key, value in found.items() if key != (Table.META, b"state")}


def tables_bytes(database: Database) -> int:
    return (database.path / "properties" / DATA_FILE).stat().st_size


# -- compaction


def test_a_mount_for_writing_gives_back_what_is_free(database: Database, events: Events) -> None:
    fill_and_empty(database)
    before, large_bytes = rows(database), tables_bytes(database)
    assert large_bytes > TUNING.tables_bytes
    database.dismount()
    database.mount()
    assert tables_bytes(database) < large_bytes // 2
    assert rows(database) == before
    (event,) = events.of(EventId.TABLES_COMPACTED)
    assert event.details["before_bytes"] == large_bytes
    assert event.details["after_bytes"] == tables_bytes(database)
    assert check_database(database, ACTOR).findings == ()
    assert not (database.path / "compact.new").exists()
    churn(database, mailbox_root(database), 5)
    after = rows(database)
    database.dismount()
    database.mount()
    assert rows(database) == after
    assert len(events.of(EventId.TABLES_COMPACTED)) == 1


def mailbox_root(database: Database) -> int:
    with database.read(ACTOR) as read:
        return mailboxes.find(read, "anna").root_id


def test_a_mount_after_a_crash_compacts_too(database: Database, tmp_path: Path, events: Events) -> None:
    fill_and_empty(database)
    before = rows(database)
    shutil.copytree(database.path, tmp_path / "killed")
    killed = made_at(tmp_path / "killed", events)
    killed.mount()
    assert tables_bytes(killed) < tables_bytes(database) // 2
    assert rows(killed) == before
    killed.dismount()


def test_a_small_file_and_one_in_use_stay_as_they_are(database: Database, events: Events) -> None:
    churn(database, root_of(database), 5)
    database.dismount()
    database.mount()
    database.tuning = TUNING._replace(tables_bytes=0)
    used, total = database.files.env.pages_used_and_total()
    assert is_mostly_free(database.files.env, database.tuning) is (2 * used < total)
    assert not events.of(EventId.TABLES_COMPACTED)


READS = """
import sys
from pathlib import Path
from pillarbox.store.disk.env import Env
env = Env(Path(sys.argv[1]), read_only=True)
view = env.view()
print(view.transaction_id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def reader(database: Database) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Begins a process that reads one state of the tables to its end."""
    begun = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", READS, str(database.path / "properties")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout is not None and process.stdout.readline()
        return process

    yield begin
    for process in begun:
        process.communicate()


def test_a_file_that_another_process_reads_is_not_exchanged(
    database: Database, events: Events, reader: Callable[[], subprocess.Popen[str]]
) -> None:
    fill_and_empty(database)
    large_bytes = tables_bytes(database)
    database.dismount()
    process = reader()
    database.mount()
    assert tables_bytes(database) == large_bytes
    assert not events.of(EventId.TABLES_COMPACTED) and not events.of(EventId.REQUEST_FAILED)
    process.communicate()
    database.dismount()
    database.mount()
    assert tables_bytes(database) < large_bytes


def test_who_opens_the_tables_waits_while_they_are_exchanged(database: Database, tmp_path: Path) -> None:
    fill_and_empty(database)
    database.dismount()
    waited: list[int] = []

    class Clock(VirtualClock):
        def sleep_ms(self, sleep_ms: int) -> None:
            waited.append(sleep_ms)
            super().sleep_ms(sleep_ms)

    with (
        Opening(database.path / "properties", VirtualClock(), alone=True),
        pytest.raises(PillarboxError, match="exchanges the files"),
        Opening(database.path / "properties", Clock()),
    ):
        pass
    assert waited
    with (
        Opening(database.path / "properties", VirtualClock()),
        Opening(database.path / "properties", VirtualClock()),
    ):
        pass


STEPS = ("copy_compacted", "verify_tables", "flush_file", "flush_directory", "write_checkpoint")


def states_of_a_compaction(
    database: Database, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Path], list[str]]:
    """The files of the database as they are before and after each step of a compaction, and the steps."""
    states: list[Path] = []
    steps: list[str] = []

    def keep(step: str) -> None:
        state = directory / f"{len(states)}-{step}"
        shutil.copytree(database.path, state)
        states.append(state)

    def watched(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            steps.append(name)
            keep(f"before-{name}")
            result = work(*given, **named)
            keep(f"after-{name}")
            return result

        return run

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(tables_compaction, name, watched(name, getattr(tables_compaction, name)))
        patch.setattr(Path, "rename", watched("rename", Path.rename))
        database.mount()
    return states, steps


@pytest.mark.parametrize("is_new_boot", [False, True], ids=["kill", "power loss"])
def test_a_compaction_that_is_interrupted_anywhere_leaves_the_tables_whole(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new_boot: bool, events: Events
) -> None:
    fill_and_empty(database)
    before = rows(database)
    database.dismount()
    states, steps = states_of_a_compaction(database, tmp_path / "states", monkeypatch)
    assert steps == [
        "write_checkpoint",
        "copy_compacted",
        "verify_tables",
        "flush_file",
        "rename",
        "flush_directory",
        "write_checkpoint",
    ]
    for state in states:
        if is_new_boot:
            monkeypatch.setattr("pillarbox.store.engine.database.boot_identity", lambda: b"b" * 16)
        mounted = made_at(state, events)
        mounted.tuning = TUNING._replace(tables_bytes=1 << 40)  # not compacted once more
        mounted.mount()
        assert rows(mounted) == before, state.name
        assert not (state / "compact.new").exists()
        mounted.dismount()


def test_a_flush_that_fails_after_an_interrupted_compaction_leads_to_no_page_of_the_old_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    fill_and_empty(database)
    before = rows(database)
    database.dismount()
    states, _ = states_of_a_compaction(database, tmp_path / "states", monkeypatch)
    (renamed,) = [state for state in states if state.name.endswith("after-rename")]
    mounted = made_at(renamed, events)

    def failing(env: Env) -> None:
        env.flush_failed = True
        raise PillarboxError("flush failed")

    with monkeypatch.context() as patch:
        patch.setattr(Env, "sync", failing)
        with pytest.raises(PillarboxError):
            mounted.mount()
    mounted.mount()
    assert rows(mounted) == before
    mounted.dismount()


def test_on_a_full_disk_the_tables_stay_as_they_are(
    database: Database, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    fill_and_empty(database)
    before, large_bytes = rows(database), tables_bytes(database)
    database.dismount()

    def full(path: Path, target: Path) -> None:
        raise DiskFull(f"{target}: no space left on the disk")

    monkeypatch.setattr(tables_compaction, "copy_compacted", full)
    database.mount()
    assert (rows(database), tables_bytes(database)) == (before, large_bytes)
    (event,) = events.of(EventId.REQUEST_FAILED)
    assert "no space left" in event.text and not (database.path / "compact.new").exists()


def test_a_disk_that_fills_up_once_the_tables_are_exchanged_is_told_the_next_mount(
    database: Database, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    """The checkpoint is still that of the old file then, and stays so when the mount fails."""
    fill_and_empty(database)
    before = rows(database)
    database.dismount()
    written: list[Checkpoint] = []

    def full(*words: Any, **more: Any) -> None:
        raise DiskFull("no space left on the disk")

    def once(directory: Path, checkpoint: Checkpoint) -> None:
        if written:
            full()
        written.append(checkpoint)
        write_checkpoint(directory, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(tables_compaction, "write_checkpoint", once)
        patch.setattr(Checkpointer, "make", full)
        with pytest.raises(DiskFull):
            database.mount()
    assert read_checkpoint(database.path) == written[0]
    assert (database.path / "compact.new").exists()
    pages = meta_pages_of(database.path / "properties")
    assert read_checkpoint(database.path).meta_pages != pages

    def failing(env: Env) -> None:
        env.flush_failed = True
        raise PillarboxError("flush failed")

    with monkeypatch.context() as patch:
        patch.setattr(Env, "sync", failing)
        with pytest.raises(PillarboxError):
            database.mount()
    assert rows_after(database) == before


def rows_after(database: Database) -> dict[tuple[Table, bytes], bytes]:
    database.mount()
    return rows(database)


def test_bent_pages_that_end_the_copy_leave_the_database_dismounted(database: Database) -> None:
    fill_and_empty(database)
    database.dismount()
    data = database.path / "properties" / DATA_FILE
    pages = bytearray(data.read_bytes())
    for page in range(2, len(pages) // PAGE_BYTES):
        at = page * PAGE_BYTES
        if (
            int.from_bytes(pages[at + 10 : at + 12], "little") == 2
        ):  # a leaf: let its free space lie beyond it
            pages[at + 12 : at + 16] = b"\xff\xff\xff\xff"
    data.write_bytes(pages)
    # LMDB may meet one of them before: what matters is that this process lives, and the database is refused.
    marked = database.path / "died-1"
    marked.write_bytes(b"Fatal Python error: Aborted")
    with pytest.raises(Corrupt):
        database.mount()
    assert database.state is MountState.DISMOUNTED
    assert not (database.path / "compact.new").exists()


# -- who holds space


def test_a_process_that_reads_an_old_state_is_named_as_the_file_grows(
    database: Database, events: Events, reader: Callable[[], subprocess.Popen[str]]
) -> None:
    root = root_of(database)
    churn(database, root, 30)
    assert not events.of(EventId.TABLES_SPACE_HELD) and sizes.held_space(database) is None
    process = reader()
    for number in range(6):
        with database.transaction(ACTOR) as txn:
            under = folders.create(txn, root, f"under {number}").folder_id
        churn(database, under, 12)
    first, *more = events.of(EventId.TABLES_SPACE_HELD)
    assert first.details["process"] == process.pid
    assert first.details["minutes"] == 0
    assert first.details["transactions"] > 0
    assert first.details["held_bytes"] > TUNING.tables_bytes // 2
    assert len(more) <= 4  # once, and again for twice as much
    held = sizes.held_space(database)
    assert held is not None and held.process_id == process.pid
    assert held.held_bytes >= first.details["held_bytes"] and held.age_ms is not None
    process.communicate()
    seen = len(events.of(EventId.TABLES_SPACE_HELD))
    database.checkpoint()
    assert sizes.held_space(database) is None
    churn(database, root, 12)
    assert len(events.of(EventId.TABLES_SPACE_HELD)) == seen


def test_a_read_that_ends_with_the_next_checkpoint_is_not_told_of(database: Database, events: Events) -> None:
    root = root_of(database)
    churn(database, root, 20)
    for number in range(20):
        with database.read(ACTOR), database.transaction(ACTOR) as txn:
            folders.create(txn, root, f"beside a read {number}")
    assert not events.of(EventId.TABLES_SPACE_HELD)


def test_the_age_of_a_process_is_told_where_the_system_tells_it(tmp_path: Path) -> None:
    age_ms = process_age_ms(os.getpid())
    assert age_ms is not None and age_ms >= 0
    assert process_age_ms(os.getpid(), tmp_path) is None
    (tmp_path / "7").mkdir()
    (tmp_path / "uptime").write_text("100.50 1.0\n")
    fields = " ".join(["S", *["0"] * 18, str(40 * os.sysconf("SC_CLK_TCK")), "0"])
    (tmp_path / "7" / "stat").write_text(f"7 (a ) name) {fields}\n")
    assert process_age_ms(7, tmp_path) == 60_500
    (tmp_path / "7" / "stat").write_text("7 (cut")
    assert process_age_ms(7, tmp_path) is None
