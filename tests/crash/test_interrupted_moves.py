"""Any sequence of killed moves, deliveries, deletions and mounts: anna is there once and whole, or gone.

While all databases are mounted she is found as she was left, or found nowhere once she was deleted; in the
end nothing of an interrupted move is left.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import pytest
from killed_moves import ACTOR, EVERYWHERE, FIRST, SECOND, THIRD, boxes_in, delete, deliver, kill_move

from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import MountState
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import Dismounted, NotFound
from pillarbox.store.mail import folders, messages
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.upkeep.check import check_database

STORES = (FIRST, SECOND, THIRD)
SEQUENCES = 10 if os.environ.get("PILLARBOX_CAMPAIGN") == "short" else 500


class Sequence:
    """A server, and the mail that anna has; None when she is deleted."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.server = self._opened()
        self.mail: list[bytes] | None = []
        self.log: list[str] = []
        self._is_doubtful = False  # deleted, and nobody has looked for copies since

    def _opened(self) -> Server:
        return Server.open(self.path, clock=VirtualClock(), zone=UTC)

    def run(self) -> None:
        steps: list[Callable[[], None]] = [self._kill] * 3
        steps += [self._move, self._deliver, self._delete, self._create, self._dismount, self._reopen]
        steps += [self._mount] * 2
        for _ in range(self.rng.randrange(4, 14)):
            step = self.rng.choice(steps)
            self.log.append(step.__name__)
            try:
                step()
            except Dismounted:
                self.log.append("dismounted")
            if len(self._mounted()) == len(STORES):
                self._prove()
        self._prove_end()

    def _mounted(self) -> list[str]:
        return [name for name in STORES if self.server.database(name).state is MountState.MOUNTED]

    def _target(self) -> str:
        """A mounted database that anna is not in; empty when there is none."""
        database, _ = self.server.mailboxes.find("anna")
        return self.rng.choice([name for name in self._mounted() if name != database.name] or [""])

    def _kill(self) -> None:
        if self.mail is not None and (to := self._target()):
            place = self.rng.choice(EVERYWHERE)
            self.log.append(f"{place}, to {to}")
            kill_move(self.server, place, to)

    def _move(self) -> None:
        if self.mail is not None and (to := self._target()):
            self.log.append(f"to {to}")
            self.server.mailboxes.move(ACTOR, "anna", to)

    def _deliver(self) -> None:
        if self.mail is not None:
            raw = b"Subject: %d" % self.rng.getrandbits(32)
            deliver(self.server, raw)
            self.mail.append(raw)

    def _delete(self) -> None:
        # While her source is not mounted nothing tells whether a copy is she.
        if self.mail is not None and len(self._mounted()) == len(STORES):
            delete(self.server)
            self.mail = None
            self._is_doubtful = True

    def _create(self) -> None:
        if self.mail is None and len(self._mounted()) == len(STORES):
            self.server.mailboxes.create(ACTOR, "anna", self.rng.choice(STORES))
            self.mail = []

    def _dismount(self) -> None:
        if self._is_doubtful and len(self._mounted()) == len(STORES):
            self.server.mailboxes.discard_copies()
            self._is_doubtful = False
        self.server.dismount(self.rng.choice(STORES))

    def _mount(self) -> None:
        self.server.mount(self.rng.choice(STORES))

    def _reopen(self) -> None:
        self.server.close()
        self.server = self._opened()

    def _prove(self) -> None:
        try:
            database, box = self.server.mailboxes.find("anna")
        except NotFound:
            assert self.mail is None
            return
        with database.read(ACTOR) as read:
            found = [
                messages.content(read, item)
                for _, folder in folders.walk(read, box.root_id)
                for item in folders.messages(read, folder.folder_id)
            ]
        assert self.mail is not None and sorted(found) == sorted(self.mail)

    def _prove_end(self) -> None:
        for name in STORES:
            self.server.mount(name)
        self.server.mailboxes.discard_copies()
        self._prove()
        left = 0
        for name in STORES:
            database = self.server.database(name)
            left += len(boxes_in(database))
            database.finish_removals()
            assert check_database(database, ACTOR).findings == ()
        assert left == (self.mail is not None)


def run(path: Path, seeds: range) -> None:
    made = path / "made"
    with Server.create(made, Edition.ENTERPRISE) as server:
        for name in (SECOND, THIRD):
            server.create_database(FIRST_GROUP, name, DatabaseKind.MAILBOX_STORE)
        server.mailboxes.create(ACTOR, "anna", FIRST)
    for seed in seeds:
        sequence = Sequence(shutil.copytree(made, path / "server"), seed)
        try:
            sequence.run()
        except BaseException:
            print(f"seed {seed}: {sequence.log}")
            raise
        finally:
            sequence.server.close()
        shutil.rmtree(path / "server")


def test_a_mailbox_is_there_once_or_not_at_all(tmp_path: Path) -> None:
    run(tmp_path, range(2))


@pytest.mark.slow
def test_interrupted_moves_campaign(tmp_path: Path) -> None:
    run(tmp_path, range(2, SEQUENCES + 2))
