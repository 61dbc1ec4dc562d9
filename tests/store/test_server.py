"""A server opens with the databases it can mount, and says why the rest did not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.database import MountState
from pillarbox.store.errors import AlreadyExists, InvalidSetting, NotFound, UnsupportedVersion
from pillarbox.store.events import EventId
from pillarbox.store.server import Server
from pillarbox.store.server_config import CONFIG_FILE

ANNA = Actor.administrator("root")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Server.create(tmp_path / "server", clock=VirtualClock()).close()
    return tmp_path / "server"


def test_a_mailbox_is_found_again_after_the_server_was_closed(path: Path) -> None:
    with Server.open(path) as server:
        created = server.create_mailbox(ANNA, "anna")[1]
    with Server.open(path, read_only=True) as server:
        assert server.find_mailbox("Anna")[1] == created
        with pytest.raises(NotFound):
            server.find_mailbox("bert")


def test_a_database_that_cannot_be_mounted_leaves_the_others_mounted(path: Path) -> None:
    shutil.rmtree(path / "First Storage Group" / "Public Folder Store")
    with Server.open(path) as server:
        states = {each.name: each.state for each in server.databases()}
        assert states["Mailbox Store"] is MountState.MOUNTED
        assert isinstance(server.not_mounted["Public Folder Store"], NotFound)
        assert [each.event_id for each in server.events.query(event_id=EventId.DATABASE_NOT_MOUNTED)]


def test_a_second_server_at_the_same_place_is_refused(path: Path) -> None:
    with pytest.raises(AlreadyExists):
        Server.create(path)


def test_a_folder_that_is_no_server_is_told_apart_from_a_damaged_one(path: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Server.open(tmp_path)
    config = (path / CONFIG_FILE).read_text()
    (path / CONFIG_FILE).write_text(config.replace("version = 1", "version = 2"))
    with pytest.raises(UnsupportedVersion):
        Server.open(path)
    (path / CONFIG_FILE).write_text("format = ")
    with pytest.raises(InvalidSetting):
        Server.open(path)
