"""The console script: what is said when it cannot even begin, and in any locale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillarbox.tools import main

if TYPE_CHECKING:
    from conftest import Pillarbox


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_extra_it_says_how_to_get_it(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from pillarbox.tools.main import run; run()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert "extra `cli`" in ended.stderr


def test_an_interruption_while_it_loads_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_run", interrupted)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 130


def test_a_locale_without_the_letters_of_a_mail_ends_no_listing(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.eml").write_text("Subject: \u65e5\u672c\n\n", encoding="utf-8")
    pillarbox.answer("import", server, "bert", tmp_path / "letter.eml")
    program = "from pillarbox.tools.main import run; run()"
    listed = subprocess.run(
        [sys.executable, "-c", program, "list", str(server), "bert", "Inbox"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert rb"\u65e5\u672c" in listed.stdout and listed.stderr == b""
