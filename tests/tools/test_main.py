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


@pytest.mark.parametrize(
    ("missing", "words"), [("click", []), ("rich", ["list", "{server}", "anna", "spam"])]
)
def test_without_its_extra_it_says_how_to_get_it(missing: str, words: list[str], server: Path) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from pillarbox.tools.main import run; run()"
    command = [sys.executable, "-c", program, *(word.format(server=server) for word in words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
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


@pytest.mark.parametrize("outputs", [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_the_code_is_told_where_nothing_can_be_said(tmp_path: Path, outputs: str) -> None:
    program = "from pillarbox.tools.main import run; run()"
    command = [sys.executable, "-c", program, "list", str(tmp_path), "anna"]
    ended = subprocess.run(["bash", "-c", f'"$@" {outputs}', "_", *command], check=False)
    assert ended.returncode == 40


def test_no_file_takes_the_number_of_a_stream_that_was_closed(server: Path) -> None:
    program = (
        "import os, sys\n"
        "from pillarbox.tools import main\n"
        "main._open_missing_streams()\n"
        "from pillarbox import Server\n"
        f"server = Server.open({str(server)!r})\n"
        "os.write(1, b'told to nobody, 7f1c93b2'); os.write(2, b'told to nobody, 7f1c93b2')\n"
        "print('told to nobody, 7f1c93b2', file=sys.stderr)\n"
        "server.close()\n"
    )
    subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "_", sys.executable, "-c", program], check=True)
    # Words that no mail of the server has: a single one may stand in its content as it is.
    assert all(b"told to nobody" not in path.read_bytes() for path in server.rglob("*") if path.is_file())


HEAVY = {
    "pillarbox.store.server",
    "pillarbox.store.engine.database",
    "pillarbox.store.disk.tables",
    "pillarbox.backup.repository.repository",
    "pillarbox.replication.simulation.campaign",
    "lmdb",
    "zstandard",
    "blake3",
    "email",
    "rich",
}
LIGHT = {
    "help": (["--help"], {}),
    "a command's name completed": (
        [],
        {"_PILLARBOX_COMPLETE": "bash_complete", "COMP_WORDS": "pillarbox st", "COMP_CWORD": "1"},
    ),
}


@pytest.mark.parametrize(("words", "variables"), LIGHT.values(), ids=LIGHT)
def test_listing_the_commands_loads_no_engine_and_no_command(
    words: list[str], variables: dict[str, str]
) -> None:
    program = (
        "import atexit, sys; from pillarbox.tools.main import run;"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); run()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "status" in ended.stdout
    loaded = set(ended.stderr.split())
    assert "pillarbox.tools.cli" in loaded and not loaded & HEAVY
    assert not [name for name in loaded if name.startswith("pillarbox.tools.commands.")]


def test_no_command_loads_the_engine_before_it_is_called() -> None:
    program = (
        "import sys; from pillarbox.tools.cli import cli; from pillarbox.tools.lazy import LazyCommand;"
        "[each.load() for each in cli.commands.values() if isinstance(each, LazyCommand)];"
        "print(*sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(ended.stdout.split())
    assert "pillarbox.tools.commands.recovery_merge" in loaded and not loaded & HEAVY


def test_a_listing_loads_nothing_that_parses_mail_or_settings(server: Path) -> None:
    program = (
        "import atexit, sys; from pillarbox.tools.main import run;"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); run()"
    )
    command = [sys.executable, "-c", program, "status", str(server)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(ended.stderr.split())
    assert "pillarbox.store.server" in loaded
    assert not loaded & {"email.parser", "tomlkit", "rich"}
