"""The file of mailbox names under kill -9: it never lacks a name that the database holds."""

from __future__ import annotations

import random
import select
import subprocess
import sys
from pathlib import Path

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind, Table
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.server import FIRST_GROUP, Server

ACTOR = Actor.task("test")
STORES = ("Mailbox Store", "Second")
ROUNDS = 25
# Gives, changes, moves and takes away names until it is killed; says when it has begun.
CHILD = """
import random, sys
from pathlib import Path
from pillarbox import Actor, Server, errors, mailboxes

actor, rng = Actor.task("test"), random.Random(int(sys.argv[2]))
with Server.open(Path(sys.argv[1]), wait_ms=20_000) as server:
    print("ready", flush=True)
    while True:
        name, store = f"m{rng.randrange(60)}", rng.choice(("Mailbox Store", "Second"))
        try:
            step = rng.randrange(4)
            if step == 0:
                server.mailboxes.create(actor, name, store)
            elif step == 1:
                server.mailboxes.rename(actor, name, f"m{rng.randrange(60)}")
            elif step == 2:
                server.mailboxes.move(actor, name, store)
            else:
                database, box = server.mailboxes.find(name)
                with database.transaction(actor) as txn:
                    mailboxes.purge(txn, box.guid)
        except (errors.AlreadyExists, errors.NotFound, errors.Refused):
            continue
"""


def held_names(database: Database) -> dict[bytes, bytes]:
    """What the tables say, with the file of names left as the killed process left it."""
    database.mailbox_names = None
    database.mount()
    with database.read(ACTOR) as read:
        held = dict(read.indexes(Table.MAILBOX_NAME, b"", None))
    database.dismount()
    return held


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_names_survive_kill(tmp_path: Path, seed: int) -> None:
    path, rng = tmp_path / "server", random.Random(seed)
    with Server.create(path, Edition.ENTERPRISE) as server:
        server.create_database(FIRST_GROUP, "Second", DatabaseKind.MAILBOX_STORE)
    for number in range(ROUNDS):
        words = [sys.executable, "-c", CHILD, str(path), str(seed * ROUNDS + number)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
            assert child.stdout and child.stdout.readline() == b"ready\n"
            select.select([], [], [], rng.uniform(0.02, 0.4))
            child.kill()
        with Server.open(path, mount=False) as server:
            for name in STORES:
                database = server.database(name)
                names = database.mailbox_names
                assert names is not None
                known = dict(names.read())
                held = held_names(database)
                assert {key: known.get(key) for key in held} == held, f"seed {seed}, round {number}"
