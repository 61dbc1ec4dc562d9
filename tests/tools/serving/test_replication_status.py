"""What a serving process shows of replication: the status, the metrics, and the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")
pytest.importorskip("prometheus_client", reason="prometheus-client (the extra `serve`) is not installed")

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pillarbox.replication.core import organisation_folder
from pillarbox.store.access import Actor
from pillarbox.store.errors import Refused
from pillarbox.store.mail import folders, public_folders
from pillarbox.tools.operations.replicating import folder_paths
from pillarbox.tools.serving import replication_status as replication_status_module
from pillarbox.tools.serving.metrics import Metrics
from pillarbox.tools.serving.page_replication import replication_part
from pillarbox.tools.serving.replication_status import Conflicts, Paths, replication_status
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


def server_of(nodes: Nodes, at: int = 0) -> Any:
    return SimpleNamespace(databases=lambda: iter([nodes[at].database]))


def status_of(nodes: Nodes, at: int = 0) -> dict[str, Any]:
    """The status of a node, which answers as the test asks it."""
    node, asked = nodes[at].node, nodes[at].node.asked

    def asked_and_done(change: Any) -> Any:
        future = asked(change)
        nodes.settle()
        return future

    node.asked = asked_and_done  # type: ignore[method-assign]
    found = replication_status(node, Paths(server_of(nodes, at)))
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


def test_nothing_waits_for_the_site_of_the_server_itself(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "aa")
    try:
        nodes[0].change(lambda txn: public_folders.create(txn, "News"))
        nodes[0].post("News", "first")
        nodes.wait(10_000)
        nodes.add_replica(0, "News", nodes[1].guid)
        nodes.wait(60_000)
        assert nodes[1].subjects("News") == ["first"]  # an answer has brought it
        assert status_of(nodes)["sites"] == []
    finally:
        nodes.close()


def test_a_node_that_waits_says_why_and_no_more(cut_off: Nodes) -> None:
    with cut_off[0].full_disk():
        cut_off[0].node.link_changed(cut_off[1].guid, True)
        cut_off.settle()
        found = status_of(cut_off)
    assert found["state"] == "waiting" and "full" in found["reason"] and "folders" not in found


def test_a_node_is_not_left_with_what_nobody_waits_for(
    cut_off: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread does nothing meanwhile, as when it is busy for long."""
    looked: list[str] = []
    monkeypatch.setattr(replication_status_module, "_WAIT_S", 0)
    monkeypatch.setattr(replication_status_module, "_hierarchy", lambda _: looked.append("hierarchy"))
    monkeypatch.setattr(replication_status_module, "_told", lambda *_: looked.append("overview"))
    node: Any = cut_off[0].node
    for paths in (Paths(server_of(cut_off)), SimpleNamespace(of=lambda _: {})):
        for _ in range(3):
            found = replication_status(node, paths)  # type: ignore[arg-type]
            assert found is not None and found["reason"] == "it is busy" and "folders" not in found
    cut_off.settle()
    assert looked == []
    monkeypatch.undo()
    assert status_of(cut_off)["folders"]


def test_a_node_ends_with_a_question_that_nobody_waits_for(cut_off: Nodes) -> None:
    node: Any = cut_off[0].node
    given_up, waited_for = node.asked(lambda replica: replica.site), node.asked(lambda replica: replica.site)
    assert given_up.cancel()
    assert node.stop()
    with pytest.raises(Refused, match="it has stopped"):
        waited_for.result(0)


def test_a_server_that_replicates_nothing_has_no_such_status(cut_off: Nodes) -> None:
    server: Any = None
    assert replication_status(None, Paths(server)) is None


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


def test_each_folder_has_metrics_of_its_own(cut_off: Nodes) -> None:
    lost = public_folders.LOST_AND_FOUND
    cut_off.share("the hierarchy")
    with cut_off[0].database.transaction(Actor.administrator("test")) as txn:
        of_users = public_folders.create(txn, lost)
        for parent in (of_users.folder_id, public_folders.root_id(txn, lost)):
            folders.create(txn, parent, "Stray")
    cut_off.wait(1_000)
    found = status_of(cut_off)
    status = {"databases": [], "work": [], "time_ms": cut_off.clock.now_ms(), "replication": found}
    families = text_string_to_metric_families(Metrics(lambda: status).text().decode())
    (missing,) = (each for each in families if each.name == "pillarbox_replication_missing_changes")
    named = [sample.labels["folder"] for sample in missing.samples]
    assert sorted(named) == ["/", f"/{lost}/Stray", lost, f"{lost}/Stray", "News <i>", "the hierarchy"]
    page = replication_part(found, cut_off.clock.now_ms())
    assert ">/ (the hierarchy)<" in page and ">the hierarchy<" in page


def test_the_page_shows_it_with_a_map_of_the_sites(cut_off: Nodes) -> None:
    shown = replication_part(status_of(cut_off), cut_off.clock.now_ms())
    assert "News &lt;i&gt;" in shown and "<i>" not in shown
    assert "nobody there can be reached" in shown and "<svg" in shown
    assert shown.count("<rect") == 2 and "ab: down" in shown
    assert "<h2>Refused</h2><p class=dim>None.</p>" in shown


def test_folders_are_shown_by_name_after_the_hierarchy(cut_off: Nodes) -> None:
    found = status_of(cut_off)
    (hierarchy,) = (each for each in found["folders"] if each["folder"] == "/")
    names = ("Zoo", "art", "Books")
    shown = replication_part({**found, "folders": [{**hierarchy, "folder": each} for each in names]}, 0)
    assert sorted(names, key=shown.index) == ["art", "Books", "Zoo"]
    other = {**hierarchy, "folder": "Art"}
    shown = replication_part({**found, "folders": [other, hierarchy]}, 0)
    assert shown.index("the hierarchy") < shown.index("Art")


@pytest.mark.parametrize(("sites_count", "height"), [(1, 74), (2, 74), (3, 320)])
def test_the_map_is_as_high_as_its_sites(cut_off: Nodes, sites_count: int, height: int) -> None:
    found = status_of(cut_off)
    sites = [{"site": name, "servers": []} for name in "abc"[:sites_count]]
    shown = replication_part({**found, "map": sites}, cut_off.clock.now_ms())
    assert f'viewBox="0 0 640 {height}"' in shown
    tops = [int(top) for top in re.findall(r'<rect x="\d+" y="(\d+)"', shown)]
    assert len(tops) == sites_count and min(tops) <= 64 and max(tops) <= height - 64


def test_paths_are_looked_up_again_only_when_the_hierarchy_has_changed(
    cut_off: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def paths_of(server: Any) -> dict[Any, str]:
        looked.append(1)
        return folder_paths(server)

    monkeypatch.setattr("pillarbox.tools.serving.replication_status.folder_paths", paths_of)
    status_of(cut_off)
    paths, node = Paths(server_of(cut_off)), cut_off[0].node
    assert [replication_status(node, paths) for _ in range(3)]
    assert len(looked) == 2
    folder = cut_off[0].folder("News <i>")
    cut_off[0].change(lambda txn: folders.rename(txn, folder, "Olds"))
    found = replication_status(node, paths)
    assert found is not None and "Olds" in [each["folder"] for each in found["folders"]]
    assert len(looked) == 3


def test_conflicts_are_shown_and_looked_for_where_something_has_changed(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "aa")
    try:
        nodes.share("News")
        nodes[0].post("News", "first")
        nodes.wait(1_000)
        conflicts = Conflicts(server_of(nodes))
        assert conflicts.rows() == []
        nodes.edit_apart("News", b"mine", b"theirs")
        (row,) = conflicts.rows()
        assert (row["folder"], row["subject"], row["versions"]) == ("News", "Conflict: first", 2)
        shown = replication_part({**status_of(nodes), "conflicts": [row]}, nodes.clock.now_ms())
        assert "Conflicts" in shown and row["message"] in shown
    finally:
        nodes.close()
