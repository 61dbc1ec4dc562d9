"""docs/api.md: its examples run, in order, as one program; the reference is made from the face."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "api.md").read_text()
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_every_example_runs_in_the_order_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program: dict[str, Any] = {}
    examples = list(EXAMPLE.finditer(DOCUMENT))
    assert len(examples) == DOCUMENT.count("```python") > 12
    try:
        for example in examples:
            line = DOCUMENT.count("\n", 0, example.start(1))
            exec(compile("\n" * line + example[1], "docs/api.md", "exec"), program)
    finally:
        if "server" in program:
            program["server"].close()
    printed = capsys.readouterr().out
    assert "lunch" in printed and "message_id - give the id of a message" in printed


@pytest.mark.parametrize(
    "section",
    [
        "Opening", "Mailboxes", "Delivery", "Folders", "Messages, flags and keywords", "Views and paging",
        "Search", "The change feed", "Public folders and read state",
        "Threads and processes", "asyncio", "Errors",
    ],
)  # fmt: skip
def test_the_page_has_a_section_on(section: str) -> None:
    assert f"\n## {section}\n" in DOCUMENT


def test_the_documented_command_makes_the_reference_of_the_face(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="pdoc (the extra `dev`) is not installed")
    assert "`tools/reference`" in DOCUMENT
    subprocess.run([ROOT / "tools" / "reference", tmp_path], check=True, capture_output=True)
    page = (tmp_path / "pillarbox.html").read_text()
    missing = [name for name in ("Server", "Database", "Actor", "deliver") if f'id="{name}"' not in page]
    pages = {path.stem for path in tmp_path.rglob("*.html")} - {"index", "pillarbox"}
    modules = {"folders", "mailboxes", "messages", "public_folders", "views", "change_feed", "errors"}
    assert not missing and pages == modules
