"""kill -9 in the middle of a merge: run again, it ends as one that was never killed.

In a mailbox and in public folders, where it is also known who has read what.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from pillarbox.backup.merge.merge_mailbox import merge_mailbox
from pillarbox.backup.merge.target import MailboxTarget
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
COUNT = 60
SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"

# Merges in small batches, and writes a line when one is durable.
CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_merge_kill import recover
from pillarbox.backup.merge import run
from pillarbox.store.disk.tables import DatabaseKind

run.BATCH_MESSAGES = 4
recover(
    Path(sys.argv[1]),
    Path(sys.argv[2]),
    DatabaseKind(int(sys.argv[3])),
    lambda progress: print(progress.messages_count, flush=True),
)
"""


def open_store(path: Path, number: int, kind: DatabaseKind, *, read_only: bool = False) -> Database:
    database = Database(path, bytes([number]) * 16, "DB", kind)
    if not path.exists():
        database.create()
    database.mount(read_only=read_only)
    return database


def root_of(reader: Reader, kind: DatabaseKind) -> tuple[bytes, int]:
    """GUID of anna's mailbox, empty for public folders, and the id of the root."""
    if kind is DatabaseKind.PUBLIC_FOLDER_STORE:
        return b"", public_folders.root_id(reader)
    box = mailboxes.find(reader, "anna")
    return box.guid, box.root_id


def recover(source_path: Path, target_path: Path, kind: DatabaseKind, progress: object = None) -> None:
    """Merge anna's mailbox, or the public folders, of one store into those of another."""
    source = open_store(source_path, 1, kind, read_only=True)
    target = open_store(target_path, 2, kind)
    with source.read(ACTOR) as read:
        source_guid, _ = root_of(read, kind)
    with target.read(ACTOR) as read:
        guid, _ = root_of(read, kind)
    merge_mailbox(source, source_guid, MailboxTarget(target, guid), ACTOR, progress=progress)  # type: ignore[arg-type]
    target.dismount()
    source.dismount()


def picture(path: Path, kind: DatabaseKind) -> dict[tuple[str, ...], list[tuple[int, bytes, bool]]]:
    """Each folder's messages: UID, content, and whether the one who asks has read it."""
    database = open_store(path, 2, kind)
    assert check_database(database, ACTOR).clean
    with database.read(ACTOR) as read:
        _, root_id = root_of(read, kind)
        found = {
            names: [
                (item.uid, messages.content(read, item), public_folders.is_read(read, item))
                for item in folders.messages(read, record.folder_id)
            ]
            for names, record in folders.walk(read, root_id)
        }
    database.dismount()
    return found


@pytest.fixture(params=list(DatabaseKind), ids=["mailbox", "public folders"])
def kind(request: pytest.FixtureRequest) -> DatabaseKind:
    return DatabaseKind(request.param)


@pytest.fixture
def stores(tmp_path: Path, kind: DatabaseKind) -> tuple[Path, Path]:
    """A store with mail in three folders, read in part where it is public, and one with none."""
    source, target = tmp_path / "source", tmp_path / "target"
    for number, path in enumerate((source, target), 1):
        database = open_store(path, number, kind)
        with database.transaction(ACTOR) as txn:
            if kind is DatabaseKind.PUBLIC_FOLDER_STORE:
                public_folders.create_tree(txn)
            else:
                mailboxes.create(txn, "anna")
            _, root_id = root_of(txn, kind)
            for seed in range(COUNT if path == source else 0):
                raw = b"Subject: %d\n\n" % seed + Random(seed).randbytes(3000)
                at = folders.ensure(txn, root_id, ("Lists", f"list {seed % 3}"))
                item = messages.append(txn, at.folder_id, messages.prepare(txn.files, raw))
                if kind is DatabaseKind.PUBLIC_FOLDER_STORE and seed % 2:
                    public_folders.mark_read(txn, at.folder_id, item.uid, item.uid)
        database.dismount()
    return source, target


@pytest.mark.parametrize("kills", [1, pytest.param(40, marks=[pytest.mark.slow])], ids=["once", "many times"])
def test_a_merge_that_is_killed_goes_on_where_it_was(
    stores: tuple[Path, Path], kind: DatabaseKind, tmp_path: Path, kills: int
) -> None:
    source, target = stores
    whole = tmp_path / "whole"
    shutil.copytree(target, whole)
    recover(source, whole, kind)
    rng = Random(1)
    for number in range(min(kills, 8) if SHORT else kills):
        place = tmp_path / f"target {number}"
        shutil.copytree(target, place)
        killed_after = kill_merge(source, place, kind, rng.randrange(1, COUNT // 4), rng.random() * 0.01)
        held = sum(map(len, picture(place, kind).values()))
        assert killed_after <= held <= COUNT, "what was told to be durable is there"
        recover(source, place, kind)
        assert picture(place, kind) == picture(whole, kind)
        shutil.rmtree(place)


def kill_merge(source: Path, target: Path, kind: DatabaseKind, batches: int, delay_s: float) -> int:
    """Kill a merge a moment after so many batches; how many messages it said were durable."""
    code = CHILD.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, str(source), str(target), str(int(kind))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(batches)]
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return int([line for line in lines if line.strip()][-1])
