"""A server that is copied or put back while nobody serves it, and then changed by commands, gives no number
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
from pillarbox.replication.core import writing
from pillarbox.replication.core.replica import Replica
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


def test_a_copy_and_its_original_number_their_changes_anew_once(places: Places) -> None:
    for path in places:
        make_folder(path, "First")
        make_folder(path, "Second")
        assert number_of(path, "First").origin == number_of(path, "Second").origin
    assert number_of(places.original, "First").origin != number_of(places.copy, "First").origin
    assert list(map(incarnations, places)) == [2, 2]


def test_a_change_of_settings_at_a_copy_is_numbered_anew_too(places: Places) -> None:
    for path in places:
        with operation(path, "folder.change_settings") as perform:
            perform(
                folder="Forum", schedule=None, priority="urgent", action="", subject="",
                rights=[], overwrite=[], recursive=False,
            )  # fmt: skip
        make_folder(path, "Second")
    assert number_of(places.original, "Forum").origin != number_of(places.copy, "Forum").origin
    assert list(map(incarnations, places)) == [2, 2]


def test_what_was_put_back_with_its_fence_gives_no_number_that_a_node_gave(places: Places) -> None:
    """The fence agrees, and only others could tell; commands ask nobody."""
    path = places.original
    make_folder(path, "Before")
    run_node(path)
    saved = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    run_node(path, "Told")
    told = number_of(path, "Told")
    assert told.origin == number_of(path, "Before").origin
    for file, data in saved.items():
        file.write_bytes(data)  # in its place: its inode stays
    make_folder(path, "First")
    make_folder(path, "Second")
    assert number_of(path, "First").origin == number_of(path, "Second").origin != told.origin
    assert incarnations(path) == 3


def test_a_node_goes_on_with_the_numbering_that_commands_began(places: Places) -> None:
    make_folder(places.original, "First")
    run_node(places.original, "Second")
    assert number_of(places.original, "First").origin == number_of(places.original, "Second").origin
    assert incarnations(places.original) == 2
    make_folder(places.original, "Third")
    assert incarnations(places.original) == 3, "others may know of all that came before"


def test_the_next_node_at_a_copy_knows_that_it_went_back(places: Places) -> None:
    make_folder(places.copy, "First")
    with pillarbox.Server.open(places.copy) as server:
        replicator = at_rest(server)
        replicator.start()
        waiting = replicator.perform(lambda replica: replica.waiting)
        assert waiting is not None and waiting.went_back
        replicator.stop()


def run_node(path: Path, folder: str = "") -> None:
    """Have a node run, and end, which makes a folder."""
    with pillarbox.Server.open(path) as server:
        replicator = at_rest(server)
        replicator.start()
        if folder:
            replicator.perform(lambda replica: make_as_node(replica, folder))
        replicator.stop()


def make_as_node(replica: Replica, folder: str) -> None:
    replica.waiting = None  # as when the other server has answered
    writing.create_folder(replica, replica.tree.root, folder, {}, "test")


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
