"""What README.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_for_embedding_runs_and_prints_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "hello b'Subject: hello\\n\\nworld\\n'\n"


def test_documents_name_only_documents_that_are_there() -> None:
    texts = [path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]
    named = {name for text in texts for name in re.findall(r"docs/[a-z-]+\.md", text)}
    linked = {
        f"docs/{name}"
        for path in ROOT.glob("docs/*.md")
        for name in re.findall(r"\]\(([a-z-]+\.md)", path.read_text())
    }
    assert {name for name in named | linked if not (ROOT / name).is_file()} == set()
