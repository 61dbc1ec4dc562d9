"""Import and export from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox.store.engine.database import Database
from pillarbox.store.files import importing

if TYPE_CHECKING:
    from conftest import Pillarbox

DATA = Path(__file__).parents[2] / "data"


def test_mail_is_imported_once_however_often_it_is(pillarbox: Pillarbox, server: Path) -> None:
    first = pillarbox.answer("import", server, "carl", DATA / "lists.mbox", DATA / "spam")
    assert (first["imported"], first["present"]) == (30, 0)
    assert first["folders"] == ["lists", "spam"]
    again = pillarbox.answer("import", server, "carl", DATA / "lists.mbox")
    assert (again["imported"], again["present"]) == (0, 24)
    assert "24 were there already" in pillarbox.run("import", server, "Carl", DATA / "lists.mbox").stdout


def test_a_lone_message_goes_to_the_inbox(pillarbox: Pillarbox, server: Path) -> None:
    letter = sorted((DATA / "spam").iterdir())[0]
    assert pillarbox.answer("import", server, "bert", letter)["folders"] == ["Inbox"]
    assert len(pillarbox.answer("list", server, "bert", "Inbox")) == 1


def test_mail_goes_into_public_folders_and_out_again(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    first = pillarbox.answer("import", server, "/", DATA / "lists.mbox", DATA / "spam")
    assert (first["imported"], first["folders"]) == (30, ["lists", "spam"])
    again = pillarbox.answer("import", server, "/Public Folder Store", DATA / "lists.mbox")
    assert (again["imported"], again["present"]) == (0, 24)
    assert len(pillarbox.answer("list", server, "/", "spam")) == 6
    assert pillarbox.answer("export", server, "/", tmp_path / "out", "--format", "eml")["exported"] == 30
    found = sorted(path.read_bytes() for path in (tmp_path / "out" / "spam").iterdir())
    assert found == sorted(path.read_bytes() for path in (DATA / "spam").iterdir())


def test_nobody_has_read_what_comes_into_a_public_folder(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    letter = sorted((DATA / "spam").iterdir())[0].read_bytes()
    for name in ("cur", "new", "tmp"):
        (tmp_path / "forum" / name).mkdir(parents=True)
    (tmp_path / "forum" / "cur" / "1.x.host:2,FS").write_bytes(letter)
    pillarbox.answer("import", server, "/", tmp_path / "forum")
    assert [each["flags"] for each in pillarbox.answer("list", server, "/", "forum")] == [["\\Flagged"]]
    assert pillarbox.answer("folder", "show", server, "/", "forum")["unread"] == 1


def test_what_cannot_go_into_public_folders_imports_nothing(pillarbox: Pillarbox, server: Path) -> None:
    letter = sorted((DATA / "spam").iterdir())[0]
    assert "no Inbox" in pillarbox.refused(20, "import", server, "/", DATA / "lists.mbox", letter)
    assert pillarbox.answer("folder", "list", server, "/") == []
    pillarbox.refused(20, "import", server, "/Mailbox Store", DATA / "lists.mbox")
    pillarbox.refused(40, "import", server, "/nowhere", DATA / "lists.mbox")
    pillarbox.refused(26, "import", server, "/", DATA / "lists.mbox", "--database", "Mailbox Store")


def test_a_path_that_is_not_there_imports_nothing(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> None:
    words = ("import", server, "carl", DATA / "lists.mbox", tmp_path / "missing")
    assert "no such file" in pillarbox.refused(40, *words)
    assert pillarbox.run("list", server, "carl").exit_code == 40


def test_a_path_that_may_not_be_read_imports_nothing(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, access, opened = tmp_path / "closed.mbox", os.access, os.open
    closed.write_bytes((DATA / "lists.mbox").read_bytes())

    def guarded(path: Path, *asked: Any, **more: Any) -> int:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *asked, **more)

    monkeypatch.setattr(os, "access", lambda path, *asked: Path(path) != closed and access(path, *asked))
    monkeypatch.setattr(os, "open", guarded)
    stderr = pillarbox.refused(56, "import", server, "carl", DATA / "lists.mbox", closed)
    assert f"{closed}: Permission denied" in stderr and "owner and mode" in stderr
    assert pillarbox.run("list", server, "carl").exit_code == 40


def test_what_cannot_be_read_is_listed_and_the_rest_imported(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(2000))
    result = pillarbox.run("import", server, "bert", tmp_path / "photo.jpg", DATA / "lists.mbox")
    assert result.exit_code == 29
    assert "24 messages imported" in result.stdout
    assert "photo.jpg" in result.stderr and "what could be is imported" in result.stderr
    assert len(pillarbox.answer("list", server, "bert", "lists")) == 24


def test_an_import_that_can_read_nothing_says_so(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(2000))
    stderr = pillarbox.refused(29, "import", server, "bert", tmp_path / "photo.jpg")
    assert "1 file could not be read" in stderr and "is imported" not in stderr


def test_an_interrupted_import_keeps_what_it_has_and_goes_on(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Database.refuse_below_disk_floor, []

    def interrupted(database: Database) -> None:
        real(database)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(importing, "BATCH_MESSAGES", 10)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "refuse_below_disk_floor", interrupted)
        assert "goes on from there" in pillarbox.refused(130, "import", server, "bert", DATA / "lists.mbox")
    assert len(pillarbox.answer("list", server, "bert", "lists")) == 10
    again = pillarbox.answer("import", server, "bert", DATA / "lists.mbox")
    assert (again["imported"], again["present"]) == (14, 10)


def test_files_that_are_no_mail_are_named(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(2000))
    (tmp_path / "mail" / "letter.eml").write_bytes(b"Subject: hello\n\nworld\n")
    result = pillarbox.run("import", server, "bert", tmp_path / "mail")
    assert result.exit_code == 0 and "passed over" in result.stdout and "photo.jpg" in result.stdout


@pytest.mark.parametrize("format_", ["eml", "mbox", "maildir"])
def test_what_is_exported_can_be_imported_again(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, format_: str
) -> None:
    report = pillarbox.answer("export", server, "anna", tmp_path / "out", "--format", format_)
    assert (report["exported"], report["folders"], report["damaged"]) == (30, 2, [])
    assert pillarbox.answer("import", server, "bert", tmp_path / "out")["imported"] == 30


def test_an_export_mixes_with_nothing(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> None:
    assert "not empty" in pillarbox.refused(51, "export", server, "anna", tmp_path, "--format", "eml")
    assert "--format" in pillarbox.refused(2, "export", server, "anna", tmp_path / "out")


def test_an_export_leaves_out_what_is_damaged_and_says_so(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(server)
    result = pillarbox.run("export", server, "anna", tmp_path / "out", "--format", "eml")
    assert result.exit_code == 30
    assert "damaged, not exported: lists" in result.stderr and "pillarbox check" in result.stderr
    written = len(list((tmp_path / "out").rglob("*.eml")))
    assert 20 < written < 30 and f"{written} messages exported" in result.stdout


def test_the_dialect_that_is_named_is_that_of_files_in_directories_too(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    letter = b"Subject: quoted\n\n>From here on\n>>From there on\n"
    (tmp_path / "letter.eml").write_bytes(letter)
    pillarbox.answer("import", server, "bert", tmp_path / "letter.eml")
    export = ("export", server, "bert", tmp_path / "out", "--format", "mbox", "--dialect", "mboxcl2")
    pillarbox.answer(*export)
    pillarbox.answer("import", server, "carl", tmp_path / "out", "--dialect", "mboxcl2")
    pillarbox.answer("export", server, "carl", tmp_path / "again", "--format", "eml")
    (found,) = (tmp_path / "again").rglob("*.eml")
    assert found.read_bytes() == letter


@pytest.mark.parametrize(
    ("format", "outer", "inner"),
    [("mbox", "x", "x.mbox/k"), ("mbox", "x.mbox/k", "x"), ("eml", "e", "e/000001 Hello.eml")],
)
def test_a_folder_called_as_a_file_of_the_export_is_exported_too(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, format: str, outer: str, inner: str
) -> None:
    (tmp_path / "letter.eml").write_bytes(b"Subject: Hello\n\nbody\n")
    pillarbox.answer("import", server, "bert", tmp_path / "letter.eml")
    (letter,) = pillarbox.answer("list", server, "bert", "Inbox")
    for path in (outer, inner):
        pillarbox.answer("folder", "create", server, "bert", path, "--parents")
        pillarbox.answer("message", "copy", server, "bert", letter["id"], "--to", path)
    out = tmp_path / "out"
    assert pillarbox.answer("export", server, "bert", out, "--format", format)["exported"] == 3
    pillarbox.answer("import", server, "carl", out)
    assert len(pillarbox.answer("message", "search", server, "carl", "--subject", "Hello")) == 3


def test_links_in_a_directory_are_not_followed_and_named(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.eml").write_bytes(b"Subject: outside\n\nbody\n")
    for path in (tmp_path / "mail", tmp_path / "box" / "cur"):
        path.mkdir(parents=True)
        (path / "link.eml").symlink_to(tmp_path / "outside.eml")
    (tmp_path / "box" / "new").mkdir()
    (tmp_path / "mail" / "inside.eml").write_bytes(b"Subject: inside\n\nbody\n")
    for name, count in (("mail", 1), ("box", 0)):
        told = pillarbox.answer("import", server, "bert", tmp_path / name)
        assert told["imported"] == count
        assert [each["reason"] for each in told["passed_over"]] == ["is a link"]


def test_a_message_is_imported_from_standard_input(pillarbox: Pillarbox, server: Path) -> None:
    raw = "Subject: piped\n\nhello\n"
    for imported in (1, 0):
        result = pillarbox.run("import", server, "anna", "-", "--json", input=raw)
        assert result.exit_code == 0 and json.loads(result.stdout)["imported"] == imported
    (found,) = pillarbox.answer("list", server, "anna", "Inbox")
    assert pillarbox.run("show", server, "anna", found["id"]).stdout == raw
    assert "no message on standard input" in pillarbox.refused(29, "import", server, "anna", "-", input="")
    assert "standard input: public folders have no Inbox" in pillarbox.refused(
        20, "import", server, "/", "-", input=raw
    )
    files = ("import", server, "carl", "-", DATA / "lists.mbox", "--json")
    assert json.loads(pillarbox.run(*files, input=raw).stdout)["imported"] == 25
