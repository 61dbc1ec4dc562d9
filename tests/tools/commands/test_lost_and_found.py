"""Folders in Lost and Found, by the commands of replication."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

import pillarbox as library
from pillarbox.store.mail import public_folders

if TYPE_CHECKING:
    from conftest import Pillarbox

ACTOR = library.Actor.task("test")
LOST = public_folders.LOST_AND_FOUND


@pytest.fixture
def server(pillarbox: Pillarbox, tmp_path: Path) -> Path:
    """The one server of an organisation, with a folder in Lost and Found."""
    place = tmp_path / "b1"
    pillarbox.answer("init", place)
    pillarbox.answer("org", "init", place, "Example", "--name", "b1", "--site", "berlin")
    with library.Server.open(place) as opened:
        store = opened.database("Public Folder Store")
        with store.transaction(ACTOR) as txn:
            library.folders.create(txn, public_folders.root_id(txn, LOST), "Stray")
    return place


def test_a_folder_in_lost_and_found_is_named_by_its_path(pillarbox: Pillarbox, server: Path) -> None:
    (row,) = pillarbox.answer("replica", "list", server, "Lost and Found/Stray")
    assert row["server"] == "b1"
    assert pillarbox.answer("folder", "settings", server, "/", "lost and found/stray")["priority"] == "normal"


def test_a_folder_that_has_a_setting_already_stays_as_it_is(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("folder", "create", server, "/", "News/Old", "--parents")
    words = ("folder", "settings", server, "/", "News", "--priority", "urgent", "--schedule", "never")
    assert [pillarbox.answer(*words, "--recursive")["changed"] for _ in range(2)] == [2, 0]
    assert pillarbox.answer("folder", "settings", server, "/", "News", "--schedule", "")["changed"] == 1


def test_one_of_users_comes_first(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("folder", "create", server, "/", "Lost and Found/Stray", "--parents")
    pillarbox.answer("folder", "settings", server, "/", "Lost and Found/Stray", "--priority", "urgent")
    pillarbox.answer("folder", "delete", server, "/", "Lost and Found", "--with-contents", "--yes")
    assert pillarbox.answer("folder", "settings", server, "/", "Lost and Found/Stray")["priority"] == "normal"


def test_the_hierarchy_is_told_from_a_folder_that_is_called_so(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("folder", "create", server, "/", "the hierarchy")
    assert {"/", "the hierarchy"} <= {
        each["folder"] for each in pillarbox.answer("replication", "status", server)
    }
    assert pillarbox.answer("replication", "explain", server)["folder"] == "/"
    shown = pillarbox.run("replication", "status", server).stdout.splitlines()
    assert {"/ (the hierarchy): in sync", "the hierarchy: in sync"} <= set(shown)
