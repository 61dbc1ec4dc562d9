"""kill -9 in the middle of a merge: run again, it ends as one that was never killed."""

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
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
COUNT = 60
SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"

# Merges in small batches, and writes a line when one is durable.
CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_merge_kill import open_store, recover
from pillarbox.backup.merge import run

run.BATCH_MESSAGES = 4
recover(Path(sys.argv[1]), Path(sys.argv[2]), lambda progress: print(progress.messages_count, flush=True))
"""


def open_store(path: Path, number: int, *, read_only: bool = False) -> Database:
    database = Database(path, bytes([number]) * 16, "DB", DatabaseKind.MAILBOX_STORE)
    if not path.exists():
        database.create()
    database.mount(read_only=read_only)
    return database


def recover(source_path: Path, target_path: Path, progress: object = None) -> None:
    """Merge anna's mailbox of one store into that of another."""
    source, target = open_store(source_path, 1, read_only=True), open_store(target_path, 2)
    with source.read(ACTOR) as read:
        source_guid = mailboxes.find(read, "anna").guid
    with target.read(ACTOR) as read:
        box = MailboxTarget(target, mailboxes.find(read, "anna").guid)
    merge_mailbox(source, source_guid, box, ACTOR, progress=progress)  # type: ignore[arg-type]
    target.dismount()
    source.dismount()


def picture(path: Path) -> dict[tuple[str, ...], list[tuple[int, bytes]]]:
    database = open_store(path, 2)
    assert check_database(database, ACTOR).clean
    with database.read(ACTOR) as read:
        root_id = mailboxes.find(read, "anna").root_id
        found = {
            names: [
                (item.uid, messages.content(read, item)) for item in folders.messages(read, record.folder_id)
            ]
            for names, record in folders.walk(read, root_id)
        }
    database.dismount()
    return found


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """A store with mail in three folders, and one with an empty mailbox."""
    source, target = tmp_path / "source", tmp_path / "target"
    for number, path in enumerate((source, target), 1):
        database = open_store(path, number)
        with database.transaction(ACTOR) as txn:
            root_id = mailboxes.create(txn, "anna").root_id
            for seed in range(COUNT if path == source else 0):
                raw = b"Subject: %d\n\n" % seed + Random(seed).randbytes(3000)
                at = folders.ensure(txn, root_id, ("Lists", f"list {seed % 3}"))
                messages.append(txn, at.folder_id, messages.prepare(txn.files, raw))
        database.dismount()
    return source, target


@pytest.mark.parametrize("kills", [1, pytest.param(40, marks=[pytest.mark.slow])], ids=["once", "many times"])
def test_a_merge_that_is_killed_goes_on_where_it_was(
    stores: tuple[Path, Path], tmp_path: Path, kills: int
) -> None:
    source, target = stores
    whole = tmp_path / "whole"
    shutil.copytree(target, whole)
    recover(source, whole)
    rng = Random(1)
    for number in range(min(kills, 8) if SHORT else kills):
        place = tmp_path / f"target {number}"
        shutil.copytree(target, place)
        killed_after = kill_merge(source, place, rng.randrange(1, COUNT // 4), rng.random() * 0.01)
        held = sum(map(len, picture(place).values()))
        assert killed_after <= held <= COUNT, "what was told to be durable is there"
        recover(source, place)
        assert picture(place) == picture(whole)
        shutil.rmtree(place)


def kill_merge(source: Path, target: Path, batches: int, delay_s: float) -> int:
    """Kill a merge a moment after so many batches; how many messages it said were durable."""
    command = [sys.executable, "-c", CHILD.format(here=str(Path(__file__).parent)), str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(batches)]
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return int([line for line in lines if line.strip()][-1])
