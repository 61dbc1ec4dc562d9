"""Messages from the command line: listed in any order and by pages, found, read, flagged, moved, deleted."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox.store.mail import messages

if TYPE_CHECKING:
    from conftest import Pillarbox

DATA = Path(__file__).parents[2] / "data"
KEYS = {
    "date": lambda row: row["date_ms"],
    "size": lambda row: row["size_bytes"],
    "sender": lambda row: row["from"].strip('"').casefold(),
}


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


@pytest.fixture
def first(pillarbox: Pillarbox, server: Path) -> str:
    """The id of the oldest message in lists."""
    found: str = pillarbox.answer("list", server, "anna", "lists", "--limit", 1)[0]["id"]
    return found


# -- listing


def test_a_listing_tells_the_whole_envelope(pillarbox: Pillarbox, server: Path) -> None:
    words = ("message", "search", server, "anna", "--subject", "Re: New Sequences Window")
    rows = pillarbox.answer(*words)
    assert [row["conversation"] == rows[0]["conversation"] for row in rows] == [True, False, True]
    [first] = [row for row in rows if row["from"].startswith("Robert Elz")]
    assert first["internet_message_id"] == "<13258.1030015585@munnari.OZ.AU>"
    assert first["in_reply_to"] == "<1029945287.4797.TMDA@deepeddy.vircio.com>"
    assert first["cc"] == "exmh-workers@spamassassin.taint.org"
    assert (first["importance"], first["categories"]) == ("normal", [])


@pytest.mark.parametrize("sort", KEYS)
@pytest.mark.parametrize("reverse", [False, True])
def test_messages_are_listed_in_order(
    pillarbox: Pillarbox, server_with_mail: Path, sort: str, reverse: bool
) -> None:
    words = ("message", "list", server_with_mail, "anna", "lists", "--sort", sort)
    rows = pillarbox.answer(*words, *(["--reverse"] if reverse else []))
    keys = [KEYS[sort](row) for row in rows]
    assert len(rows) == 24 and keys == sorted(keys, reverse=reverse)


@pytest.mark.parametrize("sort", ["date", "size", "subject", "sender"])
def test_pages_put_together_are_the_whole_listing(
    pillarbox: Pillarbox, server_with_mail: Path, sort: str
) -> None:
    words = ("list", server_with_mail, "anna", "lists", "--sort", sort, "--reverse")
    whole = ids(pillarbox.answer(*words))
    paged: list[str] = []
    while page := ids(pillarbox.answer(*words, "--limit", 9, *(["--after", paged[-1]] if paged else []))):
        paged += page
    assert paged == whole


def test_a_listing_is_for_people_too(pillarbox: Pillarbox, server: Path, first: str) -> None:
    line = pillarbox.run("list", server, "anna", "lists").stdout.splitlines()[0]
    assert line.split()[0] == first
    assert " KB N " in line and "Robert Elz" in line and "New Sequences Window" in line
    assert "no messages" in pillarbox.run("list", server, "anna", "Inbox").stdout
    assert pillarbox.answer("list", server, "anna", "Inbox") == []


def test_what_a_listing_cannot_begin_or_look_at_is_not_found(pillarbox: Pillarbox, server: Path) -> None:
    assert "no folder" in pillarbox.refused(40, "list", server, "anna", "nowhere")
    assert "has no message 1-fffff" in pillarbox.refused(
        40, "list", server, "anna", "lists", "--after", "1-fffff"
    )


# -- search


def found(pillarbox: Pillarbox, server: Path, *words: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pillarbox.answer("message", "search", server, "anna", *words)
    return rows


def test_search_finds_by_every_condition(pillarbox: Pillarbox, server: Path, first: str) -> None:
    everything = found(pillarbox, server)
    assert len(everything) == 30 and {row["folder"] for row in everything} == {"lists", "spam"}
    middle = sorted(row["size_bytes"] for row in everything)[15]
    for words, holds in (
        (("--from", "ROBERT elz"), lambda row: "Robert Elz" in row["from"]),
        (("--to", "exmh"), lambda row: "exmh" in row["to"].lower()),
        (("--subject", "new sequences"), lambda row: "New Sequences" in row["subject"]),
        (("--larger", middle), lambda row: row["size_bytes"] > middle),
        (("--smaller", "3K"), lambda row: row["size_bytes"] < 3072),
        (("--folder", "spam"), lambda row: row["folder"] == "spam"),
        (("--has-attachment",), lambda row: row["has_attachment"]),
        (("--since", "2002-08-25T00:00:00+00:00"), lambda row: row["date_ms"] >= 1030233600000),
        (("--before", "2002-08-25T00:00:00+00:00"), lambda row: row["date_ms"] < 1030233600000),
        (
            ("--subject", "re:", "--larger", "6K"),
            lambda row: row["size_bytes"] > 6144 and "Re:" in row["subject"],
        ),
    ):
        rows = found(pillarbox, server, *words)
        if words[0] != "--to":  # Cc is searched with it
            assert ids(rows) == ids([row for row in everything if holds(row)]), words
        assert words == ("--has-attachment",) or 0 < len(rows) < 30, words


def test_search_finds_by_flags(pillarbox: Pillarbox, server: Path, first: str) -> None:
    words = ("--add", "seen", "--add", "Flagged", "--add", "project-x")
    pillarbox.answer("message", "flag", server, "anna", first, *words)
    assert ids(found(pillarbox, server, "--flagged")) == [first]
    assert ids(found(pillarbox, server, "--keyword", "project-x")) == [first]
    assert ids(found(pillarbox, server, "--keyword", "seen")) == [first]
    unread = found(pillarbox, server, "--unread")
    assert len(unread) == 29 and first not in ids(unread)


def test_search_limits_and_says_when_nothing_is_found(pillarbox: Pillarbox, server: Path) -> None:
    assert len(found(pillarbox, server, "--limit", 3)) == 3
    assert (
        "No message was found."
        in pillarbox.run("message", "search", server, "anna", "--text", "xyzzy").stdout
    )
    assert found(pillarbox, server, "--text", "xyzzy") == []


def test_all_flags_and_keywords_asked_for_must_be_there(
    pillarbox: Pillarbox, server: Path, first: str
) -> None:
    pillarbox.answer("message", "flag", server, "anna", first, "--add", "flagged", "--add", "ToDo")
    assert ids(found(pillarbox, server, "--flagged", "--keyword", "todo")) == [first]
    assert found(pillarbox, server, "--flagged", "--keyword", "other") == []
    assert ids(found(pillarbox, server, "--keyword", "TODO")) == [first]


@pytest.mark.parametrize(
    "words",
    [
        ("--since", "yesterday"),
        ("--larger", "big"),
        ("--larger", "-1"),
        ("--limit", "0"),
        ("--limit", "9" * 30),
    ],
)
def test_a_condition_that_makes_no_sense_is_a_mistake_of_usage(
    pillarbox: Pillarbox, server_with_mail: Path, words: tuple[str, ...]
) -> None:
    assert "Error: " in pillarbox.refused(2, "message", "search", server_with_mail, "anna", *words)


# -- reading


def test_a_message_is_printed_byte_for_byte(pillarbox: Pillarbox, server_with_mail: Path) -> None:
    listed = pillarbox.answer("list", server_with_mail, "anna", "spam")
    shown = sorted(pillarbox.run("show", server_with_mail, "anna", row["id"]).stdout_bytes for row in listed)
    assert shown == sorted(path.read_bytes() for path in (DATA / "spam").iterdir())


def test_a_message_is_shown_to_be_read(pillarbox: Pillarbox, server: Path, first: str) -> None:
    text = pillarbox.run("message", "show", server, "anna", first).stdout
    assert "From:        Robert Elz <kre@munnari.OZ.AU>\n" in text
    assert "For me it is very repeatable" in text and "Received:" not in text
    data = pillarbox.answer("message", "show", server, "anna", first)
    assert data["folder"] == "lists" and data["attachments"] == []


def test_attachments_are_shown_by_their_decoded_names(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    letter = tmp_path / "letter.eml"
    letter.write_bytes(
        b"Content-Type: application/pdf\n"
        b"Content-Disposition: attachment; filename==?utf-8?q?Gr=C3=B6=C3=9Fe.pdf?=\n\nx\n"
    )
    pillarbox.answer("import", server, "bert", letter)
    (row,) = pillarbox.answer("list", server, "bert", "Inbox")
    show = ("message", "show", server, "bert", row["id"])
    assert "Attachment:  Größe.pdf (application/pdf)\n" in pillarbox.run(*show).stdout
    assert pillarbox.answer(*show)["attachments"] == [
        {"name": "Größe.pdf", "content_type": "application/pdf"}
    ]


@pytest.mark.parametrize("message_id", ["1-ffffff", "17", "1-1", "../etc", ""])
def test_a_message_that_is_not_there_gets_a_hint(
    pillarbox: Pillarbox, server_with_mail: Path, message_id: str
) -> None:
    for command in (("show",), ("message", "show")):
        stderr = pillarbox.refused(40, *command, server_with_mail, "anna", message_id)
        assert f"mailbox anna has no message {message_id}" in stderr and "`pillarbox list`" in stderr


def test_a_message_of_another_mailbox_is_not_there(pillarbox: Pillarbox, server: Path, first: str) -> None:
    for words in (("show",), ("message", "show"), ("message", "delete", "--yes")):
        assert "mailbox bert has no message" in pillarbox.refused(40, *words, server, "bert", first)


@pytest.mark.parametrize(
    ("body", "is_text"),
    [
        ("äöü \U0001f4ec\r\n\0".encode(), True),
        ("\ufffd".encode(), True),
        ("äöü".encode("latin-1"), False),
        (bytes(range(256)), False),
        (b"\xed\xa0\x80", False),
    ],
)
def test_json_has_every_byte_of_a_message(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, body: bytes, is_text: bool
) -> None:
    letter = b"Subject: x\r\n\r\n" + body
    (tmp_path / "letter.eml").write_bytes(letter)
    pillarbox.answer("import", server, "bert", tmp_path / "letter.eml")
    (row,) = pillarbox.answer("list", server, "bert", "Inbox")
    shown = pillarbox.answer("show", server, "bert", row["id"])
    assert shown["content"] == letter.decode("utf-8", "replace")
    assert ("content_base64" in shown) is not is_text
    found = shown["content"].encode() if is_text else b64decode(shown["content_base64"])
    assert found == letter


def test_mail_cannot_steer_the_terminal(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> None:
    letter = tmp_path / "letter.eml"
    subject = "\x1b[31mred\x9b1m \u202egnp"
    letter.write_bytes(f"From: a@b\x1b]0;x\x07\nSubject: {subject}\n\n\x1b[2J wiped\n".encode())
    pillarbox.answer("import", server, "bert", letter)
    (row,) = pillarbox.answer("list", server, "bert", "Inbox")
    for words in (
        ("list", server, "bert", "Inbox"),
        ("message", "search", server, "bert"),
        ("message", "show", server, "bert", row["id"]),
        ("list", server, "bert", "Inbox", "--json"),
        ("message", "show", server, "bert", row["id"], "--json"),
        ("show", server, "bert", row["id"], "--json"),
    ):
        output = pillarbox.run(*words).stdout
        assert not [each for each in output if not (each.isprintable() or each == "\n")], words
    assert json.loads(pillarbox.run("show", server, "bert", row["id"], "--json").stdout)["content"].endswith(
        "\x1b[2J wiped\n"
    )


# -- changing


def test_flags_are_set_and_taken_off(pillarbox: Pillarbox, server: Path, first: str) -> None:
    (row,) = pillarbox.answer("message", "flag", server, "anna", first, "--add", "seen", "--add", "x")
    assert row["flags"] == ["\\Seen", "x"]
    (row,) = pillarbox.answer(
        "message", "flag", server, "anna", first, "--remove", "\\seen", "--add", "draft"
    )
    assert row["flags"] == ["\\Draft", "x"]
    line = pillarbox.run("list", server, "anna", "lists", "--limit", 1).stdout
    assert " Nd " in line


def test_flags_that_make_no_sense_are_refused(pillarbox: Pillarbox, server: Path, first: str) -> None:
    flag = ("message", "flag", server, "anna", first)
    assert "--add or --remove" in pillarbox.refused(2, *flag)
    assert "is no flag" in pillarbox.refused(27, *flag, "--add", "\\Odd")
    assert "both" in pillarbox.refused(27, *flag, "--add", "seen", "--remove", "SEEN")


def test_messages_are_moved_with_their_ids_and_copied_with_others(pillarbox: Pillarbox, server: Path) -> None:
    chosen = ids(pillarbox.answer("list", server, "anna", "lists", "--limit", 3))
    moved = pillarbox.answer("message", "move", server, "anna", *chosen, "--to", "Inbox")
    assert ids(moved) == chosen
    copied = pillarbox.answer(
        "message", "copy", server, "anna", *chosen, "--to", "Drafts", "--to-mailbox", "bert"
    )
    assert not set(ids(copied)) & set(chosen)
    assert len(pillarbox.answer("list", server, "bert", "Drafts")) == 3
    assert "not at the top" in pillarbox.refused(20, "message", "move", server, "anna", *chosen, "--to", "/")


def test_one_command_copies_a_bounded_number_of_messages(
    pillarbox: Pillarbox, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "COPIES_MAX", 2)
    chosen = ids(found(pillarbox, server, "--folder", "lists"))[:3]
    pillarbox.refused(57, "message", "copy", server, "anna", *chosen, "--to", "Drafts")
    assert pillarbox.answer("list", server, "anna", "Drafts") == []


def test_one_message_that_is_not_there_leaves_all_as_they_were(
    pillarbox: Pillarbox, server: Path, first: str
) -> None:
    for words in (
        ("move", "--to", "Inbox"),
        ("copy", "--to", "Inbox"),
        ("delete", "--yes"),
        ("flag", "--add", "seen"),
    ):
        assert "1-fffff" in pillarbox.refused(40, "message", *words, server, "anna", first, "1-fffff")
    assert len(found(pillarbox, server, "--unread", "--folder", "lists")) == 24


def test_messages_are_deleted_when_confirmed(pillarbox: Pillarbox, server: Path, first: str) -> None:
    delete = ("message", "delete", server, "anna", first)
    assert "nothing was done" in pillarbox.refused(20, *delete, input="\n")
    assert pillarbox.run(*delete, input="y\n").exit_code == 0
    assert first not in ids(found(pillarbox, server))
    assert pillarbox.answer("check", server)["clean"]


def test_a_message_stays_in_its_database(pillarbox: Pillarbox, server: Path, first: str) -> None:
    pillarbox.answer("folder", "create", server, "/", "Forum")
    words = ("message", "copy", server, "anna", first, "--to", "Forum", "--to-mailbox", "/")
    refused = pillarbox.refused(20, *words)
    assert "of Public Folder Store" in refused
    assert "export what is to go there and import it" in refused
    assert pillarbox.answer("list", server, "/", "Forum") == []
