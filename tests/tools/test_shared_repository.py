"""Two servers that share a repository: the mail of one never lands in the other unless that is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

if TYPE_CHECKING:
    from conftest import Pillarbox

DATA = Path(__file__).parents[1] / "data"
STORE = "Mailbox Store"


class Shared(NamedTuple):
    """A repository with snapshots of two servers, of which `other` was backed up last."""

    repo: Path
    server: Path
    other: Path
    first: str
    second: str
    server_id: str
    other_id: str


@pytest.fixture
def shared(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> Shared:
    """Both servers have a mailbox anna; in `other` she has one message, that nobody else has."""
    other = tmp_path / "other" / "mail"
    other.parent.mkdir()
    repo = tmp_path / "repo"
    (tmp_path / "secret.eml").write_bytes(b"Subject: of the other server\n\nsecret\n")
    pillarbox.answer("init", other)
    pillarbox.answer("import", other, "anna", tmp_path / "secret.eml")
    pillarbox.answer("backup", "init", repo, "--no-encryption")
    pillarbox.answer("backup", "create", server, repo)
    pillarbox.answer("backup", "create", other, repo)
    (one, two) = pillarbox.answer("backup", "list", repo)
    return Shared(repo, server, other, one["snapshot"], two["snapshot"], one["server_id"], two["server_id"])


def subjects(pillarbox: Pillarbox, server: Path) -> set[str]:
    found = set()
    for folder in pillarbox.answer("list", server, "anna"):
        found |= {row["subject"] for row in pillarbox.answer("list", server, "anna", folder["folder"])}
    return found


def test_the_latest_for_a_server_is_its_own(pillarbox: Pillarbox, shared: Shared) -> None:
    before = subjects(pillarbox, shared.server)
    for name in ("latest", "@2999-01-01T00:00:00Z"):
        mounted = pillarbox.answer("recovery", "mount", shared.server, shared.repo, name)
        assert [entry["snapshot"] for entry in mounted] == [shared.first] * 2
        pillarbox.answer("recovery", "merge", shared.server, "--all")
        pillarbox.answer("recovery", "dismount", shared.server)
    assert subjects(pillarbox, shared.server) == before
    mounted = pillarbox.answer("recovery", "mount", shared.other, shared.repo, "latest")
    assert [entry["snapshot"] for entry in mounted] == [shared.second] * 2


def test_a_snapshot_of_another_server_is_taken_only_when_that_server_is_named(
    pillarbox: Pillarbox, shared: Shared
) -> None:
    foreign = ("recovery", "mount", shared.server, shared.repo, shared.second)
    assert "another server" in pillarbox.refused(20, *foreign)
    assert "another server" in pillarbox.refused(20, *foreign, "--of", shared.server_id)
    pillarbox.answer("recovery", "create", shared.server)
    pillarbox.refused(20, "backup", "restore", shared.repo, shared.second, "--server", shared.server)
    assert pillarbox.answer("recovery", "list", shared.server)["databases"] == []
    for named in ("mail", "MAIL", shared.other_id[:9]):
        mounted = pillarbox.answer(*foreign[:-1], "latest", "--of", named)
        assert [entry["snapshot"] for entry in mounted] == [shared.second] * 2
        pillarbox.answer("recovery", "dismount", shared.server)
    assert "no snapshot of a server 'none'" in pillarbox.refused(40, *foreign, "--of", "none")


@pytest.mark.parametrize(
    "words",
    [
        ("show", "{repo}", "latest"),
        ("verify", "{repo}", "latest"),
        ("restore", "{repo}", "latest", "--to", "{repo}-restored"),
        ("copy", "{repo}", "{repo}-copy", "latest"),
        ("diff", "{repo}", "latest", "latest"),
        ("forget", "{repo}", "latest", "--yes"),
        ("show", "{repo}", "@2999-01-01T00:00:00Z"),
    ],
)
def test_where_no_server_is_named_the_latest_of_several_is_not_guessed(
    pillarbox: Pillarbox, shared: Shared, words: tuple[str, ...]
) -> None:
    pillarbox.answer("backup", "init", f"{shared.repo}-copy", "--no-encryption")
    call = ("backup", *(word.format(repo=shared.repo) for word in words))
    said = pillarbox.refused(26, *call)
    assert "2 servers" in said and "--of" in said and shared.server_id in said and shared.other_id in said
    assert pillarbox.run(*call, "--of", "server").exit_code == 0
    remaining = {each["snapshot"] for each in pillarbox.answer("backup", "list", shared.repo)}
    assert shared.second in remaining, "nothing of the other was touched"


def test_of_two_servers_of_one_name_the_id_tells(
    pillarbox: Pillarbox, shared: Shared, tmp_path: Path
) -> None:
    twin = tmp_path / "twin" / "mail"
    twin.parent.mkdir()
    pillarbox.answer("init", twin)
    third = pillarbox.answer("backup", "create", twin, shared.repo)
    show = ("backup", "show", shared.repo, "latest", "--of")
    assert "2 servers" in pillarbox.refused(26, *show, "mail")
    assert pillarbox.answer(*show, shared.other_id)["snapshot"] == shared.second
    assert pillarbox.answer(*show, third["server_id"])["snapshot"] == third["snapshot"]


def test_a_restore_takes_for_each_database_the_newest_snapshot_that_holds_it(
    pillarbox: Pillarbox, shared: Shared
) -> None:
    pillarbox.answer("dismount", shared.server, STORE)
    assert pillarbox.run("backup", "create", shared.server, shared.repo).exit_code == 54
    pillarbox.answer("mount", shared.server, STORE)
    entry, public = pillarbox.answer("recovery", "mount", shared.server, shared.repo, "latest")
    assert (entry["database"], entry["snapshot"]) == (STORE, shared.first)
    assert public["snapshot"] not in (shared.first, shared.second)


def test_all_of_one_server_is_copied(pillarbox: Pillarbox, shared: Shared) -> None:
    copy = f"{shared.repo}-copy"
    pillarbox.answer("backup", "init", copy, "--no-encryption")
    assert pillarbox.answer("backup", "copy", shared.repo, copy, "--of", "mail")["copied"] == 1
    (copied,) = pillarbox.answer("backup", "list", copy)
    assert copied["server_id"] == shared.other_id
