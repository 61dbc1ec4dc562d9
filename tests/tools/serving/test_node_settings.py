"""node.toml is taken over while a server is served, and a broken one is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")
pytest.importorskip("watchdog", reason="watchdog (the extra `serve`) is not installed")
pytest.importorskip("prometheus_client", reason="prometheus_client (the extra `serve`) is not installed")

from organisations import make_organisation

import pillarbox
from pillarbox.replication.node.member_files import MemberFiles, NodeSettings
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.store.clock import SystemClock
from pillarbox.store.engine.database import MountState
from pillarbox.store.errors import InvalidSetting
from pillarbox.store.server_config import CONFIG_FILE
from pillarbox.tools.operations.replicating import fence_of, joined_store
from pillarbox.tools.serving.following import Following
from pillarbox.tools.serving.log import Log
from pillarbox.tools.serving.metrics import Metrics
from pillarbox.tools.serving.page_replication import replication_part
from pillarbox.tools.serving.replicating import Replicating, make_node
from pillarbox.tools.serving.replication_status import Paths, replication_status
from pillarbox.tools.serving.wakes import Wake, Wakes

WAIT_MS = 20_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[pillarbox.Server]:
    path = make_organisation(tmp_path, {"b1": "berlin"})["b1"]
    with pillarbox.Server.open(path) as server:
        yield server


def test_a_changed_file_starts_the_node_anew_and_a_broken_one_leaves_it(server: pillarbox.Server) -> None:
    clock, files = SystemClock(), MemberFiles(server.path)
    replicating = Replicating(server, Log(clock, as_json=False, out=io.StringIO()), make_node, clock)
    with replicating.running():
        first = replicating.node
        replicating.follow_settings()
        assert replicating.node is first is not None
        before = (files.directory / "node.toml").read_bytes()
        (files.directory / "node.toml").write_bytes(before + b"spool_bytes_max = 0\n")
        with pytest.raises(InvalidSetting, match="spool_bytes_max"):
            replicating.follow_settings()
        assert replicating.node is first
        (files.directory / "node.toml").write_bytes(before + b"spool_bytes_max = 1000\n")
        replicating.follow_settings()
        assert replicating.node is not first


def test_a_transport_that_the_file_does_not_name_is_called_a_missing_setting(tmp_path: Path) -> None:
    nats = NatsSettings(("127.0.0.1:1",))
    path = make_organisation(tmp_path, {"b1": "berlin", "p1": "paris"}, nats)["b1"]
    MemberFiles(path).keep_settings(NodeSettings(listen=("127.0.0.1:0",)))
    clock, out = SystemClock(), io.StringIO()
    with pillarbox.Server.open(path) as server:
        replicating = Replicating(server, Log(clock, as_json=False, out=out), make_node, clock)
        with replicating.running():
            until_ms = clock.monotonic_ms() + WAIT_MS
            while "the link to p1" not in out.getvalue() and clock.monotonic_ms() < until_ms:
                clock.sleep_ms(20)
    assert "a setting is missing: the link to p1 is to use nats" in out.getvalue()
    assert "refused something" not in out.getvalue()


def test_a_change_of_the_file_wakes_the_process(server: pillarbox.Server) -> None:
    wakes, files = Wakes(), MemberFiles(server.path)
    with wakes.of_changes(server.path):
        wakes.wait(0)
        files.keep_settings(files.settings()._replace(spool_bytes_max=1000))
        assert Wake.SETTINGS_CHANGED in wakes.wait(WAIT_MS)


def test_the_node_of_a_store_that_server_toml_names_no_more_ends_and_starts_again_with_it(
    server: pillarbox.Server,
) -> None:
    clock = SystemClock()
    replicating = Replicating(server, Log(clock, as_json=False, out=io.StringIO()), make_node, clock)
    following = Following(server, released=replicating.released)
    file = server.path / CONFIG_FILE
    whole = file.read_text()
    with replicating.running():
        first, store = replicating.node, joined_store(server)
        file.write_text(whole[: whole.rindex("[[groups.databases]]")])
        following.follow()
        replicating.look()
        assert replicating.node is None and store.state is MountState.DISMOUNTED
        fence, _ = fence_of(server).read()
        assert not fence.is_open  # the node ended before its store went
        file.write_text(whole)
        following.follow()
        replicating.look()
        assert replicating.node is not first and replicating.node is not None


def test_the_node_of_a_store_that_another_change_has_let_go_is_stopped(server: pillarbox.Server) -> None:
    clock = SystemClock()
    replicating = Replicating(server, Log(clock, as_json=False, out=io.StringIO()), make_node, clock)
    file = server.path / CONFIG_FILE
    with replicating.running():
        whole = file.read_text()
        file.write_text(whole[: whole.rindex("[[groups.databases]]")])
        server.set_limits("Mailbox Store", {})  # it takes over what stands in the file
        replicating.look()
        assert replicating.node is None


def test_a_joined_store_without_a_node_says_so_until_it_has_one(server: pillarbox.Server) -> None:
    clock, key = SystemClock(), MemberFiles(server.path).directory / "key.pem"
    replicating = Replicating(server, Log(clock, as_json=False, out=io.StringIO()), make_node, clock)
    whole = key.read_bytes()
    key.unlink()
    with replicating.running():
        found = replication_status(replicating.node, Paths(server), replicating.refused)
        assert found is not None and (found["state"], "no key" in found["reason"]) == ("waiting", True)
        status = {"databases": [], "work": [], "time_ms": clock.now_ms(), "replication": found}
        assert "pillarbox_replication_running 0" in Metrics(lambda: status).text().decode()
        assert "Waiting: the server has no key" in replication_part(found, clock.now_ms())
        key.write_bytes(whole)
        replicating.look()
        assert replicating.node is not None and not replicating.refused


def test_a_store_that_joined_nothing_waits_for_no_node(tmp_path: Path) -> None:
    clock = SystemClock()
    with pillarbox.Server.create(tmp_path / "server") as server:
        replicating = Replicating(server, Log(clock, as_json=False, out=io.StringIO()), make_node, clock)
        with replicating.running():
            assert replication_status(replicating.node, Paths(server), replicating.refused) is None
