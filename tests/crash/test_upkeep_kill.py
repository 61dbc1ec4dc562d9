"""kill -9 over moves, purges, maintenance, compaction at a mount and repair: the store is whole afterwards.

Every acknowledged message is there once, byte for byte, each mailbox is found by its name in one database,
none that was deleted is found again, and a check finds nothing. A repair that was killed while it exchanged
files is run again, and ends its work.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from upkeep_worker import ACTOR, AIMED, DOOMED, NAMES, WORK, mount_or_repair, raw_of, stores

from pillarbox.store.disk.tables import DatabaseKind, MailboxRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import NotFound
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.move_copies import copies_in

ROUNDS = 20 if os.environ.get("PILLARBOX_CAMPAIGN") == "short" else 500
# Seconds of work, or less than 0 from the beginning of the process.
LONGEST = {"use": (-0.3, 0.05, 0.3, 1), "mount": (-0.3, -1, -2), "repair": (-0.3, -1, -3)}
_SEEDS_OF_A_ROUND = 100_000
_MESSAGES_MAX = 60  # of a mailbox: then it is begun anew
_WORKER = Path(__file__).resolve().parents[1] / "shared" / "upkeep_worker.py"


@contextmanager
def workers() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, str(_WORKER)], stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def answers(pipe: IO[str]) -> Iterator[list[str]]:
    """The lines of a process until it is gone."""
    while (words := pipe.readline().split()) != ["ended"]:
        assert words and words[0] != "wrong", words
        yield words


class Campaign:
    """A server, and the messages that its mailboxes are known to have."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.acknowledged: dict[str, set[bytes]] = {name: set() for name in NAMES}
        self.done: Counter[str] = Counter()
        with Server.create(path, Edition.ENTERPRISE) as server:
            server.create_database(FIRST_GROUP, "Second", DatabaseKind.MAILBOX_STORE)
            for name in NAMES:
                server.mailboxes.create(ACTOR, name, self.rng.choice(stores(server)).label)

    def run_round(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None
        what = self.rng.choice(("use", "use", *WORK))
        longest = 0.02 if what in AIMED else self.rng.choice(LONGEST[what])
        seconds = longest * self.rng.random()
        print(what, self.path, number * _SEEDS_OF_A_ROUND, seconds, file=process.stdin, flush=True)
        for done, *words in answers(process.stdout):
            self.done[done] += 1
            if done == "delivered":
                self.acknowledged[words[0]].add(raw_of(int(words[1])))
        if self.rng.random() < 0.7:  # else the next process finds what two kills left
            self.prove(deleted=0.5 if what == "end of a move" else 0.1)

    def prove(self, deleted: float = 0.1) -> None:
        """Mount all, and look at every mailbox. So many of them are deleted first, others are moved."""
        with Server.open(self.path, mount=False, wait_ms=20_000) as server:
            for database in stores(server):
                self.done["repaired again"] += mount_or_repair(database)
            for name in NAMES:
                if self.rng.random() < deleted:
                    self._delete(server, name)
                if self.rng.random() < 0.2:
                    server.mailboxes.move(ACTOR, name, self._other_than(server, name))
                self._prove_mailbox(server, name)
            if (
                self.rng.random() < 0.5
            ):  # else a copy that counts for nothing is still there in the next round
                self._prove_nothing_is_hidden(server)
            for database in stores(server):
                database.finish_removals()
                assert check_database(database, ACTOR).findings == ()
                self._prove_names(database)

    def _delete(self, server: Server, name: str) -> None:
        """Delete a mailbox, whatever of a move was interrupted just now, and begin it anew."""
        database, box = server.mailboxes.find(name)
        self.done["deleted in its move"] += sum(
            each.guid == box.guid for store in stores(server) for each in _copies_in(store)
        )
        with database.transaction(ACTOR) as txn:
            mailboxes.purge(txn, box.guid)
        with pytest.raises(NotFound):
            server.mailboxes.find(name)
        server.mailboxes.create(ACTOR, name, self.rng.choice(stores(server)).label)
        self.acknowledged[name].clear()

    def _prove_nothing_is_hidden(self, server: Server) -> None:
        server.mailboxes.discard_copies()
        for database in stores(server):
            for copy in _copies_in(database):
                assert server.mailboxes.find(copy.name) == (database, copy)

    def _other_than(self, server: Server, name: str) -> str:
        source, _ = server.mailboxes.find(name)
        return next(store.label for store in stores(server) if store is not source)

    def _prove_mailbox(self, server: Server, name: str) -> None:
        database, box = server.mailboxes.find(name)
        with database.read(ACTOR) as read:
            items = [
                item
                for _, folder in folders.walk(read, box.root_id)
                for item in folders.messages(read, folder.folder_id)
            ]
            found = Counter(messages.content(read, item) for item in items)
        assert self.acknowledged[name] <= found.keys()
        assert set(found.values()) <= {1}
        if len(items) > _MESSAGES_MAX:
            with database.transaction(ACTOR) as txn:
                mailboxes.purge(txn, box.guid)
                mailboxes.create(txn, name)
            self.acknowledged[name].clear()

    def _prove_names(self, database: Database) -> None:
        with database.read(ACTOR) as read:
            boxes = list(mailboxes.all_of(read))
        for box in boxes:
            assert box.name in NAMES or box.name.startswith(DOOMED)
            if box.name.startswith(DOOMED):
                with database.transaction(ACTOR) as txn:
                    mailboxes.purge(txn, box.guid)


def _copies_in(database: Database) -> list[MailboxRecord]:
    with database.read(ACTOR) as read:
        return list(copies_in(read))


def run(path: Path, rounds: int, seed: int) -> Campaign:
    campaign = Campaign(path, seed)
    with workers() as process:
        for number in range(rounds):
            try:
                campaign.run_round(number, process)
            except BaseException:
                print(f"seed {seed}, round {number}")
                raise
    campaign.prove()
    return campaign


def test_a_store_is_whole_after_upkeep_was_killed(tmp_path: Path) -> None:
    assert run(tmp_path / "server", rounds=4, seed=1).done


@pytest.mark.slow
def test_upkeep_kill_campaign(tmp_path: Path) -> None:
    campaign = run(tmp_path / "server", ROUNDS, seed=2)
    print(f"{ROUNDS} kills: {dict(campaign.done)}")
