"""Names are read from tables that nobody has mounted; who mounts them meanwhile makes no damage of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables_process import Row
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Corrupt, Retryable
from pillarbox.store.mail import mailboxes
from pillarbox.store.names import name_key
from pillarbox.store.upkeep import names_in_tables as module
from pillarbox.store.upkeep.names_in_tables import names_in_tables

ACTOR = Actor.task("test")
BENT = ["page 3 is bent"]


def create(database: Database, name: str) -> bytes:
    database.mount()
    with database.transaction(ACTOR) as txn:
        guid = mailboxes.create(txn, name).guid
    database.dismount()
    return guid


@pytest.fixture
def dismounted(database: Database) -> Database:
    database.dismount()
    return database


def test_each_name_leads_to_the_guid_of_its_mailbox(dismounted: Database) -> None:
    guids = {name_key(name): create(dismounted, name) for name in ("anna", "bert")}
    assert names_in_tables(dismounted.path) == guids


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[int], list[str]]) -> None:
    """Let something happen while the pages are verified, by number of the time, with what is found."""
    verify, times = module.verify_tables, iter(range(1000))
    monkeypatch.setattr(module, "verify_tables", lambda path: happens(next(times)) or verify(path))


def test_pages_that_changed_because_a_process_wrote_meanwhile_are_no_damage(
    dismounted: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(time: int) -> list[str]:
        if time:
            return []
        create(dismounted, "anna")
        return BENT

    meanwhile(monkeypatch, write)
    assert set(names_in_tables(dismounted.path)) == {name_key("anna")}


def test_names_of_before_are_not_taken_for_those_of_now(
    dismounted: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = module.TableRows

    class RowsOfBefore(rows):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Iterator[Row]:
            found = list(super().__iter__())
            if not found:
                create(dismounted, "anna")
            return iter(found)

    monkeypatch.setattr(module, "TableRows", RowsOfBefore)
    assert set(names_in_tables(dismounted.path)) == {name_key("anna")}


def test_a_database_that_never_rests_is_to_be_tried_again(
    dismounted: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(time: int) -> list[str]:
        create(dismounted, f"user {time}")
        return BENT

    meanwhile(monkeypatch, write)
    with pytest.raises(Retryable):
        names_in_tables(dismounted.path)


def test_damage_of_a_database_that_rests_is_told(
    dismounted: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda time: BENT)
    with pytest.raises(Corrupt, match="bent"):
        names_in_tables(dismounted.path)
