"""What a person does with the command line on real mail: make a server, import, look, check, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from click.testing import CliRunner, Result

from pillarbox.tools.cli import cli

DATA = Path(__file__).parents[1] / "data"
LISTS_COUNT = 24  # tests/data/SOURCES.md


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def answer(*words: object) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    path = tmp_path / "server"
    assert run("init", path).exit_code == 0
    return path


def test_imported_mail_is_listed_shown_checked_and_exported_byte_for_byte(
    server: Path, tmp_path: Path
) -> None:
    assert answer("import", server, "anna", DATA / "lists.mbox", DATA / "spam")["imported"] == LISTS_COUNT + 6
    assert answer("import", server, "anna", DATA / "lists.mbox")["imported"] == 0
    folders = {each["folder"]: each["messages"] for each in answer("list", server, "anna")}
    assert folders["lists"] == LISTS_COUNT and folders["spam"] == 6
    listed = answer("list", server, "anna", "spam")
    files = sorted(path.read_bytes() for path in (DATA / "spam").iterdir())
    shown = sorted(run("show", server, "anna", each["id"]).stdout_bytes for each in listed)
    assert shown == files
    assert answer("status", server)[0]["mailboxes"][0]["messages"] == LISTS_COUNT + 6
    assert answer("check", server)["clean"]
    assert (
        answer("export", server, "anna", tmp_path / "out", "--format", "eml")["exported"] == LISTS_COUNT + 6
    )
    exported = sorted(path.read_bytes() for path in (tmp_path / "out" / "spam").iterdir())
    assert exported == files


def test_damage_makes_check_end_with_1(server: Path) -> None:
    run("import", server, "anna", DATA / "lists.mbox")
    segment = next((server / "First Storage Group" / "Mailbox Store" / "stream").glob("*.stm"))
    data = bytearray(segment.read_bytes())
    data[1000] ^= 1
    segment.write_bytes(data)
    assert run("check", server).exit_code == 1


def test_a_mistake_gets_a_sentence_and_its_exit_code(server: Path, tmp_path: Path) -> None:
    for words, code in (
        (("status", tmp_path), 40),
        (("init", server), 51),
        (("init", DATA / "lists.mbox"), 51),
        (("list", server, "nobody"), 40),
        (("show", server, "nobody", "1-1"), 40),
        (("import", server, "anna", tmp_path / "missing"), 40),
    ):
        result = run(*words)
        assert result.exit_code == code and "Traceback" not in result.output
        assert result.stderr.startswith("pillarbox: ")
