"""What a serving process shows of replication: the status, the metrics, and the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")
pytest.importorskip("prometheus_client", reason="prometheus-client (the extra `serve`) is not installed")

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pillarbox.replication.core import organisation_folder
from pillarbox.tools.serving.metrics import Metrics
from pillarbox.tools.serving.page_replication import replication_part
from pillarbox.tools.serving.replication_status import replication_status
from tests.shared.nodes import Nodes


@pytest.fixture
def cut_off(tmp_path: Path) -> Iterator[Nodes]:
    """Two stores in two sites; the link was cut, and then the first one was posted to."""
    nodes = Nodes(tmp_path, "ab")
    nodes.wait(1_000)
    nodes.ask(0, lambda replica: organisation_folder.apply(replica, nodes.organisation, "operator"))
    nodes.share("News <i>")
    nodes.cut((0, 1))
    nodes[0].post("News <i>", "waits")
    nodes.wait(60_000)
    yield nodes
    nodes.close()


def status_of(nodes: Nodes, at: int = 0) -> dict[str, Any]:
    """The status of a node, which answers as the test asks it."""
    node, asked = nodes[at].node, nodes[at].node.asked

    def asked_and_done(change: Any) -> Any:
        future = asked(change)
        nodes.settle()
        return future

    node.asked = asked_and_done  # type: ignore[method-assign]
    server: Any = SimpleNamespace(databases=lambda: iter([nodes[at].database]))
    found = replication_status(server, node)
    assert found is not None
    return found


def test_the_status_says_what_waits_for_whom(cut_off: Nodes) -> None:
    found = status_of(cut_off)
    assert (found["state"], found["server"], found["site"]) == ("running", "store0", "a")
    assert [(each["site"], each["is_stalled"]) for each in found["sites"]] == [("b", True)]
    assert found["sites"][0]["waiting"] >= 1
    assert [(each["server"], each["is_up"]) for each in found["links"]] == [("store1", False)]
    assert found["links"][0]["went_bytes"] > 0
    assert [(each["name"], each["is_up"]) for each in found["connectors"]] == [("ab", False)]
    news = next(each for each in found["folders"] if each["folder"] == "News <i>")
    assert news["peers"][0]["server"] == "store1" and news["peers"][0]["lacks"] >= 1
    assert news["peers"][0]["state"] == "not in sync"


def test_a_node_that_waits_says_why_and_no_more(cut_off: Nodes) -> None:
    with cut_off[0].full_disk():
        cut_off[0].node.link_changed(cut_off[1].guid, True)
        cut_off.settle()
        found = status_of(cut_off)
    assert found["state"] == "waiting" and "full" in found["reason"] and "folders" not in found


def test_a_server_that_replicates_nothing_has_no_such_status(cut_off: Nodes) -> None:
    server: Any = None
    assert replication_status(server, None) is None


def test_the_metrics_are_by_folder_and_server(cut_off: Nodes) -> None:
    status = {
        "databases": [],
        "work": [],
        "time_ms": cut_off.clock.now_ms(),
        "replication": status_of(cut_off),
    }
    families = text_string_to_metric_families(Metrics(lambda: status).text().decode())
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert samples["pillarbox_replication_running",] == 1
    assert samples["pillarbox_replication_peer_lacks_changes", "News <i>", "store1"] >= 1
    assert samples["pillarbox_replication_peer_in_sync", "News <i>", "store1"] == 0
    assert samples["pillarbox_replication_row_age_seconds", "News <i>", "store1"] >= 60
    assert samples["pillarbox_replication_backlog_changes", "b"] >= 1
    assert samples["pillarbox_replication_link_up", "store1", "b"] == 0
    assert samples["pillarbox_replication_connector_up", "ab"] == 0


def test_the_page_shows_it_with_a_map_of_the_sites(cut_off: Nodes) -> None:
    shown = replication_part(status_of(cut_off), cut_off.clock.now_ms())
    assert "News &lt;i&gt;" in shown and "<i>" not in shown
    assert "nobody there can be reached" in shown and "<svg" in shown
    assert shown.count("<rect") == 2 and "ab: down" in shown
