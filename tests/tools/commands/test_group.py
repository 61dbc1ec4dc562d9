"""Storage groups from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Pillarbox

STORE = "Mailbox Store"


def test_groups_come_change_and_go(pillarbox: Pillarbox, big_server: Path) -> None:
    pillarbox.answer("group", "create", big_server, "Second")
    assert pillarbox.answer("group", "rename", big_server, "second", "Staff") == {"group": "Staff"}
    pillarbox.answer("database", "create", big_server, "Mail 2", "--group", "Staff")
    assert "delete its databases first" in pillarbox.refused(52, "group", "delete", big_server, "Staff")
    pillarbox.answer("database", "delete", big_server, "Mail 2", "--yes")
    pillarbox.answer("group", "delete", big_server, "Staff")
    (first,) = pillarbox.answer("group", "list", big_server)
    assert first["databases"] == [STORE, "Public Folder Store"]


def test_a_standard_server_has_one_group_and_one_store_of_a_kind(pillarbox: Pillarbox, server: Path) -> None:
    assert "enterprise allows more" in pillarbox.refused(20, "group", "create", server, "Second")
    assert "enterprise allows more" in pillarbox.refused(20, "database", "create", server, "Second")
