"""The door for rights: what it lets through, and what is no transaction."""

from __future__ import annotations

from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import InvalidArgument
from pillarbox.store.mail.rights import STORE, Right, require, require_change

ACTOR = Actor.user("anna")


@pytest.mark.parametrize("right", Right)
def test_every_actor_has_every_right_for_now(database: Database, right: Right) -> None:
    with database.read(ACTOR) as read:
        require(read, right, 5)
    with database.transaction(ACTOR) as txn:
        require(txn, right, 5)
        require_change(txn, right, STORE)


def test_a_read_changes_nothing(database: Database) -> None:
    wrong: Any
    with database.read(ACTOR) as wrong, pytest.raises(InvalidArgument) as refused:
        require_change(wrong, Right.EDIT_ALL, 5)
    assert refused.value.argument == "txn" and "database.transaction(actor)" in refused.value.hint


@pytest.mark.parametrize("ask", [require, require_change])
def test_a_database_is_no_transaction(database: Database, ask: Any) -> None:
    with pytest.raises(InvalidArgument, match="Database"):
        ask(database, Right.READ_ITEMS, 5)
