"""Replication from the command line: simulations, and what it shows of replicas and conflicts."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from organisations import make_organisation

import pillarbox as pillarbox_of
from pillarbox.replication.core import applying, hierarchy, organisation_folder
from pillarbox.tools.commands import replication
from pillarbox.tools.operations import replicating
from pillarbox.tools.operations.replication import conflicts
from tests.shared.nodes import Nodes

if TYPE_CHECKING:
    from conftest import Pillarbox


def test_a_simulation_says_what_happened_in_it(pillarbox: Pillarbox) -> None:
    words = ("replication", "simulate", "--seed", 3, "--nodes", 3, "--sites", 1, "--steps", 30, "--seeds", 2)
    answer = pillarbox.answer(*words)
    assert answer["seeds"] == 2 and answer["violations"] == [] and answer["trace"] == []
    assert answer["messages"]["Status"] > 0 and answer["converged_ms_max"] > 0
    assert answer == pillarbox.answer(*words), "nothing in it is of the wall clock"
    assert "2 seeds" in pillarbox.run(*words).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("replication", "simulate", "--nodes", 4, "--sites", 9), "4 stores make at most 4 sites"),
        (("replication", "resume", "SERVER", "--rate", 0), "leave it out for no limit"),
        (("replica", "migrate", "SERVER", *["--from", "a", "--to", "b", "--add", "--remove"]), "say one of"),
        (("replica", "migrate", "SERVER", *["--from", "a", "--to", "b", "--report", "--add"]), "say one of"),
        (("folder", "find", "SERVER", "/", "--rights", "read-items"), "say --subject ACCOUNT too"),
    ],
)
def test_options_that_would_be_left_out_silently_are_refused(
    pillarbox: Pillarbox, tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    server = make_organisation(tmp_path, {"a": "berlin", "b": "berlin"})["a"]
    assert said in pillarbox.refused(2, *(server if word == "SERVER" else word for word in words))


@pytest.mark.parametrize(
    ("words", "changed", "both"),
    [((), 0, 0), (("--report",), 0, 0), (("--add",), 1, 1), (("--remove",), 0, 0)],
)
def test_a_migration_does_the_one_step_that_is_said(
    pillarbox: Pillarbox, tmp_path: Path, words: tuple[str, ...], changed: int, both: int
) -> None:
    server = make_organisation(tmp_path, {"a": "berlin", "b": "berlin"})["a"]
    pillarbox.answer("folder", "create", server, "/", "Forum")
    ends = ("--from", "a", "--to", "b", "--public")
    told = pillarbox.answer("replica", "migrate", server, *ends, *words)
    assert (told["changed"], told["after"]["public folders"]["on_both"]) == (changed, both)


def test_a_violation_ends_with_1_and_the_trace_of_its_seed(
    pillarbox: Pillarbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_all_gaps(replica: Any, folder: Any, source: bytes, pair: Any) -> None:
        replica.state(folder).knowledge.claim(pair.gaps)

    monkeypatch.setattr(applying, "tell_gaps", take_all_gaps)
    result = pillarbox.run("replication", "simulate", "--seeds", 6)
    assert result.exit_code == 1
    assert re.search(r"^Seed \d: ", result.stdout, re.MULTILINE), "the first violated seed, with its trace"
    assert "VIOLATED" in result.stdout


def drop_own_replica(path: Path) -> None:
    """Have a server hold Forum no more, as after a removal that the other replica has allowed."""
    with pillarbox_of.Server.open(path) as server:
        folder = replicating.folder_id(server, "Forum")
        replicating.replicator_at_rest(server).perform(lambda replica: hierarchy.drop(replica, folder))


def test_a_server_without_a_replica_does_not_say_that_others_were_never_heard(
    pillarbox: Pillarbox, tmp_path: Path
) -> None:
    paths = make_organisation(tmp_path, {"b1": "berlin", "p1": "paris"})
    b1 = paths["b1"]
    pillarbox.answer("folder", "create", b1, "/", "Forum")
    pillarbox.answer("replica", "add", b1, "Forum", "p1")
    found = pillarbox.answer("replica", "list", b1, "Forum")
    told = {each["server"]: (each["state"], each["items"], each["size_bytes"]) for each in found}
    assert told == {"b1": ("in sync", 0, 0), "p1": ("not heard of yet", None, None)}
    drop_own_replica(b1)
    (row,) = pillarbox.answer("replica", "list", b1, "Forum")
    assert (row["server"], row["state"], row["items"]) == ("p1", "not known here", None)
    assert "holds no replica of Forum" in pillarbox.run("replica", "list", b1, "Forum").stdout
    status = pillarbox.run("replication", "status", b1, "Forum")
    assert status.exit_code == replication.NOT_IN_SYNC
    assert "this server holds no replica" in status.stdout


def test_a_stop_is_said_wherever_somebody_asks_why_nothing_comes(
    pillarbox: Pillarbox, tmp_path: Path
) -> None:
    b1 = make_organisation(tmp_path, {"b1": "berlin", "p1": "paris"})["b1"]
    pillarbox.answer("folder", "create", b1, "/", "Forum")
    pillarbox.answer("replica", "add", b1, "Forum", "p1")
    pillarbox.answer("replication", "stop", b1)
    for command in ("status", "explain"):
        told = pillarbox.run("replication", command, b1, "Forum").stdout
        assert "content is stopped in the whole organisation; see" in told
    pillarbox.answer("replication", "resume", b1, "--at", "2099-01-01T00:00")
    assert "stopped in the whole organisation until 2099-01-01" in (
        pillarbox.run("replication", "explain", b1, "Forum").stdout
    )
    pillarbox.answer("replication", "resume", b1)
    assert "stopped" not in pillarbox.run("replication", "explain", b1, "Forum").stdout


def test_content_that_flows_is_not_resumed_later(pillarbox: Pillarbox, tmp_path: Path) -> None:
    b1 = make_organisation(tmp_path, {"b1": "berlin", "p1": "paris"})["b1"]
    refused = pillarbox.run("replication", "resume", b1, "--at", "2099-01-01T00:00")
    assert refused.exit_code == pillarbox_of.errors.Refused.exit_code and "replication stop" in refused.stderr
    assert pillarbox.answer("replication", "explain", b1)["held_back"] is None


def test_a_server_is_not_its_own_source(pillarbox: Pillarbox, tmp_path: Path) -> None:
    b1 = make_organisation(tmp_path, {"b1": "berlin", "p1": "paris"})["b1"]
    told = pillarbox.refused(27, "replication", "prefer", b1, "--from", "p1", "--from", "B1")
    assert "b1 cannot be its own source" in told
    told = pillarbox.refused(27, "replication", "prefer", b1, "--for", "p1", "--from", "p1")
    assert "p1 cannot be its own source" in told
    file = tmp_path / "example.toml"
    file.write_text(pillarbox.run("org", "export", b1).stdout)
    assert pillarbox.answer("org", "apply", b1, file) == {"differences": []}, "what it says can be applied"


def test_versions_of_a_conflict_are_told_apart(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, "aa")
    try:
        nodes.wait(1_000)
        nodes.ask(0, lambda replica: organisation_folder.apply(replica, nodes.organisation, "operator"))
        nodes.share("News")
        nodes[0].post("News", "first")
        nodes.wait(1_000)
        nodes.edit_apart("News", b"mine", b"longer")
        for store in nodes.stores:
            server: Any = SimpleNamespace(databases=lambda of=store: iter([of.database]))
            (found,) = conflicts(server)
            told = {each["server"]: each["size_bytes"] for each in found["versions"]}
            assert told == {"store0": 22, "store1": 24}
            lines = list(replication._conflict_lines([found], Path("/srv/mail")))
            for version in found["versions"]:
                (line,) = (each for each in lines if version["id"] in each.split())
                assert f"anna at {version['server']}  {version['size_bytes']} B" in line
                assert re.search(r"\d\d:\d\d:\d\d", line), "to the second"
            assert "pillarbox show /srv/mail / VERSION-ID" in lines[-2]
    finally:
        nodes.close()
