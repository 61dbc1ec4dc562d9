"""`replica add --from-snapshot`: a backup of one server fills the replica of another, served or not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")
pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from organisations import make_organisation
from served_organisations import Organisation, eventually

import pillarbox as pillarbox_of

if TYPE_CHECKING:
    from conftest import Pillarbox


@pytest.fixture
def paris_is_empty(
    pillarbox: Pillarbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Organisation]:
    """Two servers; the folders of one, with posts, are in a repository; the other knows of the folders."""
    monkeypatch.setenv("PILLARBOX_PASSPHRASE", "horse")
    organisation = Organisation(pillarbox, tmp_path, {"b1": "berlin", "p1": "paris"})
    try:
        for name in organisation.paths:
            organisation.serve(name)
        for folder in ("Forum", "Forum/Old"):
            organisation.answer("b1", "folder create", "/", folder)
            mail = tmp_path / "posts" / folder
            mail.mkdir(parents=True)
            for k in range(20):
                noise = random.Random(k).randbytes(3000).hex()
                (mail / f"{k}.eml").write_text(f"Subject: {folder} {k}\n\n{noise}\n")
        organisation.answer("b1", "import", "/", tmp_path / "posts" / "Forum")
        eventually(
            lambda: organisation.run("replica", "list", organisation.paths["p1"], "Forum/Old").exit_code == 0
        )
        organisation.in_sync("b1", "Forum")
        repository = tmp_path / "repository"
        assert organisation.run("backup", "init", repository).exit_code == 0
        assert organisation.run("backup", "create", organisation.paths["b1"], repository).exit_code == 0
        yield organisation
    finally:
        organisation.close()


def seeded(organisation: Organisation, *words: str) -> list[tuple[str, int]]:
    repository = organisation.place / "repository"
    answer = organisation.answer(
        "p1", "replica add", "Forum", "p1", "--from-snapshot", repository, "latest", *words
    )
    return [(each["folder"], each["items"]) for each in answer["seeded"]]


@pytest.mark.slow
def test_a_served_server_is_filled_from_a_backup_of_another(paris_is_empty: Organisation) -> None:
    paris_is_empty.post("b1", "Forum", "later")
    assert seeded(paris_is_empty, "--recursive") == [("Forum", 20), ("Forum/Old", 20)]
    for folder, posts in (("Forum", 21), ("Forum/Old", 20)):
        paris_is_empty.in_sync("p1", folder)
        assert len(paris_is_empty.subjects("p1", folder)) == posts
        assert paris_is_empty.subjects("p1", folder) == paris_is_empty.subjects("b1", folder)


@pytest.mark.slow
def test_a_server_that_nobody_serves_is_filled_from_a_backup_of_another(paris_is_empty: Organisation) -> None:
    assert paris_is_empty.end("p1") == 0
    assert seeded(paris_is_empty) == [("Forum", 20)]
    assert len(paris_is_empty.subjects("p1", "Forum")) == 20
    paris_is_empty.post("b1", "Forum", "later")
    paris_is_empty.serve("p1")
    eventually(lambda: len(paris_is_empty.subjects("p1", "Forum")) == 21)
    paris_is_empty.in_sync("p1", "Forum")


@pytest.mark.slow
def test_another_servers_replica_is_not_filled_here(paris_is_empty: Organisation) -> None:
    repository, path = paris_is_empty.place / "repository", paris_is_empty.paths["p1"]
    words = ("replica", "add", path, "Forum", "b1", "--from-snapshot", repository, "latest")
    refused = paris_is_empty.run(*words)
    assert refused.exit_code != 0
    assert "run the command on b1" in refused.stderr


@pytest.mark.slow
def test_a_backup_of_public_folders_of_no_organisation_is_refused(
    pillarbox: Pillarbox, paris_is_empty: Organisation
) -> None:
    alone, repository = paris_is_empty.place / "alone", paris_is_empty.place / "other"
    pillarbox_of.Server.create(alone).close()
    assert pillarbox.run("backup", "init", repository).exit_code == 0
    assert pillarbox.run("backup", "create", alone, repository).exit_code == 0
    path = paris_is_empty.paths["p1"]
    refused = pillarbox.run("replica", "add", path, "Forum", "p1", "--from-snapshot", repository, "latest")
    assert refused.exit_code != 0
    assert "belonged to no organisation" in refused.stderr
    assert "p1" not in {each["server"] for each in paris_is_empty.answer("p1", "replica list", "Forum")}


def backed_up(pillarbox: Pillarbox, server: Path, repository: Path) -> Path:
    assert pillarbox.run("backup", "init", repository).exit_code == 0
    assert pillarbox.run("backup", "create", server, repository).exit_code == 0
    return repository


def test_a_snapshot_of_a_server_that_did_not_hold_the_folder_is_refused(
    pillarbox: Pillarbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILLARBOX_PASSPHRASE", "horse")
    paths = make_organisation(tmp_path, {"b1": "berlin", "p1": "paris"})
    pillarbox.answer("folder", "create", paths["b1"], "/", "Forum")
    pillarbox.answer("replica", "replace", paths["b1"], "Forum", "b1", "p1")
    before = pillarbox.answer("replica", "list", paths["b1"], "Forum")
    repository = backed_up(pillarbox, paths["p1"], tmp_path / "repository")
    add = ("replica", "add", paths["b1"], "Forum", "b1", "--from-snapshot", repository, "latest")
    refused = pillarbox.run(*add)
    assert refused.exit_code == 58
    assert "held no replica of Forum" in refused.stderr
    assert "a server that holds it (p1)" in refused.stderr
    assert pillarbox.answer("replica", "list", paths["b1"], "Forum") == before


def test_folders_below_that_are_not_in_the_snapshot_are_named(
    pillarbox: Pillarbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILLARBOX_PASSPHRASE", "horse")
    paths = make_organisation(tmp_path, {"b1": "berlin", "p1": "paris"})
    pillarbox.answer("folder", "create", paths["b1"], "/", "Forum")
    pillarbox.run("replication", "status", paths["b1"])  # the replicator notes that it holds the folder
    repository = backed_up(pillarbox, paths["b1"], tmp_path / "repository")
    pillarbox.answer("folder", "create", paths["b1"], "/", "Forum/New")
    words = ("replica", "add", paths["b1"], "Forum", "b1", "--recursive", "--from-snapshot", repository)
    answer = pillarbox.answer(*words, "latest")
    assert [each["folder"] for each in answer["seeded"]] == ["Forum"]
    assert answer["not_in_snapshot"] == ["Forum/New"]
    assert "Forum/New: not in the snapshot" in pillarbox.run(*words, "latest").stdout
