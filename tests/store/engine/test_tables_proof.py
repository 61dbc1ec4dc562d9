"""Tables that a clean dismount has left are mounted as they were left, or not at all."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mailbox_stores import mailbox_store, real_mail

from pillarbox.store.access import Actor
from pillarbox.store.clock import SystemClock
from pillarbox.store.disk import checkpoint as checkpoint_module
from pillarbox.store.disk.checkpoint import boot_identity, read_checkpoint, write_checkpoint
from pillarbox.store.disk.env import PAGE_BYTES, Env
from pillarbox.store.disk.file_lock import REPLACING, FileLock
from pillarbox.store.disk.page_sums import SUM_BYTES, PageSums, difference
from pillarbox.store.disk.stream import Position, Stream
from pillarbox.store.engine import checkpointer, tables_proof
from pillarbox.store.engine import database as database_module
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import LOCK, Database
from pillarbox.store.engine.tables_proof import problems_of_pages
from pillarbox.store.errors import Corrupt, DiskFull, PillarboxError, RecoveryNeeded
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.upkeep.check import check_dismounted
from pillarbox.store.upkeep.repair import repair_database

ACTOR = Actor.task("test")
MOUNT_AND_BE_KILLED = """
import os, signal, sys
from pathlib import Path
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import mailboxes
database = Database(Path(sys.argv[1]), b"x" * 16, "Mail", DatabaseKind.MAILBOX_STORE)
database.mount()
with database.transaction(Actor.task("test")) as txn:
    mailboxes.create(txn, sys.argv[2])
print("made", flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
READ = """
import sys
from pathlib import Path
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import mailboxes
sys.stdin.readline()
database = Database(Path(sys.argv[1]), b"x" * 16, "Mail", DatabaseKind.MAILBOX_STORE)
database.mount(read_only=True)
for _ in range(2):
    with database.read(Actor.task("test")) as reader:
        print([box.name for box in mailboxes.all_of(reader)], flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = mailbox_store(tmp_path / "db", Tuning(remove_beside=False))
    made.create()
    made.mount()
    with made.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
    for raw in real_mail()[:20]:
        prepared = messages.prepare(made.files, raw)
        with made.transaction(ACTOR) as txn:
            messages.deliver(txn, anna.guid, prepared)
    made.dismount()
    return made


def data_of(database: Database) -> Path:
    return database.path / "properties" / "data.mdb"


def names(database: Database) -> list[str]:
    with database.read(ACTOR) as reader:
        return [box.name for box in mailboxes.all_of(reader)]


def used_pages(database: Database) -> list[int]:
    sums = read_checkpoint(database.path).tables_sums
    free = PageSums.known(sums).free
    return [page for page in range(2, len(sums) // SUM_BYTES) if page not in free]


def flip_a_bit(data: Path, page: int, at: int = 100) -> None:
    with data.open("r+b") as file:
        file.seek(page * PAGE_BYTES + at)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("read_only", [False, True])
def test_whatever_changes_a_byte_of_the_tables_keeps_them_from_being_mounted(
    database: Database, read_only: bool
) -> None:
    data, rng = data_of(database), random.Random(1)
    for page in (0, 1, *rng.sample(used_pages(database), 4)):
        at = rng.randrange(PAGE_BYTES)
        flip_a_bit(data, page, at)
        with pytest.raises(Corrupt) as raised:
            database.mount(read_only=read_only)
        assert raised.value.file == str(data) and "repair" in raised.value.hint
        assert not check_dismounted(database, ACTOR).clean
        flip_a_bit(data, page, at)
    database.mount(read_only=read_only)
    assert names(database) == ["anna"]
    database.dismount()


def test_what_a_free_page_holds_keeps_nobody_from_the_tables(database: Database) -> None:
    """LMDB reads no page that is free."""
    data, used = data_of(database), used_pages(database)
    free = [page for page in range(2, data.stat().st_size // PAGE_BYTES) if page not in used]
    assert len(free) > 5
    for page in free:
        flip_a_bit(data, page)
    assert check_dismounted(database, ACTOR).clean
    database.mount()
    assert names(database) == ["anna"]
    database.dismount()


def test_pages_of_an_older_time_are_found_and_repaired(database: Database) -> None:
    """They are sound, and so is each row in them: nothing in the file tells of it."""
    data = data_of(database)
    older = data.read_bytes()
    database.mount()
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "bert")
    database.dismount()
    newer = data.read_bytes()
    pages = range(2 * PAGE_BYTES, min(len(older), len(newer)), PAGE_BYTES)
    changed = [at for at in pages if older[at : at + PAGE_BYTES] != newer[at : at + PAGE_BYTES]]
    assert changed
    for at in changed:
        data.write_bytes(newer[:at] + older[at : at + PAGE_BYTES] + newer[at + PAGE_BYTES :])
        with pytest.raises(Corrupt):
            database.mount()
    assert not check_dismounted(database, ACTOR).clean
    assert repair_database(database).lost == ()
    database.mount()
    assert names(database) == ["anna", "bert"]
    database.dismount()


def test_the_sums_are_those_of_the_last_checkpoint(database: Database) -> None:
    for name in ("bert", "clara"):
        database.mount()
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, name)
        database.checkpoint()
        kept = read_checkpoint(database.path)
        assert kept.tables_sums == PageSums.of(data_of(database), kept.meta_pages).sums
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, f"{name} b")
        assert difference(data_of(database), kept.tables_sums) is None
        database.dismount()
        left = read_checkpoint(database.path)
        assert left.tables_sums == PageSums.of(data_of(database), left.meta_pages).sums != kept.tables_sums


def test_damage_while_they_are_mounted_is_not_summed_up_as_theirs(database: Database) -> None:
    dry = mailbox_store(database.path.with_name("dry"), Tuning())
    shutil.copytree(database.path, dry.path)
    dry.rng = random.Random(2)
    dry.mount()
    create_and_dismount(dry)
    before, after = (read_checkpoint(each.path).tables_sums for each in (database, dry))
    bent = next(page for page in used_pages(database) if sum_of(before, page) == sum_of(after, page))
    database.mount()
    flip_a_bit(data_of(database), bent)
    create_and_dismount(database)
    with pytest.raises(Corrupt, match=f"page {bent} "):
        database.mount()
    assert not check_dismounted(database, ACTOR).clean


def sum_of(sums: bytes, page: int) -> bytes:
    return sums[page * SUM_BYTES : (page + 1) * SUM_BYTES]


def create_and_dismount(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "bert")
    database.checkpoint()
    database.dismount()


def test_what_a_killed_process_left_is_proved(database: Database) -> None:
    run_and_be_killed(database, "bert")
    data, used = data_of(database), used_pages(database)
    whole, rng = data.read_bytes(), random.Random(1)
    for page in used:
        flip_a_bit(data, page, rng.randrange(PAGE_BYTES))
        with pytest.raises(Corrupt, match="the checkpoint says something else"):
            database.mount()
        data.write_bytes(whole)
    with data.open("r+b") as file:
        for page in range(len(whole) // PAGE_BYTES):
            if page > 1 and page not in used:
                file.seek(page * PAGE_BYTES)
                file.write(rng.randbytes(PAGE_BYTES))
    with pytest.raises(Corrupt):
        database.mount()  # nothing tells what had been acknowledged
    assert repair_database(database).lost == ()
    database.mount()
    assert names(database) == ["anna", "bert"]
    database.dismount()


def test_a_stream_that_lacks_what_a_killed_process_had_written_is_damage(database: Database) -> None:
    run_and_be_killed(database, "bert")
    (segment,) = database.stream.directory.iterdir()
    whole = segment.read_bytes()
    end = len(whole.rstrip(b"\0"))
    segment.write_bytes(whole[: end - 10] + bytes(len(whole) - end + 10))
    before = data_of(database).read_bytes()
    with pytest.raises(Corrupt, match="the stream ends with"):
        database.mount()
    assert data_of(database).read_bytes() == before
    segment.write_bytes(whole)
    database.mount()
    assert names(database) == ["anna", "bert"]
    database.dismount()


def test_nobody_reads_what_a_mount_that_was_killed_has_not_replayed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_and_be_killed(database, "bert")

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(database_module, "replay_stream", killed)
        with pytest.raises(SystemExit):
            database.mount()
    with closing(FileLock(database.path / LOCK, "it", SystemClock())), pytest.raises(RecoveryNeeded):
        database.mount(read_only=True)  # the next mount has the lock, and has not replayed it yet
    database.mount()
    assert names(database) == ["anna", "bert"]
    database.dismount()


def test_others_read_as_soon_as_all_is_replayed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run_and_be_killed(database, "bert")
    boots = []

    def rewrite(_: Stream, position: Position) -> None:
        boots.append(read_checkpoint(database.path).boot)

    monkeypatch.setattr(Stream, "rewrite", rewrite)
    database.mount()
    assert boots == [boot_identity()]
    database.dismount()


def run_and_be_killed(database: Database, name: str) -> None:
    command = [sys.executable, "-P", "-c", MOUNT_AND_BE_KILLED, str(database.path), name]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)


def test_who_reads_beside_a_killed_process_keeps_nobody_from_writing(database: Database) -> None:
    """Then the tables stay as they are: what was written behind the checkpoint is believed."""
    command = [sys.executable, "-P", "-c", MOUNT_AND_BE_KILLED, str(database.path), "bert"]
    read = [sys.executable, "-P", "-c", READ, str(database.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as writer, subprocess.Popen(read, **pipes) as reader:  # type: ignore[call-overload]
        writer.stdout.readline()
        reader.stdin.write(b"\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == b"['anna', 'bert']\n"
        writer.communicate()
        database.mount()
        assert names(database) == ["anna", "bert"]
        reader.stdin.write(b"\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == b"['anna', 'bert']\n"
        reader.communicate()
    database.dismount()


def test_a_process_that_writes_changes_them_unjudged_and_so_does_its_death(database: Database) -> None:
    command = [sys.executable, "-P", "-c", MOUNT_AND_BE_KILLED, str(database.path), "bert"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        database.mount(read_only=True)
        assert names(database) == ["anna", "bert"]
        database.dismount()
        process.communicate()
    database.mount()
    assert names(database) == ["anna", "bert"]
    database.dismount()


def test_a_process_that_begins_to_write_while_they_are_read_is_not_taken_for_damage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount for reading has read the checkpoint, and then another process writes, and dismounts."""
    reader = mailbox_store(database.path, Tuning())
    before = read_checkpoint(database.path)
    database.mount()
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "bert")
    database.dismount()
    found = iter([before])
    monkeypatch.setattr(
        "pillarbox.store.engine.database.read_checkpoint", lambda path: next(found, read_checkpoint(path))
    )
    reader.mount(read_only=True)
    assert names(reader) == ["anna", "bert"]
    reader.dismount()


@pytest.mark.parametrize("word", [b"", REPLACING])
def test_whoever_holds_the_lock_damage_is_not_served(database: Database, word: bytes) -> None:
    """Only a process that has the database mounted for writing makes the sums stale."""
    flip_a_bit(data_of(database), used_pages(database)[-1])
    lock = FileLock(database.path / "lock", "it", database.clock, word=word)
    with pytest.raises(Corrupt, match="the checkpoint says something else"):
        database.mount(read_only=True)
    assert not check_dismounted(database, ACTOR).clean
    lock.close()


def test_what_a_killed_process_left_is_not_read_while_it_is_replaced(database: Database) -> None:
    run_and_be_killed(database, "bert")
    lock = FileLock(database.path / "lock", "it", database.clock, word=REPLACING)
    with pytest.raises(RecoveryNeeded):
        database.mount(read_only=True)
    lock.close()


def test_a_doubt_of_one_process_is_over_once_another_has_dismounted_the_tables(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(env: Env) -> None:
        env.flush_failed = True
        raise PillarboxError("flush failed")

    database.mount()
    with monkeypatch.context() as patch:
        patch.setattr(Env, "sync", failing)
        with pytest.raises(PillarboxError):
            database.dismount()
    other = mailbox_store(database.path, Tuning())
    other.mount()
    other.dismount()
    flip_a_bit(data_of(database), used_pages(database)[-1])
    with pytest.raises(Corrupt, match="the checkpoint says something else"):
        database.mount()


def test_tables_are_verified_when_the_machine_went_down_and_those_without_sums_when_it_was_started_since(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without sums, as after a compaction, or on a full disk: what was written may be lost with the power."""
    verified: list[Path] = []

    def verify(path: Path) -> list[str]:
        verified.append(path)
        return []

    monkeypatch.setattr(tables_proof, "verify_tables", verify)
    run_and_be_killed(database, "bert")
    write_checkpoint(database.path, read_checkpoint(database.path)._replace(boot=b"another boot----"))
    database.mount()
    database.dismount()
    assert verified == [data_of(database).parent], "the machine went down while it was mounted"
    verified.clear()
    told = read_checkpoint(database.path)._replace(tables_sums=b"")
    write_checkpoint(database.path, told)
    database.mount()
    database.dismount()
    assert not verified
    write_checkpoint(database.path, told._replace(boot=b"another boot----"))
    database.mount()
    database.dismount()
    assert verified == [data_of(database).parent]


def test_a_disk_without_room_for_the_sums_leaves_a_clean_checkpoint_without_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, checkpoint: checkpoint_module.Checkpoint) -> None:
        if checkpoint.tables_sums:
            raise DiskFull("no space left")
        checkpoint_module.write_checkpoint(path, checkpoint)

    database.mount()
    monkeypatch.setattr(checkpointer, "write_checkpoint", full)
    database.dismount()
    found = read_checkpoint(database.path)
    assert found.clean and not found.tables_sums
    database.mount()
    assert names(database) == ["anna"]
    database.dismount()


def test_a_property_file_that_cannot_be_verified_is_an_error_of_the_project(
    database: Database,
) -> None:
    with pytest.raises(Corrupt, match="is missing"):
        problems_of_pages(database.path / "missing", database.clock, database.report)
    with pytest.raises(PillarboxError):
        problems_of_pages(database.path / "lock", database.clock, database.report)
