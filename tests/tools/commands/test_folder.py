"""Folders from the command line, of mailboxes and of the public folder tree."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Pillarbox


def folders(pillarbox: Pillarbox, server: Path, name: str = "anna") -> dict[str, int]:
    return {each["folder"]: each["messages"] for each in pillarbox.answer("folder", "list", server, name)}


def test_folders_are_made_listed_and_shown(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("folder", "create", server, "anna", "Archive")
    made = pillarbox.answer("folder", "create", server, "anna", "Archive/2002")
    assert made["folder"] == "Archive/2002" and made["messages"] == 0
    shown = pillarbox.answer("folder", "show", server, "anna", "/archive/2002/")
    assert shown["id"] == made["id"]
    assert "UID validity" in pillarbox.run("folder", "show", server, "anna", "spam").stdout
    below = pillarbox.answer("folder", "list", server, "anna", "Archive")
    assert [each["folder"] for each in below] == ["Archive/2002"]


def test_what_is_missing_above_a_folder_is_made_when_asked(pillarbox: Pillarbox, server: Path) -> None:
    assert "there is no folder 'A/B'" in pillarbox.refused(40, "folder", "create", server, "anna", "A/B/C")
    pillarbox.answer("folder", "create", server, "anna", "A/B/C", "--parents")
    pillarbox.answer("folder", "create", server, "anna", "A/B/C", "--parents")
    assert "already" in pillarbox.refused(51, "folder", "create", server, "anna", "a/b/c")
    assert {"A", "A/B", "A/B/C"} <= folders(pillarbox, server).keys()


def test_folders_are_renamed_and_moved_with_all_in_them(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("folder", "create", server, "anna", "Archive")
    assert pillarbox.answer("folder", "move", server, "anna", "lists", "--to", "Archive")["folder"] == (
        "Archive/lists"
    )
    pillarbox.answer("folder", "rename", server, "anna", "Archive/lists", "old")
    assert folders(pillarbox, server)["Archive/old"] == 24
    assert pillarbox.answer("folder", "move", server, "anna", "Archive/old", "--to", "/")["folder"] == "old"
    assert "into itself" in pillarbox.refused(20, "folder", "move", server, "anna", "old", "--to", "old")


def test_a_folder_is_copied_and_moved_to_another_mailbox(pillarbox: Pillarbox, server: Path) -> None:
    copied = pillarbox.answer(
        "folder", "copy", server, "anna", "spam", "--to", "/", "--to-mailbox", "bert", "--name", "junk"
    )
    assert (copied["folder"], copied["messages"]) == ("junk", 6)
    again = ("folder", "copy", server, "anna", "spam", "--to", "/", "--to-mailbox", "bert", "--name", "Junk")
    assert "already" in pillarbox.refused(51, *again)
    pillarbox.answer("folder", "move", server, "anna", "spam", "--to", "Inbox", "--to-mailbox", "bert")
    assert "spam" not in folders(pillarbox, server)
    assert folders(pillarbox, server, "bert")["Inbox/spam"] == 6
    assert pillarbox.answer("check", server)["clean"]


def test_a_folder_stays_in_its_database(pillarbox: Pillarbox, big_server: Path) -> None:
    pillarbox.answer("database", "create", big_server, "Second")
    pillarbox.answer("mailbox", "create", big_server, "anna", "--database", "Mailbox Store")
    pillarbox.answer("mailbox", "create", big_server, "bert", "--database", "Second")
    pillarbox.answer("folder", "create", big_server, "anna", "X")
    words = ("folder", "move", big_server, "anna", "X", "--to", "/", "--to-mailbox", "bert")
    assert "mailbox bert in Second" in pillarbox.refused(20, *words)


def test_a_folder_with_contents_goes_only_when_asked_and_confirmed(
    pillarbox: Pillarbox, server: Path
) -> None:
    pillarbox.answer("folder", "create", server, "anna", "empty")
    pillarbox.answer("folder", "delete", server, "anna", "empty")
    assert "not empty" in pillarbox.refused(52, "folder", "delete", server, "anna", "spam")
    words = ("folder", "delete", server, "anna", "spam", "--with-contents")
    assert "nothing was done" in pillarbox.refused(20, *words, input="no\n")
    assert folders(pillarbox, server)["spam"] == 6
    assert pillarbox.run(*words, input="y\n").exit_code == 0
    assert "spam" not in folders(pillarbox, server)


@pytest.mark.parametrize("what", ["rename", "delete"])
def test_standard_folders_stay(pillarbox: Pillarbox, server: Path, what: str) -> None:
    words = ("folder", what, server, "anna", "Inbox", *(["Post"] if what == "rename" else []))
    assert "standard folder" in pillarbox.refused(20, *words)


def test_public_folders_are_named_by_a_slash(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("folder", "create", server, "/", "Forum")
    pillarbox.answer("folder", "create", server, "/public folder store", "Forum/Cars")
    assert folders(pillarbox, server, "/") == {"Forum": 0, "Forum/Cars": 0}
    assert pillarbox.answer("status", server)[1]["folders"] == 2
    assert "mailbox store holds no public folders" in pillarbox.refused(
        20, "folder", "list", server, "/Mailbox Store"
    )


def test_with_several_public_folder_stores_one_is_named(pillarbox: Pillarbox, big_server: Path) -> None:
    pillarbox.answer("database", "create", big_server, "Board", "--kind", "public-folder")
    hint = pillarbox.refused(20, "folder", "list", big_server, "/")
    assert "/Public Folder Store, /Board" in hint


def test_deletion_of_a_public_folder_is_tracked_when_asked(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("events", "diagnostics", "set", server, "public_folder.general", "medium")
    pillarbox.answer("folder", "create", server, "/", "Forum")
    pillarbox.answer("folder", "delete", server, "/", "Forum")
    (event,) = pillarbox.answer("events", "list", server, "--id", 9682)
    assert event["details"]["folder"] == "Forum"
    assert event["details"]["account"] == pwd.getpwuid(os.getuid()).pw_name
