"""The disk says no: the caller gets an error, nothing acknowledged is lost, the store goes on or refuses."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.env import Env, MapFull
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.errors import Corrupt, DiskFull, Dismounted, PillarboxError, Retryable
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
GUID = b"fault-test-store"
TUNING = Tuning(32 << 10, checkpoint_stream_bytes=64 << 10, checkpoint_pages=64, checkpoint_beside=False)


def raw_of(number: int, body_bytes: int = 3000) -> bytes:
    return b"Subject: %d\r\n\r\n" % number + bytes((at * number) % 251 for at in range(body_bytes))


class Deliveries:
    """Delivers to one Inbox and remembers what was acknowledged."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.acknowledged: dict[int, bytes] = {}
        self.number = 0
        with database.transaction(ACTOR) as txn:
            self.inbox = mailboxes.create(txn, "anna").roles["inbox"]

    def deliver(self, body_bytes: int = 3000) -> int:
        self.number += 1
        raw = raw_of(self.number, body_bytes)
        prepared = messages.prepare(self.database.files, raw)
        with self.database.transaction(ACTOR) as txn:
            item = messages.append(txn, self.inbox, prepared)
        self.acknowledged[item.message_id] = raw
        return item.message_id

    def prove(self) -> None:
        """Exactly what was acknowledged is there, and the database is whole."""
        with self.database.read(ACTOR) as read:
            items = list(folders.messages(read, self.inbox))
            assert {item.message_id: messages.content(read, item) for item in items} == self.acknowledged
        report = check_database(self.database, ACTOR)
        assert report.clean, report

    def mount_again(self) -> None:
        self.database.dismount()
        self.database.mount()


@pytest.fixture
def deliveries(tmp_path: Path) -> Iterator[Deliveries]:
    database = new_database(tmp_path / "database")
    database.create()
    database.mount()
    yield Deliveries(database)
    database.dismount()


def new_database(path: Path) -> Database:
    return Database(path, GUID, "DB", DatabaseKind.MAILBOX_STORE, tuning=TUNING)


def fail_at(patch: pytest.MonkeyPatch, call: str, number: int, code: int) -> None:
    """Make the `number`th call (from 1) of a function of `os` fail once."""
    real, calls = getattr(os, call), 0

    def injected(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(code, os.strerror(code))
        return real(*args)

    patch.setattr(os, call, injected)


@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate"])
@pytest.mark.parametrize("number", range(1, 8))
def test_a_full_disk_refuses_one_delivery_and_the_store_goes_on(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    deliveries.deliver()
    refused = 0
    with monkeypatch.context() as patch:
        fail_at(patch, call, number, errno.ENOSPC)
        for _ in range(30):
            try:
                deliveries.deliver(6000)
            except DiskFull:
                refused += 1
    assert refused <= 1
    assert refused == 1 or call == "posix_fallocate"
    assert deliveries.database.state is MountState.MOUNTED
    deliveries.prove()
    deliveries.mount_again()
    deliveries.deliver()
    deliveries.prove()


def test_half_a_write_before_the_disk_was_full_is_cut_off(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries.deliver()
    real = os.pwrite

    def half(file: int, data: Any, offset: int) -> int:
        if len(data) < 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[: len(data) // 2], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(DiskFull):
            deliveries.deliver()
    deliveries.deliver()
    deliveries.mount_again()
    deliveries.prove()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_after_a_failed_flush_the_database_dismounts_and_a_mount_has_all_that_was_acknowledged(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        fail_at(patch, "fdatasync", number, code)
        with pytest.raises(PillarboxError) as caught:
            for _ in range(number):
                deliveries.deliver()
        assert "flush failed" in str(caught.value)
    assert deliveries.database.state is MountState.DISMOUNTED
    assert len(deliveries.acknowledged) == number - 1
    with pytest.raises(Dismounted, match="a write failed"):
        deliveries.deliver()
    deliveries.database.mount()
    deliveries.prove()
    deliveries.deliver()
    deliveries.prove()


def test_a_group_that_the_tables_do_not_take_never_happened(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(env: Env, changes: object, before_commit: object) -> None:
        raise PillarboxError("the tables take nothing")

    deliveries.deliver()
    with monkeypatch.context() as patch:
        patch.setattr(Env, "apply", fail)
        with pytest.raises(PillarboxError, match="take nothing"):
            deliveries.deliver()
    assert deliveries.database.state is MountState.DISMOUNTED
    deliveries.database.mount()
    deliveries.prove()


def test_a_group_that_the_tables_took_before_they_failed_is_there_after_a_mount(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Env.apply

    def fail(env: Env, changes: Any, before_commit: Any) -> None:
        real(env, changes, before_commit)
        raise PillarboxError("the tables broke")

    deliveries.deliver()
    before = dict(deliveries.acknowledged)
    with monkeypatch.context() as patch:
        patch.setattr(Env, "apply", fail)
        with pytest.raises(Dismounted, match="durable"):
            deliveries.deliver()
    deliveries.database.mount()
    with deliveries.database.read(ACTOR) as read:
        items = list(folders.messages(read, deliveries.inbox))
        found = {item.message_id: messages.content(read, item) for item in items}
    assert before.items() < found.items() and len(found) == len(before) + 1
    assert check_database(deliveries.database, ACTOR).clean


def full_once(patch: pytest.MonkeyPatch, *, after_the_flush: bool) -> None:
    """Have the map full for one group: before its flush, or only as LMDB commits it."""
    real, calls = Env.apply, 0

    def full(env: Env, changes: Any, before_commit: Any = None) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            if after_the_flush:
                before_commit()
            raise MapFull("the map is full")
        real(env, changes, before_commit)

    patch.setattr(Env, "apply", full)


@pytest.mark.parametrize("after_the_flush", [False, True], ids=["before the flush", "at the commit"])
def test_a_group_waits_for_the_map_to_grow(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, after_the_flush: bool
) -> None:
    deliveries.deliver()
    map_bytes = deliveries.database.files.env._env.info()["map_size"]
    with monkeypatch.context() as patch:
        full_once(patch, after_the_flush=after_the_flush)
        deliveries.deliver()
    assert deliveries.database.files.env._env.info()["map_size"] == 2 * map_bytes
    deliveries.prove()
    deliveries.mount_again()
    deliveries.prove()


@pytest.mark.parametrize("after_the_flush", [False, True], ids=["before the flush", "at the commit"])
def test_a_group_for_which_the_map_cannot_grow_never_happened(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, after_the_flush: bool
) -> None:
    def held(env: Env, patience_s: float) -> None:
        raise Retryable("snapshots are held open")

    deliveries.deliver()
    with monkeypatch.context() as patch:
        full_once(patch, after_the_flush=after_the_flush)
        patch.setattr(Env, "grow", held)
        with pytest.raises(Retryable, match="held open"):
            deliveries.deliver()
    assert deliveries.database.state is MountState.DISMOUNTED
    deliveries.database.mount()
    deliveries.prove()
    deliveries.deliver()
    deliveries.prove()


@pytest.mark.parametrize("number", range(1, 6))
def test_a_checkpoint_that_fails_loses_nothing(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    deliveries.deliver()
    with monkeypatch.context() as patch:
        fail_at(patch, "fsync", number, errno.EIO)
        for _ in range(3):
            try:
                deliveries.database.checkpoint()
            except PillarboxError:
                continue
    deliveries.deliver()
    deliveries.prove()
    deliveries.mount_again()
    deliveries.prove()


# -- damaged bytes


def test_a_flipped_byte_of_a_message_is_found_when_it_is_read_and_others_go_on(
    deliveries: Deliveries,
) -> None:
    good, bad = deliveries.deliver(), deliveries.deliver()
    with deliveries.database.read(ACTOR) as read:
        item = messages.get(read, bad)
        record = messages.content_store.content_record(read, item.digest)
    path = deliveries.database.stream.path(record.segment)
    deliveries.database.dismount()
    with path.open("r+b") as file:
        file.seek(record.offset + record.length // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    deliveries.database.mount()
    with deliveries.database.read(ACTOR) as read:
        assert messages.content(read, messages.get(read, good)) == deliveries.acknowledged[good]
        with pytest.raises(Corrupt) as caught:
            messages.content(read, messages.get(read, bad))
    assert str(path) in caught.value.file
    assert str(record.offset) in str(caught.value)
    assert not check_database(deliveries.database, ACTOR).clean


def test_a_flipped_byte_in_any_page_of_the_tables_is_never_served(deliveries: Deliveries) -> None:
    for _ in range(6):
        deliveries.deliver()
    deliveries.database.dismount()
    data = deliveries.database.path / "properties" / "data.mdb"
    original = data.read_bytes()
    found = 0
    for page in range(2, len(original) // 4096):
        damaged = bytearray(original)
        middle = page * 4096 + 4000
        damaged[middle] ^= 0x40
        data.write_bytes(damaged)
        found += damage_is_found(deliveries)
    data.write_bytes(original)
    deliveries.database.mount()
    deliveries.prove()
    assert found > 0


def damage_is_found(deliveries: Deliveries) -> bool:
    """Whether reading all raised; when it did not, what was read must be right."""
    try:
        deliveries.database.mount()
        with deliveries.database.read(ACTOR) as read:
            items = list(folders.messages(read, deliveries.inbox))
            held = {item.message_id: messages.content(read, item) for item in items}
    except Corrupt as error:
        assert error.table or error.file
        return True
    finally:
        deliveries.database.dismount()
    assert held == deliveries.acknowledged
    return False


# -- a disk that is really full, and a kernel that really fails


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_disk_that_is_full_refuses_deliveries_and_takes_them_again_when_there_is_space(
    small_disk: Path,
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    database = new_database(small_disk / "database")
    database.create()
    database.mount()
    deliveries = Deliveries(database)
    refused = 0
    while refused < 20:
        try:
            deliveries.deliver(60_000)
        except PillarboxError:
            # LMDB tells a full disk from a broken one only when not even a part of a write was done.
            refused += 1
            database.mount()
    assert deliveries.acknowledged
    deliveries.prove()
    ballast.unlink()
    deliveries.deliver()
    deliveries.prove()
    deliveries.mount_again()
    deliveries.prove()
    database.dismount()


CHILD = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_disk_errors import ACTOR, Deliveries, new_database
from pillarbox.store.errors import PillarboxError

database = new_database(Path(sys.argv[1]))
database.mount()
deliveries = Deliveries(database)
try:
    for _ in range(10):
        deliveries.deliver()
        print(max(deliveries.acknowledged), flush=True)
except PillarboxError as error:
    print("refused", type(error).__name__, database.state.name, flush=True)
"""


@pytest.mark.parametrize(
    ("trace", "expected"),
    [("fdatasync:error=EIO:when=6", "DISMOUNTED"), ("pwrite64:error=ENOSPC:when=8+", "DiskFull")],
)
def test_a_system_call_that_fails_in_the_kernel(tmp_path: Path, trace: str, expected: str) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    path = tmp_path / "database"
    new_database(path).create()
    call = trace.partition(":")[0]
    traced = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={trace}"]
    child = subprocess.run(
        [*traced, sys.executable, "-c", CHILD.format(here=str(Path(__file__).parent)), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in child.stderr or "PTRACE" in child.stderr:
        pytest.skip("tracing is not allowed here")
    *acknowledged, last = child.stdout.splitlines()
    assert expected in last, child.stderr
    database = new_database(path)
    database.mount()
    with database.read(ACTOR) as read:
        for number, message_id in enumerate(acknowledged, 1):
            assert messages.content(read, messages.get(read, int(message_id))) == raw_of(number)
    assert check_database(database, ACTOR).clean
    database.dismount()
