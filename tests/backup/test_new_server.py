"""A server made from a repository alone is what was backed up, also beside an interrupted move."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from random import Random

import pytest
from killed_moves import ACTOR, FIRST, MAIL, SECOND, boxes_in, deliver, kill_move

from pillarbox.backup.new_server import make_new_server, plan_new_server
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.snapshot import GroupSnapshot, source_of
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.server import FIRST_GROUP, Server


@pytest.mark.parametrize("as_copy", [False, True])
@pytest.mark.parametrize("place", ["complete", "moved"])
def test_a_mailbox_whose_move_was_interrupted_is_found_once(
    world, tmp_path: Path, place: str, as_copy: bool
) -> None:
    repository = world.create(MemoryBackend())
    path = tmp_path / "server"
    with Server.create(path, Edition.ENTERPRISE, clock=world.clock, rng=Random(1), zone=UTC) as server:
        server.create_database(FIRST_GROUP, SECOND, DatabaseKind.MAILBOX_STORE)
        server.mailboxes.create(ACTOR, "anna", FIRST)
        for raw in MAIL:
            deliver(server, raw)
        kill_move(server, place)
        source = source_of(server, server.group(FIRST_GROUP))
        GroupSnapshot(source, repository, clock=world.clock).run()
    plan = plan_new_server(repository, "latest")
    new = tmp_path / "new"
    make_new_server(repository, plan, new, as_copy=as_copy, clock=world.clock, rng=Random(2))
    with Server.open(new, clock=world.clock, rng=Random(3), zone=UTC) as server:
        database, box = server.mailboxes.find("anna")
        assert (database.name, box.messages_count) == (SECOND if place == "moved" else FIRST, len(MAIL))
        held = [found.guid for name in (FIRST, SECOND) for found in boxes_in(server.database(name))]
        assert held == [box.guid]
        assert server.mailboxes.move(ACTOR, "anna", SECOND).messages_count == len(MAIL)
