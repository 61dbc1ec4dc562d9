"""A server that is copied while nobody serves it, and changed at both places by commands, gives no number
twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")
pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from organisations import make_organisation

import pillarbox
from pillarbox.replication.node.store_replicator import StoreReplicator
from pillarbox.store.change_number import ChangeNumber
from pillarbox.store.engine import numbering
from pillarbox.store.mail import public_folders
from pillarbox.tools.operations.replicating import joined_store, replicator_at_rest
from pillarbox.tools.options import ACTOR
from pillarbox.tools.serving.performing import operation


class Places(NamedTuple):
    """A server whose node has run and ended, and a copy of it with its fence."""

    original: Path
    copy: Path


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of two servers; its node has never run."""
    path = make_organisation(tmp_path_factory.mktemp("joined"), {"b1": "berlin", "b2": "berlin"})["b1"]
    make_folder(path, "Forum")
    return path


@pytest.fixture
def places(joined: Path, tmp_path: Path) -> Places:
    original, copy = tmp_path / "original", tmp_path / "copy"
    shutil.copytree(joined, original)
    with pillarbox.Server.open(original) as server:
        replicator = at_rest(server)
        replicator.start()
        replicator.stop()
    shutil.copytree(original, copy)
    return Places(original, copy)


def test_a_copy_numbers_its_changes_anew_once_and_its_original_does_not(places: Places) -> None:
    for path in places:
        make_folder(path, "First")
        make_folder(path, "Second")
        assert number_of(path, "First").origin == number_of(path, "Second").origin
    assert number_of(places.original, "First").origin != number_of(places.copy, "First").origin
    assert list(map(incarnations, places)) == [1, 2]


def test_a_change_of_settings_at_a_copy_is_numbered_anew_too(places: Places) -> None:
    for path in places:
        with operation(path, "folder.change_settings") as perform:
            perform(
                folder="Forum", schedule=None, priority="urgent", action="", subject="",
                rights=[], overwrite=[], recursive=False,
            )  # fmt: skip
        make_folder(path, "Second")
    assert number_of(places.original, "Forum").origin != number_of(places.copy, "Forum").origin
    assert list(map(incarnations, places)) == [1, 2]


def test_the_next_node_at_a_copy_knows_that_it_went_back(places: Places) -> None:
    make_folder(places.copy, "First")
    with pillarbox.Server.open(places.copy) as server:
        replicator = at_rest(server)
        replicator.start()
        waiting = replicator.perform(lambda replica: replica.waiting)
        assert waiting is not None and waiting.went_back
        replicator.stop()


def at_rest(server: pillarbox.Server) -> StoreReplicator:
    replicator = replicator_at_rest(server)
    assert isinstance(replicator, StoreReplicator)
    return replicator


def make_folder(path: Path, name: str) -> None:
    with operation(path, "folder.create") as perform:
        perform(mailbox="/", folder=name, parents=False)


def number_of(path: Path, name: str) -> ChangeNumber:
    """The number of a folder's version, as all stores call it."""
    with pillarbox.Server.open(path, read_only=True) as server, joined_store(server).read(ACTOR) as read:
        return numbering.as_change_number(read, public_folders.find(read, name).versions[0])


def incarnations(path: Path) -> int:
    with pillarbox.Server.open(path, read_only=True) as server, joined_store(server).read(ACTOR) as read:
        return len(list(numbering.own_replicas(read)))
