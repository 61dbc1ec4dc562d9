"""Databases from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox.store.server import Server

if TYPE_CHECKING:
    from conftest import Pillarbox

STORE = "Mailbox Store"


def test_databases_come_change_and_go(pillarbox: Pillarbox, big_server: Path) -> None:
    made = pillarbox.answer("database", "create", big_server, "Forum", "--kind", "public-folder")
    assert made["kind"] == "public folder store"
    assert pillarbox.answer("database", "rename", big_server, "forum", "Board") == {"database": "Board"}
    listed = {each["database"]: each for each in pillarbox.answer("database", "list", big_server)}
    assert listed["Board"]["guid"] == made["guid"]
    assert "nothing was done" in pillarbox.refused(20, "database", "delete", big_server, "Board", input="\n")
    assert pillarbox.run("database", "delete", big_server, "Board", input="y\n").exit_code == 0
    assert not Path(listed["Board"]["path"]).exists()
    assert "Board" not in pillarbox.run("database", "list", big_server).stdout


def test_with_several_groups_a_new_database_needs_the_name_of_one(
    pillarbox: Pillarbox, big_server: Path
) -> None:
    pillarbox.answer("group", "create", big_server, "Second")
    assert "First Storage Group, Second" in pillarbox.refused(20, "database", "create", big_server, "Mail 2")


def test_a_database_in_use_is_not_deleted(pillarbox: Pillarbox, server: Path) -> None:
    with Server.open(server):
        assert "another process" in pillarbox.refused(11, "database", "delete", server, STORE, "--yes")
    assert pillarbox.answer("check", server)["clean"]
