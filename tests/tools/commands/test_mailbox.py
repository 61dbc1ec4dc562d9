"""Mailboxes from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.server import Server
from pillarbox.store.upkeep import move_mailbox

if TYPE_CHECKING:
    from conftest import Pillarbox

DATA = Path(__file__).parents[2] / "data"
USER = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def test_a_mailbox_is_made_listed_shown_and_renamed(pillarbox: Pillarbox, server: Path) -> None:
    made = pillarbox.answer("mailbox", "create", server, "carl")
    assert (made["mailbox"], made["database"], made["messages"]) == ("carl", "Mailbox Store", 0)
    names = [each["mailbox"] for each in pillarbox.answer("mailbox", "list", server)]
    assert names == ["anna", "bert", "carl"]
    renamed = pillarbox.answer("mailbox", "rename", server, "CARL", "Carl May")
    assert renamed["guid"] == made["guid"]
    shown = pillarbox.answer("mailbox", "show", server, "carl may")
    assert shown["mailbox"] == "Carl May"
    assert {"Inbox", "Sent Items", "Junk E-mail"} <= {each["folder"] for each in shown["folders"]}


def test_show_and_list_are_for_people_too(pillarbox: Pillarbox, server: Path) -> None:
    text = pillarbox.run("mailbox", "show", server, "anna").stdout
    assert text.startswith("anna: 30 messages, ") and "  lists\n" in text
    assert pillarbox.run("mailbox", "list", server).stdout.startswith("anna ")
    assert "no such mailboxes" in pillarbox.run("mailbox", "list", server, "--disconnected").stdout


def test_a_name_that_is_taken_or_cannot_be_is_refused(pillarbox: Pillarbox, server: Path) -> None:
    assert "already" in pillarbox.refused(51, "mailbox", "create", server, "ANNA")
    assert "cannot be a name" in pillarbox.refused(26, "mailbox", "create", server, "a/b")
    assert "already" in pillarbox.refused(51, "mailbox", "rename", server, "anna", "bert")
    assert "mailbox list" in pillarbox.refused(40, "mailbox", "show", server, "nobody")


def test_with_several_stores_a_new_mailbox_needs_the_name_of_one(
    pillarbox: Pillarbox, big_server: Path
) -> None:
    pillarbox.answer("database", "create", big_server, "Second")
    assert "Mailbox Store, Second" in pillarbox.refused(20, "mailbox", "create", big_server, "anna")
    assert pillarbox.answer("mailbox", "create", big_server, "anna", "--database", "second")
    pillarbox.answer("mailbox", "create", big_server, "bert", "--database", "Mailbox Store")
    listed = pillarbox.answer("mailbox", "list", big_server, "--database", "Second")
    assert [each["mailbox"] for each in listed] == ["anna"]


def test_mailboxes_of_a_dismounted_store_are_said_to_be_left_out(
    pillarbox: Pillarbox, big_server: Path
) -> None:
    pillarbox.answer("mailbox", "create", big_server, "anna")
    pillarbox.answer("dismount", big_server, "Mailbox Store")
    result = pillarbox.run("mailbox", "list", big_server)
    assert result.exit_code == 0 and "Mailbox Store is not mounted" in result.stderr
    assert pillarbox.run("mailbox", "list", big_server, "--database", "Mailbox Store").exit_code == 21


def test_a_mailbox_is_disconnected_reconnected_and_purged(pillarbox: Pillarbox, server: Path) -> None:
    assert "disconnect it first" in pillarbox.refused(20, "mailbox", "purge", server, "anna", "--yes")
    apart = pillarbox.answer("mailbox", "disconnect", server, "anna")
    assert apart["disconnected"] and apart["disconnected_ms"] and apart["messages"] == 30
    (listed,) = pillarbox.answer("mailbox", "list", server, "--disconnected")
    assert listed["mailbox"] == "anna"
    assert pillarbox.answer("mailbox", "reconnect", server, "anna", "--user", USER)["user"] == USER
    assert "connected to a user" in pillarbox.refused(20, "mailbox", "reconnect", server, "anna")
    pillarbox.answer("mailbox", "disconnect", server, "anna")
    assert "nothing was done" in pillarbox.refused(20, "mailbox", "purge", server, "anna", input="n\n")
    assert pillarbox.run("mailbox", "purge", server, "anna", input="yes\n").exit_code == 0
    assert pillarbox.run("list", server, "anna").exit_code == 40
    assert pillarbox.answer("check", server)["clean"]


def test_a_user_that_is_no_guid_is_a_mistake_of_usage(pillarbox: Pillarbox, server: Path) -> None:
    assert "no GUID" in pillarbox.refused(2, "mailbox", "reconnect", server, "anna", "--user", "me")


def test_a_mailbox_moves_to_another_store(pillarbox: Pillarbox, big_server: Path) -> None:
    pillarbox.answer("database", "create", big_server, "Second")
    pillarbox.answer("mailbox", "create", big_server, "anna", "--database", "Mailbox Store")
    pillarbox.answer("import", big_server, "anna", DATA / "lists.mbox")
    before = pillarbox.answer("mailbox", "show", big_server, "anna")
    moved = pillarbox.answer("mailbox", "move", big_server, "ANNA", "second")
    assert (moved["mailbox"], moved["database"], moved["damaged"]) == ("anna", "Second", [])
    after = pillarbox.answer("mailbox", "show", big_server, "anna")
    assert after == {**before, "database": "Second"}
    assert moved["folders"] == len(after["folders"]) and moved["messages"] == after["messages"] > 0
    assert "already" in pillarbox.refused(20, "mailbox", "move", big_server, "anna", "Second")
    text = pillarbox.run("mailbox", "move", big_server, "anna", "Mailbox Store").stdout
    assert text.startswith("Mailbox anna is in Mailbox Store: ")


@pytest.mark.parametrize("step", ["_copy", "_name_copy"])
def test_a_mailbox_that_is_purged_after_its_move_was_killed_stays_so(
    pillarbox: Pillarbox, big_server: Path, step: str
) -> None:
    pillarbox.answer("database", "create", big_server, "Second")
    pillarbox.answer("mailbox", "create", big_server, "anna", "--database", "Mailbox Store")
    original = getattr(move_mailbox._Move, step)

    def work_and_die(self: move_mailbox._Move, *words: object) -> None:
        original(self, *words)
        raise KeyboardInterrupt

    with Server.open(big_server) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(move_mailbox._Move, step, work_and_die)
        with pytest.raises(KeyboardInterrupt):
            server.mailboxes.move(Actor.task("test"), "anna", "Second")
    (listed,) = pillarbox.answer("mailbox", "list", big_server)
    assert listed["database"] == "Mailbox Store"
    pillarbox.answer("mailbox", "disconnect", big_server, "anna")
    pillarbox.answer("mailbox", "purge", big_server, "anna", "--yes")
    assert pillarbox.answer("mailbox", "list", big_server) == []
    pillarbox.refused(40, "mailbox", "show", big_server, "anna")
    pillarbox.answer("mailbox", "create", big_server, "anna", "--database", "Second")
    assert pillarbox.answer("mailbox", "show", big_server, "anna")["messages"] == 0


def test_damaged_messages_are_left_behind_when_that_is_allowed(
    pillarbox: Pillarbox, big_server: Path, damage: Callable[[Path], None]
) -> None:
    pillarbox.answer("database", "create", big_server, "Second")
    pillarbox.answer("mailbox", "create", big_server, "anna", "--database", "Mailbox Store")
    pillarbox.answer("import", big_server, "anna", DATA / "lists.mbox")
    damage(big_server)
    assert "is damaged" in pillarbox.refused(30, "mailbox", "move", big_server, "anna", "Second")
    assert pillarbox.answer("mailbox", "show", big_server, "anna")["database"] == "Mailbox Store"
    moved = pillarbox.answer("mailbox", "move", big_server, "anna", "Second", "--skip-damaged", "1")
    (left,) = moved["damaged"]
    assert left["folder"] and left["id"] and left["reason"]
    shown = pillarbox.answer("mailbox", "show", big_server, "anna")
    assert (shown["database"], shown["messages"]) == ("Second", moved["messages"])


def test_mailboxes_say_which_of_two_databases_of_one_name_they_are_in(
    pillarbox: Pillarbox, twins: Path
) -> None:
    label = "Second Group/Mailbox Store"
    assert pillarbox.answer("mailbox", "create", twins, "anna", "--database", label)["database"] == label
    assert [each["database"] for each in pillarbox.answer("mailbox", "list", twins)] == [label]
    assert pillarbox.answer("mailbox", "show", twins, "anna")["database"] == label
    assert label in pillarbox.run("mailbox", "list", twins).stdout
