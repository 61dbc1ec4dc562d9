"""kill -9 at any moment: what a process has acknowledged is there afterwards, byte for byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
GUID = b"kill-test-store."
SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"
_PATIENCE = 10
TUNING = Tuning(segment_bytes=64 << 10, checkpoint_stream_bytes=96 << 10, checkpoint_pages=64)

# Delivers and deletes in four threads and compacts in a fifth. Writes "message id seed\n" to its output once
# a delivery is acknowledged.
CHILD = """
import sys, threading, random
sys.path.insert(0, {here!r})
from test_kill import ACTOR, new_database, raw_of
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.upkeep.maintenance import compact
from pathlib import Path

database = new_database(Path(sys.argv[1]))
database.mount()
with database.read(ACTOR) as read:
    inbox = mailboxes.find(read, "anna").roles["inbox"]
out = threading.Lock()

def deliver(first):
    seed = first
    while True:
        prepared = messages.prepare(database.files, raw_of(seed))
        with database.transaction(ACTOR) as txn:
            item = messages.append(txn, inbox, prepared)
        with out:
            sys.stdout.write(f"{{item.message_id}} {{seed}}\\n")
            sys.stdout.flush()
        doomed = messages.prepare(database.files, raw_of(-1 - seed))
        with database.transaction(ACTOR) as txn:
            item = messages.append(txn, inbox, doomed)
        with database.transaction(ACTOR) as txn:
            messages.delete(txn, item.message_id)
        seed += 4

def give_back():
    while True:
        compact(database, ACTOR, live_ratio_max=0.9)

threading.Thread(target=give_back).start()
for number in range(4):
    threading.Thread(target=deliver, args=(int(sys.argv[2]) + number,)).start()
"""


def raw_of(seed: int) -> bytes:
    rng = random.Random(seed)
    return b"Subject: %d\r\n\r\n" % seed + rng.randbytes(rng.choice((50, 500, 5000, 30_000)))


def new_database(path: Path) -> Database:
    return Database(path, GUID, "DB", DatabaseKind.MAILBOX_STORE, tuning=TUNING)


def kill_once(path: Path, first_seed: int, after_acknowledged: int, delay_s: float) -> dict[int, int]:
    """Let a child deliver; kill it a moment after so many acknowledgements. What it acknowledged."""
    command = [
        sys.executable,
        "-c",
        CHILD.format(here=str(Path(__file__).parent)),
        str(path),
        str(first_seed),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(after_acknowledged)]
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {int(message_id): int(seed) for message_id, seed in whole}


def has_given_back(database: Database) -> bool:
    """True when compaction has removed a segment; one that holds only what is needed stays."""
    segments = database.stream.segments()
    return len(segments) < segments[-1]


def run_kills(path: Path, kills: int, seed: int) -> int:
    rng = random.Random(seed)
    database = new_database(path)
    database.create()
    database.mount()
    with database.transaction(ACTOR) as txn:
        inbox = mailboxes.create(txn, "anna").roles["inbox"]
    database.dismount()
    acknowledged: dict[int, int] = {}
    for number in range(_PATIENCE * kills):
        if number >= kills and has_given_back(database):
            break  # on a busy machine compaction comes to something only in children that live longer
        longer_s = 0.2 * max(0, number - kills)
        found = kill_once(path, number * 1_000_000, rng.randrange(1, 60), rng.random() * 0.01 + longer_s)
        assert found.keys().isdisjoint(acknowledged)
        acknowledged |= found
        if number % 3 == 2:
            continue  # the next child finds what two crashes left
        database.mount()
        with database.read(ACTOR) as read:
            for message_id, raw_seed in acknowledged.items():
                assert messages.content(read, messages.get(read, message_id)) == raw_of(raw_seed)
            uids = [item.uid for item in folders.messages(read, inbox)]
        assert len(uids) >= len(acknowledged)
        assert check_database(database, ACTOR).clean
        database.dismount()
    assert has_given_back(database), "compaction gave nothing back"
    return len(acknowledged)


def test_all_that_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    assert run_kills(tmp_path / "database", kills=4, seed=1) > 0


@pytest.mark.slow
def test_kill_9_campaign(tmp_path: Path, record_property: Any) -> None:
    kills = 10 if SHORT else 300
    record_property("acknowledged", run_kills(tmp_path / "database", kills, seed=2))
    print(f"{kills} kills")
