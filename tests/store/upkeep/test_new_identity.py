"""A copied database gets a GUID of its own, or is of no use to anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mailbox_stores import mailbox_store

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Corrupt, DiskFull
from pillarbox.store.mail import mailboxes
from pillarbox.store.upkeep import new_identity
from pillarbox.store.upkeep.check import check_dismounted
from pillarbox.store.upkeep.new_identity import give_new_identity

ACTOR = Actor.task("test")
OLD, NEW = b"x" * 16, b"y" * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = mailbox_store(tmp_path / "db", Tuning())
    made.create()
    made.mount()
    with made.transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
    made.dismount()
    return made.path


def of(path: Path, guid: bytes) -> Database:
    return Database(path, guid, "Mail", DatabaseKind.MAILBOX_STORE)


def test_the_copy_is_mounted_by_its_new_guid_alone(path: Path) -> None:
    give_new_identity(path, OLD, {OLD: NEW})
    with pytest.raises(Corrupt):
        of(path, OLD).mount()
    assert check_dismounted(of(path, NEW), ACTOR).clean


@pytest.mark.parametrize("last", ["_write_header", "_write_identity", "write_checkpoint"])
def test_a_copy_that_was_interrupted_is_refused_by_both(
    path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    def full(*_: Any) -> None:
        raise DiskFull("no space left")

    monkeypatch.setattr(new_identity, last, full)
    with pytest.raises(DiskFull):
        give_new_identity(path, OLD, {OLD: NEW})
    with pytest.raises(Corrupt):
        of(path, NEW).mount()
    if last != "_write_header":  # then nothing has been done
        with pytest.raises(Corrupt):
            of(path, OLD).mount()
