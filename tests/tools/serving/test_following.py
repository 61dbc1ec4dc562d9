"""Following server.toml: what it wants mounted is, whoever has read it first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.disk.file_lock import FileLock
from pillarbox.store.engine.database import LOCK, MountState
from pillarbox.store.errors import WriterBusy
from pillarbox.tools.operations.call import LocalCall
from pillarbox.tools.serving.following import Following
from pillarbox.tools.serving.lending import Lending

STORE = "Mailbox Store"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[pillarbox.Server]:
    with pillarbox.Server.create(tmp_path / "server") as server:
        yield server


def test_what_an_operation_took_over_is_still_carried_out(server: pillarbox.Server) -> None:
    following, database = Following(server), server.database(STORE)
    for wanted, state in ((False, MountState.DISMOUNTED), (True, MountState.MOUNTED)):
        with pillarbox.Server.open(server.path, mount=False) as other:
            other.set_mount_at_startup(STORE, wanted)
        server.set_limits(STORE, {})
        assert server.mounts_at_startup(STORE) is wanted and database.state is not state
        following.follow()
        assert database.state is state


def test_a_database_is_mounted_once_nobody_else_has_it(server: pillarbox.Server) -> None:
    following, database = Following(server), server.database(STORE)
    server.dismount(STORE)
    with closing(FileLock(database.path / LOCK, "it", SystemClock())), pytest.raises(WriterBusy):
        server.mount(STORE)
    following.follow()
    assert database.state is MountState.MOUNTED


def test_a_database_that_is_lent_is_not_mounted(server: pillarbox.Server) -> None:
    lending, database = Lending(server), server.database(STORE)
    following = Following(server, lending.mount)
    with lending.of_caller() as lent:
        lent.let_go(LocalCall(server, pillarbox.Actor.task("test")), databases=[STORE])
        with pillarbox.Server.open(server.path, mount=False) as other:
            other.set_mount_at_startup(STORE, False)
            following.follow()
            other.set_mount_at_startup(STORE, True)
        following.follow()
        assert database.state is MountState.DISMOUNTED
    assert database.state is MountState.MOUNTED
