"""Interrupts, failed flushes and forks: what was acknowledged is there, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.env import Env
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine import checkpointer as checkpointer_module
from pillarbox.store.engine import content_transfer
from pillarbox.store.engine import database as database_module
from pillarbox.store.engine.commits import Commits
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.errors import DiskFull, Dismounted, InvalidSetting, PillarboxError, Refused, Retryable
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.mail.delivery import deliver
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
PAGE = 4096


def opened(path: Path, number: int = 1) -> Database:
    return Database(path, bytes([number]) * 16, "DB", DatabaseKind.MAILBOX_STORE)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = opened(tmp_path / "database")
    made.create()
    made.mount()
    yield made
    made.dismount()


@pytest.fixture
def anna(database: Database) -> bytes:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, "anna").guid


def raw_of(number: int) -> bytes:
    return b"Subject: %d\r\n\r\nbody %d" % (number, number)


def messages_of(database: Database, guid: bytes) -> list[bytes]:
    with database.read(ACTOR) as read:
        inbox = mailboxes.get(read, guid).roles[mailboxes.INBOX]
        return [messages.content(read, item) for item in folders.messages(read, inbox)]


class SlowFlush:
    """Holds the next flush of the stream until `go_on`, and may have it fail."""

    def __init__(self, patch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        real = os.fdatasync

        def flush(file: int) -> None:
            if not self.entered.is_set():
                self.entered.set()
                assert self.go_on.wait(20)
                if error is not None:
                    raise error
            real(file)

        patch.setattr(os, "fdatasync", flush)


# -- a flush of the tables that fails


class Disk:
    """What is on the disk of a database's tables, by the rules of Linux: after a flush that failed the system
    takes the pages for written, and the next flush brings only what was changed since."""

    def __init__(self, env: Any, data: Path) -> None:
        self._env, self._data = env, data
        self._known = self.pages = self._now()
        self.fails = False

    def _now(self) -> list[bytes]:
        data = self._data.read_bytes()
        return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]

    def sync(self, force: bool = False) -> None:
        now, fails = self._now(), self.fails
        on_disk = self.pages + [bytes(PAGE)] * (len(now) - len(self.pages))
        if not fails:
            for at, page in enumerate(now):
                if at >= len(self._known) or self._known[at] != page:
                    on_disk[at] = page
        self.pages, self._known, self.fails = on_disk, now, False
        if fails:
            raise lmdb.Error("Input/output error")
        self._env.sync(force)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


@pytest.mark.parametrize("remounts", [False, True])
def test_a_flush_of_the_tables_that_failed_is_never_believed(
    database: Database, anna: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remounts: bool
) -> None:
    acknowledged = [raw_of(number) for number in range(330)]
    for raw in acknowledged[:300]:
        deliver(database, ACTOR, [anna], raw)
    database.checkpoint()
    data = database.path / "properties" / "data.mdb"
    disk = Disk(database.files.env._env, data)
    database.files.env._env = disk
    for raw in acknowledged[300:]:
        deliver(database, ACTOR, [anna], raw)
    disk.fails = True
    with pytest.raises(PillarboxError, match="flush failed"):
        database.checkpoint()
    assert database.state is MountState.DISMOUNTED
    with pytest.raises(Dismounted):
        deliver(database, ACTOR, [anna], b"more")
    if remounts:
        put_back: list[Path] = []
        real = database_module.put_back_meta_pages
        with monkeypatch.context() as patch:
            patch.setattr(
                database_module,
                "put_back_meta_pages",
                lambda path, pages: (put_back.append(path), real(path, pages)),
            )
            database.mount()
        assert put_back == [database.path / "properties"]
        assert messages_of(database, anna) == acknowledged
        return
    lost = tmp_path / "after the power loss"
    shutil.copytree(database.path, lost)
    (lost / "properties" / "data.mdb").write_bytes(b"".join(disk.pages))
    (lost / "properties" / "lock.mdb").unlink()
    monkeypatch.setattr(database_module, "boot_identity", lambda: b"another boot of ")
    again = opened(lost)
    again.mount()
    assert messages_of(again, anna) == acknowledged
    assert check_database(again, ACTOR).clean
    again.dismount()


def test_after_a_flush_that_failed_the_same_tables_are_not_flushed_again(tmp_path: Path) -> None:
    env = Env(tmp_path / "properties", create=True)
    env._env = Disk(env._env, tmp_path / "properties" / "data.mdb")
    env._env.fails = True
    for _ in range(2):
        with pytest.raises(PillarboxError, match="flush failed"):
            env.sync()
    env.close()


# -- interrupts


class Interrupt:
    """Interrupts the main thread once. A signal just before it waits is only seen with the next one."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self._before = signal.signal(signal.SIGUSR1, self._raise_once)

    def _raise_once(self, *_: object) -> None:
        if not self.came.is_set():
            self.came.set()
            raise KeyboardInterrupt

    def send(self) -> None:
        while not self.came.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def close(self) -> None:
        signal.signal(signal.SIGUSR1, self._before)


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    with closing(Interrupt()) as made:
        yield made


def test_a_delivery_that_is_interrupted_while_it_waits_is_made(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch, interrupt: Interrupt
) -> None:
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        flush = SlowFlush(patch)
        interrupted = pool.submit(lambda: (flush.entered.wait(20), interrupt.send()))
        with pytest.raises(KeyboardInterrupt):
            deliver(database, ACTOR, [anna], raw_of(1))
        interrupted.result(20)
        flush.go_on.set()
    deliver(database, ACTOR, [anna], raw_of(2))
    assert messages_of(database, anna) == [raw_of(1), raw_of(2)]


def test_a_dismount_that_is_interrupted_while_it_waits_goes_on(
    database: Database, interrupt: Interrupt
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def change() -> None:
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, "bert")
            begun.set()
            assert go_on.wait(20)

    with ThreadPoolExecutor(2) as pool:
        changing = pool.submit(change)
        assert begun.wait(20)
        pool.submit(interrupt.send)
        with pytest.raises(KeyboardInterrupt):
            database.dismount()
        go_on.set()
        changing.result(20)
    database.dismount()
    assert database.state is MountState.DISMOUNTED
    database.mount()
    with database.read(ACTOR) as read:
        assert mailboxes.find(read, "bert")


def test_a_dismount_waits_for_those_that_write_also_when_a_write_failed(
    database: Database, anna: bytes
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Dismounted), database.transaction(ACTOR) as txn:
            mailboxes.create(txn, "bert")
            assert database._writer is not None
            database._writer._groups.broken = PillarboxError("a write failed elsewhere")
            dismounting = pool.submit(database.dismount)
            with pytest.raises(TimeoutError):
                dismounting.result(0.2)
        dismounting.result(20)
    database.mount()
    assert deliver(database, ACTOR, [anna], raw_of(1))


@pytest.mark.parametrize("handed_over", [False, True])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_transaction_that_is_interrupted_as_it_is_handed_over_is_made_or_not_and_others_go_on(
    database: Database,
    anna: bytes,
    monkeypatch: pytest.MonkeyPatch,
    handed_over: bool,
    error: type[BaseException],
) -> None:
    hand_over = Commits.hand_over

    def interrupted(commits: Commits, *transaction: Any) -> None:
        if handed_over:
            hand_over(commits, *transaction)
        raise error

    deliver(database, ACTOR, [anna], raw_of(1))
    with monkeypatch.context() as patch:
        patch.setattr(Commits, "hand_over", interrupted)
        with pytest.raises(error), database.transaction(ACTOR) as txn:
            messages.deliver(txn, [anna], messages.prepare(database.files, raw_of(2)))
    deliver(database, ACTOR, [anna], raw_of(3))
    assert messages_of(database, anna) == [raw_of(1), *[raw_of(2)] * handed_over, raw_of(3)]
    assert check_database(database, ACTOR).clean


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_stops_the_writer_is_told_to_all_and_the_database_dismounts(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def stopped(*_: Any) -> None:
        raise error

    deliver(database, ACTOR, [anna], raw_of(1))
    with monkeypatch.context() as patch, ThreadPoolExecutor(3) as pool:
        with database.paused():
            waiting = [run(pool, lambda: deliver(database, ACTOR, [anna], raw_of(2))) for _ in range(3)]
            patch.setattr(Commits, "next_group", stopped)
        assert [type(each.result(20)) for each in waiting] == [Dismounted] * 3
    assert database.state is MountState.DISMOUNTED
    assert "interrupted" in database.dismount_reason
    database.mount()
    deliver(database, ACTOR, [anna], raw_of(3))
    assert raw_of(1) in messages_of(database, anna)
    assert check_database(database, ACTOR).clean


def test_a_mount_that_fails_has_let_nobody_write(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.dismount()
    tried: list[BaseException] = []

    def full(path: Path, checkpoint: Any) -> None:
        try:
            with database.transaction(ACTOR) as txn:
                mailboxes.create(txn, "bert")
        except BaseException as error:
            tried.append(error)
        raise DiskFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer_module, "write_checkpoint", full)
        with pytest.raises(DiskFull):
            database.mount()
    assert {type(error) for error in tried} == {Dismounted}
    database.mount()
    assert deliver(database, ACTOR, [anna], raw_of(1))


# -- what a transaction sees that is not durable yet


def run(pool: ThreadPoolExecutor, call: Callable[[], Any]) -> Future[Any]:
    def outcome() -> Any:
        try:
            return call()
        except PillarboxError as error:
            return error

    return pool.submit(outcome)


def test_a_transaction_that_changes_nothing_is_as_durable_as_what_it_saw(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = deliver(database, ACTOR, [anna], raw_of(1))

    def flag() -> str:
        with database.transaction(ACTOR) as txn:
            messages.set_flags(txn, item.message_id, add=["\\Seen"])
        return "acknowledged"

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        flush = SlowFlush(patch, OSError(5, "Input/output error"))
        first = run(pool, flag)
        assert flush.entered.wait(20)
        second = run(pool, flag)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        flush.go_on.set()
        assert isinstance(first.result(20), PillarboxError)
        assert isinstance(second.result(20), PillarboxError)
    database.mount()
    with database.read(ACTOR) as read:
        assert not messages.flag_names(messages.get(read, item.message_id))


def test_content_that_is_not_flushed_yet_is_read_in_a_transaction(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        flush = SlowFlush(patch)
        waits = pool.submit(deliver, database, ACTOR, [anna], raw_of(1))
        assert flush.entered.wait(20)
        try:
            with database.transaction(ACTOR) as txn:
                messages.deliver(txn, [anna], messages.prepare(database.files, raw_of(2)))
                inbox = mailboxes.get(txn, anna).roles[mailboxes.INBOX]
                read = [messages.content(txn, item) for item in folders.messages(txn, inbox)]
                assert read == [raw_of(1), raw_of(2)]
                flush.go_on.set()
        finally:
            flush.go_on.set()
        waits.result(20)


def test_content_that_was_freed_in_a_commit_that_waits_is_fetched_again(
    database: Database, anna: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = opened(tmp_path / "target", 2)
    target.create()
    target.mount()
    with target.transaction(ACTOR) as txn:
        bert = mailboxes.create(txn, "bert").guid
    (held,) = deliver(target, ACTOR, [bert], raw_of(1))
    deliver(database, ACTOR, [anna], raw_of(1))

    def delete() -> None:
        with target.transaction(ACTOR) as txn:
            messages.delete(txn, held.message_id)

    with database.read(ACTOR) as source, target.read(ACTOR) as before:
        fetched = content_transfer.fetch(source, before, held.digest, {})
        with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
            flush = SlowFlush(patch)
            deleting = pool.submit(delete)
            assert flush.entered.wait(20)
            try:
                with target.transaction(ACTOR) as txn:
                    content_transfer.hold(txn, source, fetched)
                    messages.place(txn, folders.get(txn, held.folder_id), held._replace(uid=2, message_id=99))
                    flush.go_on.set()
            finally:
                flush.go_on.set()
            deleting.result(20)
    assert messages_of(target, bert) == [raw_of(1)]
    target.dismount()


# -- each has its own outcome


def test_a_delivery_that_cannot_be_stored_costs_the_others_nothing(database: Database, anna: bytes) -> None:
    ready = threading.Barrier(5)

    def deliver_some(number: int) -> list[str]:
        ready.wait()
        received_ms = 2**64 if number == 0 else 0
        told = []
        for at in range(20):
            try:
                deliver(database, ACTOR, [anna], raw_of(100 * number + at), received_ms=received_ms)
                told.append("acknowledged")
            except InvalidSetting:
                told.append("refused")
        return told

    with ThreadPoolExecutor(5) as pool:
        bad, *good = pool.map(deliver_some, range(5))
    assert bad == ["refused"] * 20
    assert good == [["acknowledged"] * 20] * 4
    assert len(messages_of(database, anna)) == 80


def test_what_an_aborted_transaction_did_to_a_record_is_not_kept(database: Database, anna: bytes) -> None:
    deliver(database, ACTOR, [anna], raw_of(1))
    with pytest.raises(ZeroDivisionError), database.transaction(ACTOR) as txn:
        mailboxes.get(txn, anna).properties["note"] = "never committed"
        raise ZeroDivisionError
    told = [1]
    with database.transaction(ACTOR) as txn:
        mailboxes.set_property(txn, anna, "told", told)
    told.append(2)
    deliver(database, ACTOR, [anna], raw_of(2))
    with database.read(ACTOR) as read:
        assert mailboxes.get(read, anna).properties == {"told": (1,)}


def test_a_transaction_that_has_ended_takes_no_change(database: Database, anna: bytes) -> None:
    with database.transaction(ACTOR) as txn:
        (item,) = messages.deliver(txn, [anna], messages.prepare(database.files, raw_of(1)))
    for change in (
        lambda: messages.set_flags(txn, item.message_id, add=["\\Flagged"]),
        lambda: messages.delete(txn, item.message_id),
        lambda: mailboxes.create(txn, "bert"),
    ):
        with pytest.raises(Refused, match="has ended"):
            change()


@pytest.mark.parametrize("name", ["checkpoint", "dismount", "paused"])
def test_within_a_transaction_nothing_waits_for_its_end(database: Database, anna: bytes, name: str) -> None:
    with database.transaction(ACTOR) as txn, pytest.raises(Refused, match="transaction open"):
        if name == "paused":
            with database.paused():
                raise AssertionError
        getattr(database, name)()
    assert txn
    assert deliver(database, ACTOR, [anna], raw_of(1))


def test_a_full_disk_takes_a_delete_once_a_checkpoint_has_made_room(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = deliver(database, ACTOR, [anna], raw_of(1))
    real, calls = Env.apply, []

    def full_once(env: Env, changes: Any, before_commit: Any = None) -> None:
        calls.append(changes)
        if len(calls) == 1:
            raise DiskFull("no space left")
        real(env, changes, before_commit)

    monkeypatch.setattr(Env, "apply", full_once)
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, item.message_id)
    assert len(calls) == 2
    assert messages_of(database, anna) == []


def test_a_forked_process_has_nothing_of_its_parents_mounted(database: Database, anna: bytes) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            deliver(database, ACTOR, [anna], raw_of(1))
        except Dismounted:
            try:
                Database(database.path, database.guid, "DB", database.kind).mount(read_only=True)
            except Refused as error:
                code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    deliver(database, ACTOR, [anna], raw_of(2))
    database.dismount()
    database.mount()
    assert messages_of(database, anna) == [raw_of(2)]


def test_a_transaction_that_another_thread_ends_lets_the_next_begin(database: Database, anna: bytes) -> None:
    def opened() -> Iterator[None]:
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, "bert")
            yield

    steps = opened()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(next, steps).result(20)
    steps.close()  # type: ignore[attr-defined]
    assert deliver(database, ACTOR, [anna], raw_of(1))


def test_a_full_disk_that_cannot_make_a_checkpoint_either_is_a_full_disk(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(env: Env, changes: Any, before_commit: Any = None) -> None:
        raise DiskFull("no space left")

    def no_more_reads(env: Env) -> None:
        raise PillarboxError("as many reads as there can be")

    with monkeypatch.context() as patch:
        patch.setattr(Env, "apply", full)
        patch.setattr(Env, "pin", no_more_reads)
        with pytest.raises(DiskFull):
            deliver(database, ACTOR, [anna], raw_of(1))
    assert database.state is MountState.MOUNTED
    assert deliver(database, ACTOR, [anna], raw_of(2))


def test_tables_that_another_process_reads_are_not_put_back_under_it(
    database: Database, anna: bytes, tmp_path: Path
) -> None:
    acknowledged = [raw_of(number) for number in range(7)]
    database.checkpoint()
    for raw in acknowledged:
        deliver(database, ACTOR, [anna], raw)
    database.files.env._env = disk = Disk(database.files.env._env, database.path / "properties" / "data.mdb")
    reader = subprocess.Popen(
        [sys.executable, "-c", _READS, str(database.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None and reader.stdout.readline() == b"reading\n"
    disk.fails = True
    with pytest.raises(PillarboxError, match="flush failed"):
        database.checkpoint()
    with pytest.raises(Retryable, match="another process"):
        database.mount()
    reader.communicate()
    database.mount()
    assert messages_of(database, anna) == acknowledged


_READS = """
import sys
import lmdb
with lmdb.open(sys.argv[1] + "/properties", readonly=True, max_dbs=30) as env, env.begin():
    print("reading", flush=True)
    sys.stdin.read()
"""
