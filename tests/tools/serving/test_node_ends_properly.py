"""Where a database is dismounted beside its node, the node ends first: its next start finds nothing lost."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")
pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from organisations import make_organisation

import pillarbox
from pillarbox.replication.core.identity import Fence
from pillarbox.store.clock import SystemClock
from pillarbox.store.engine.database import MountState
from pillarbox.tools.operations.call import LocalCall
from pillarbox.tools.operations.replicating import fence_of, joined_store
from pillarbox.tools.options import ACTOR
from pillarbox.tools.serving.client import connect
from pillarbox.tools.serving.control import ControlSocket
from pillarbox.tools.serving.following import Following
from pillarbox.tools.serving.lending import Lending
from pillarbox.tools.serving.log import Log
from pillarbox.tools.serving.replicating import Replicating, make_node

Dismount = Callable[[pillarbox.Server, str, Replicating], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[pillarbox.Server]:
    path = make_organisation(tmp_path, {"b1": "berlin"})["b1"]
    with pillarbox.Server.open(path) as server:
        yield server


def by_operation(server: pillarbox.Server, label: str, replicating: Replicating) -> None:
    clock, log = SystemClock(), Log(SystemClock(), as_json=False, out=io.StringIO())
    lending = Lending(server, replicating.released)
    socket = ControlSocket(server, lending, log, clock, lambda *_: None, replicating)
    with socket.open(), connect(server.path) as connected:
        connected.call("database.dismount", database=label)


def by_settings(server: pillarbox.Server, label: str, replicating: Replicating) -> None:
    following = Following(server, released=replicating.released)
    server.set_mount_at_startup(label, False)
    following.follow()


@pytest.mark.parametrize("dismount", [by_operation, by_settings])
def test_a_database_is_dismounted_after_its_node_has_ended(
    server: pillarbox.Server, dismount: Dismount
) -> None:
    clock, database = SystemClock(), joined_store(server)
    log = Log(clock, as_json=False, out=io.StringIO())
    replicating = Replicating(server, log, make_node, clock)
    with replicating.running():
        assert replicating.node is not None
        replicating.node.perform(lambda replica: None)  # it has begun
        assert fence(server).is_open
        dismount(server, database.label, replicating)
        assert (replicating.node, database.state) == (None, MountState.DISMOUNTED)
        assert not fence(server).is_open


def fence(server: pillarbox.Server) -> Fence:
    found, _ = fence_of(server).read()
    assert found is not None
    return found


def test_a_look_while_a_database_is_dismounted_starts_no_node(
    server: pillarbox.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, database = SystemClock(), joined_store(server)
    log = Log(clock, as_json=False, out=io.StringIO())
    replicating = Replicating(server, log, make_node, clock)
    dismount, looking = server.dismount, threading.Thread(target=replicating.look)

    def dismount_late(*words: str) -> None:
        looking.start()
        looking.join(0.5)  # it would start a node in a moment
        dismount(*words)

    monkeypatch.setattr(server, "dismount", dismount_late)
    with replicating.running(), Lending(server, replicating.released).of_caller() as lent:
        lent.let_go(LocalCall(server, ACTOR), databases=[database.label])
        looking.join(10)
        assert replicating.node is None
