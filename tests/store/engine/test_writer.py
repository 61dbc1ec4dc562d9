"""What a commit promises: durable and visible when it returns, also when others wait for the same flush."""

from __future__ import annotations

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk import env as env_module
from pillarbox.store.disk.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from pillarbox.store.disk.env import Env
from pillarbox.store.disk.stream import Position, Stream
from pillarbox.store.engine import checkpointer as checkpointer_module
from pillarbox.store.engine.checkpointer import CheckpointDue, Tuning
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.engine.group_store import GroupStore
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.engine.turns import Turn
from pillarbox.store.errors import Dismounted, PillarboxError, Retryable
from pillarbox.store.mail import mailboxes
from pillarbox.store.mail.delivery import deliver

if TYPE_CHECKING:
    from conftest import OpenDatabase

ACTOR = Actor.task("test")
ENDLESS = 1000
BESIDE = Tuning(16 << 10, checkpoint_stream_bytes=24 << 10, checkpoint_pages=64)


def create(database: Database, name: str) -> None:
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, name)


def names(database: Database) -> list[str]:
    with database.read(ACTOR) as read:
        return [found.name for found in mailboxes.all_of(read)]


def in_threads(database: Database, count: int) -> list[BaseException]:
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            create(database, f"user {number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


def test_those_who_wait_while_one_flushes_share_the_next_flush(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = 0
    first, go_on, flush = threading.Event(), threading.Event(), os.fdatasync

    def slow(file: int) -> None:
        nonlocal flushes
        flushes += 1
        first.set()
        assert go_on.wait(10)
        flush(file)

    monkeypatch.setattr(os, "fdatasync", slow)
    leader = threading.Thread(target=create, args=(database, "leader"))
    leader.start()
    assert first.wait(10)
    joined = [threading.Thread(target=create, args=(database, f"user {number}")) for number in range(3)]
    for thread in joined:
        thread.start()
    # All three have committed to the pending group when the next transaction's turn sees their names.
    for _ in range(2000):
        with pytest.raises(ZeroDivisionError), database.transaction(ACTOR) as txn:
            waiting = sum(1 for _ in mailboxes.all_of(txn))
            raise ZeroDivisionError
        if waiting == 4:
            break
    assert waiting == 4
    assert names(database) == [], "nothing is seen before it is durable"
    go_on.set()
    for thread in (leader, *joined):
        thread.join(10)
    assert len(names(database)) == 4
    assert flushes == 2


def test_a_delivery_and_a_checkpoint_come_between_transactions_that_never_cease(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While each group is stored, another thread hands over the next."""
    create(database, "anna")
    is_over, end, store = threading.Event(), Turn.end, GroupStore.store
    others: list[threading.Thread] = []
    ended: set[threading.Thread] = set()
    has_ended = threading.Condition()

    def tell(turn: Turn) -> None:
        end(turn)
        with has_ended:
            ended.add(threading.current_thread())
            has_ended.notify_all()

    def hand_over_another() -> None:
        other = threading.Thread(target=create, args=(database, f"user {len(others)}"))
        others.append(other)
        other.start()
        with has_ended:
            assert has_ended.wait_for(lambda: other in ended, 10)

    def store_meanwhile(groups: GroupStore, *given: Any) -> None:
        if not is_over.is_set() and len(others) < ENDLESS:
            hand_over_another()
        store(groups, *given)

    monkeypatch.setattr(Turn, "end", tell)
    monkeypatch.setattr(GroupStore, "store", store_meanwhile)
    hand_over_another()
    deliver(database, ACTOR, "anna", b"Subject: 1\r\n\r\n")
    database.checkpoint()
    is_over.set()
    assert len(others) < ENDLESS
    for thread in others:
        thread.join(10)
    assert len(names(database)) == 1 + len(others)


def test_a_failed_flush_fails_all_of_its_group_and_ends_all_writing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, "before")
    with monkeypatch.context() as patch:

        def fail(file: int) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(os, "fdatasync", fail)
        errors = in_threads(database, 8)
    assert len(errors) == 8
    assert all(isinstance(error, PillarboxError) for error in errors)
    assert database.state is MountState.DISMOUNTED
    database.mount()
    assert names(database) == ["before"]


def test_a_mount_after_a_failed_flush_finds_nothing_left_to_be_cut_off(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread dismounts and mounts as soon as it can, while what failed is being cut off."""
    create(database, "before")
    truncate = Stream.truncate

    def mount_and_create() -> None:
        database.dismount()
        database.mount()
        create(database, "after")

    other = threading.Thread(target=mount_and_create)

    def cut_off(stream: Stream, position: Position) -> None:
        patch.undo()
        other.start()
        other.join(0.5)  # long enough to be done, if it did not wait for this
        truncate(stream, position)

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        patch.setattr(Stream, "truncate", cut_off)
        with pytest.raises(PillarboxError):
            create(database, "failed")
        other.join(60)
    assert names(database) == ["after", "before"]
    database.dismount()
    database.mount()
    assert names(database) == ["after", "before"]


def test_an_interrupted_write_is_acknowledged_to_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = threading.Event()
    interrupt = threading.Event()

    def stop(file: int) -> None:
        started.set()
        assert interrupt.wait(10)
        raise KeyboardInterrupt

    outcomes: list[str] = []

    def run(name: str) -> None:
        try:
            create(database, name)
            outcomes.append("acknowledged")
        except (KeyboardInterrupt, Dismounted):  # the next mount tells whether it happened
            outcomes.append("failed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", stop)
        threads = [threading.Thread(target=run, args=(f"user {number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        assert started.wait(10)
        interrupt.set()
        for thread in threads:
            thread.join(10)
    assert outcomes == ["failed"] * 4
    with pytest.raises(PillarboxError):
        create(database, "after")
    database.dismount()
    database.mount()
    create(database, "after")


def test_a_transaction_begun_before_a_write_failed_writes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fdatasync
    flushing, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def fail_first(file: int) -> None:
        calls.append(file)
        if len(calls) > 1:
            return flush(file)
        flushing.set()
        assert go_on.wait(10)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail_first)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            create(database, "lost")
        except PillarboxError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert flushing.wait(10)
    with pytest.raises(PillarboxError), database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "stands on what was lost")
        go_on.set()
    thread.join(10)
    assert len(failed) == 1 and len(calls) == 1
    database.dismount()
    database.mount()
    assert names(database) == []


def test_a_dismount_whose_last_checkpoint_raises_what_nobody_foresaw_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody has removed the files of a database that is mounted."""
    create(database, "anna")

    def gone(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(checkpointer_module.Checkpointer, "make", gone)
    raised: list[BaseException] = []

    def dismount() -> None:
        try:
            database.dismount()
        except PillarboxError as error:
            raised.append(error)

    thread = threading.Thread(target=dismount, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and "No such file" in str(raised[0])
    assert database.state is MountState.DISMOUNTED
    monkeypatch.undo()
    database.mount()
    assert names(database) == ["anna"]


def test_pausing_holds_changes_but_no_reads(database: Database) -> None:
    create(database, "anna")
    thread = threading.Thread(target=create, args=(database, "berta"))
    with database.paused() as flushed:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert names(database) == ["anna"]
        with database.read(ACTOR) as read:
            assert read.state().sequence == flushed.sequence
    thread.join(10)
    assert names(database) == ["anna", "berta"]


def test_pausing_gives_up_on_a_transaction_that_stays_open_and_changes_go_on(database: Database) -> None:
    refused: list[PillarboxError] = []

    def pause() -> None:
        try:
            with database.paused(timeout_ms=20):
                pass
        except Retryable as error:
            refused.append(error)

    with database.transaction(ACTOR) as txn:
        thread = threading.Thread(target=pause)
        thread.start()
        thread.join(10)
        assert len(refused) == 1
        mailboxes.create(txn, "anna")
    create(database, "berta")
    with database.paused(timeout_ms=10_000):
        assert names(database) == ["anna", "berta"]


def test_a_full_map_grows_while_threads_write_and_make_checkpoints(
    tmp_path: Path, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env_module, "MAP_BYTES_DEFAULT", 128 << 10)
    database = open_database(tmp_path / "small")
    stop = threading.Event()

    def make_checkpoints() -> None:
        while not stop.is_set():
            database.checkpoint()

    thread = threading.Thread(target=make_checkpoints)
    thread.start()
    try:
        errors = in_threads(database, 60)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert errors == []
    assert database.files.env.file_bytes() > 128 << 10
    assert len(names(database)) == 60


def test_a_transaction_many_times_as_large_as_the_map_is_applied(
    tmp_path: Path, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env_module, "MAP_BYTES_DEFAULT", 128 << 10)
    database = open_database(tmp_path / "small")
    wanted = [f"user {number:03d}" for number in range(200)]
    with database.transaction(ACTOR) as txn:
        for name in wanted:
            mailboxes.create(txn, name)
    assert names(database) == wanted
    assert database.files.env.file_bytes() > 4 * (128 << 10)


def test_checkpoints_bound_what_a_mount_replays(database: Database) -> None:
    for number in range(40):
        create(database, f"user {number}")
    with database.read(ACTOR) as read:
        behind = read.state().sequence - read_checkpoint(database.path).sequence
    assert 0 <= behind < 40


def test_segments_roll_at_their_size(database: Database) -> None:
    for number in range(60):
        create(database, f"user {number}")
    assert len(database.stream.segments()) > 1
    database.dismount()
    database.mount()
    assert len(names(database)) == 60


def test_changes_go_on_while_a_checkpoint_is_made_and_another_waits_for_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Path, checkpoint: Checkpoint) -> None:
        begun.set()
        assert go_on.wait(60)
        write_checkpoint(path, checkpoint)

    monkeypatch.setattr(checkpointer_module, "write_checkpoint", slow)
    both = [threading.Thread(target=database.checkpoint) for _ in range(2)]
    try:
        both[0].start()
        assert begun.wait(10)
        both[1].start()
        both[1].join(0.05)
        assert both[1].is_alive()
        assert in_threads(database, 20) == []
    finally:
        go_on.set()
        for thread in both:
            thread.join(60)
    assert len(names(database)) == 20


def test_commits_go_on_beside_a_checkpoint_that_came_due_and_a_dismount_waits_for_it(
    open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(tuning=BESIDE)
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Path, checkpoint: Checkpoint) -> None:
        begun.set()
        assert go_on.wait(60)
        write_checkpoint(path, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer_module, "write_checkpoint", slow)
        before = read_checkpoint(database.path)
        count = 0
        while not begun.is_set():
            create(database, f"user {count}")
            count += 1
        create(database, "beside")
        assert read_checkpoint(database.path) == before
        leaving = threading.Thread(target=database.dismount)
        leaving.start()
        leaving.join(0.05)
        assert leaving.is_alive()
        go_on.set()
        leaving.join(60)
    assert read_checkpoint(database.path).clean
    database.mount()
    assert len(names(database)) == count + 1


def test_commits_wait_for_a_disk_that_falls_far_behind(
    open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(tuning=BESIDE)
    waited = threading.Event()
    wait = checkpointer_module.Checkpointer.wait

    def told(checkpointer: checkpointer_module.Checkpointer) -> None:
        waited.set()
        wait(checkpointer)

    def slow(path: Path, checkpoint: Checkpoint) -> None:
        waited.wait(60)
        write_checkpoint(path, checkpoint)

    monkeypatch.setattr(checkpointer_module.Checkpointer, "wait", told)
    monkeypatch.setattr(checkpointer_module, "write_checkpoint", slow)
    count = 0
    while not waited.is_set() and count < 2000:
        create(database, f"user {count}")
        count += 1
    assert waited.is_set()
    assert len(names(database)) == count


class PagesOfTables:
    """As much of `Env` as tells when a checkpoint is due."""

    last = 10_000
    used = 10_000

    def last_page(self) -> int:
        return self.last

    def pages_used_and_total(self) -> tuple[int, int]:
        return self.used, self.last


@pytest.mark.parametrize(("used", "due_after"), [(10_000, 1250), (500, 1)], ids=["full", "much is free"])
def test_writers_wait_for_a_checkpoint_only_when_the_file_grew_by_far_more(used: int, due_after: int) -> None:
    tables = PagesOfTables()
    tables.used = used
    due = CheckpointDue(Tuning(), cast(Env, tables), VirtualClock())
    due.made(Position(1, 40))
    far_behind = due_after + 3 * max(1024, used // 8)
    for grown, is_due, is_behind in [
        (due_after - 1, False, False),
        (due_after, True, False),
        (far_behind - 1, True, False),
        (far_behind, True, True),
    ]:
        tables.last = 10_000 + grown
        assert due.is_due(Position(1, 40), 1) is is_due
        assert due.is_due(Position(1, 40), 4) is is_behind


def test_a_checkpoint_that_cannot_read_the_tables_file_fails_and_changes_go_on(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(database.files.env, "_data", tmp_path / "missing")
        with pytest.raises(PillarboxError, match="No such file"):
            database.checkpoint()
        create(database, "after")
    database.checkpoint()
    assert names(database) == ["after"]


def test_a_checkpoint_is_made_once_where_its_thread_is_not_begun_for_sure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def begun_and_out_of_memory(thread: threading.Thread) -> None:
        if thread.name != "pillarbox-checkpoint":
            return start(thread)
        if number:
            start(thread)
            thread.join()
        raise MemoryError

    for number in range(2):
        create(database, f"before {number}")
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", begun_and_out_of_memory)
            database.checkpoint()
        assert read_checkpoint(database.path).sequence == database_sequence(database)
    create(database, "after")
    database.dismount()
    database.mount()
    assert sorted(names(database)) == ["after", "before 0", "before 1"]


def database_sequence(database: Database) -> int:
    with database.read(ACTOR) as read:
        return read.state().sequence


def test_a_checkpoint_that_is_made_is_not_told_as_failed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, "before")
    with monkeypatch.context() as patched:

        def too_many(_: Env) -> int:
            raise Retryable("too many reads are open")

        patched.setattr(Env, "last_page", too_many)
        database.checkpoint()
    assert read_checkpoint(database.path).sequence == database_sequence(database)


def test_each_caller_of_a_writer_that_takes_no_more_gets_an_error_of_its_own(database: Database) -> None:
    writer = database._writing()
    writer._groups.broken = Dismounted("a write was interrupted")
    told = []
    for _ in range(2):
        turn = writer.new_turn()
        with pytest.raises(Dismounted, match="interrupted") as raised:
            writer.begin(turn, ACTOR)
        turn.end()
        told.append(raised.value)
    assert told[0] is not told[1]


def test_however_many_changes_fail_each_is_made_twice_at_most(database: Database) -> None:
    made: Counter[int] = Counter()
    prepared: SimpleQueue[int] = SimpleQueue()

    def change(number: int) -> bool:
        def make(txn: WriteTransaction, _: object) -> bool:
            made[number] += 1
            if number % 2:
                raise ZeroDivisionError
            mailboxes.create(txn, f"box {number:02}")
            return True

        try:
            return database.change(ACTOR, lambda: prepared.put(number), make, 1)
        except ZeroDivisionError:
            return False

    with ThreadPoolExecutor(40) as pool:
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, "first")
            outcomes = [pool.submit(change, number) for number in range(40)]
            for _ in outcomes:
                prepared.get(timeout=20)
        assert [outcome.result(20) for outcome in outcomes] == [True, False] * 20
    assert len(names(database)) == 21
    assert set(made.values()) <= {1, 2}


def test_a_checkpoint_that_fails_as_nobody_foresaw_ends_in_a_dismount(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_: Env) -> None:
        raise LookupError("a fault of the program")

    create(database, "before")
    with monkeypatch.context() as patched:
        patched.setattr(Env, "pin", fault)
        with pytest.raises(Dismounted):
            database.checkpoint()
        ending = threading.Thread(target=database.dismount, daemon=True)
        ending.start()
        ending.join(30)
        assert not ending.is_alive()
    database.mount()
    assert names(database) == ["before"]


def test_a_dismount_that_fails_as_nobody_foresaw_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_: Env) -> None:
        raise LookupError("a fault of the program")

    told: list[BaseException] = []

    def dismount() -> None:
        try:
            database.dismount()
        except PillarboxError as error:
            told.append(error)

    create(database, "before")
    with monkeypatch.context() as patched:
        patched.setattr(Env, "pin", fault)
        ending = threading.Thread(target=dismount, daemon=True)
        ending.start()
        ending.join(30)
        assert not ending.is_alive()
    assert len(told) == 1 and database.state is MountState.DISMOUNTED
    database.mount()
    assert names(database) == ["before"]
