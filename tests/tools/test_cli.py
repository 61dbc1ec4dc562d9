"""The command line as a whole: mistakes, interruptions, readers that go away, help, completion."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

import click

from pillarbox.backup.merge.report import MergeMode
from pillarbox.backup.repository.repository import SnapshotKind
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.files.exporting import FORMATS
from pillarbox.store.files.mbox import Dialect
from pillarbox.store.mail import views
from pillarbox.store.server import Server
from pillarbox.tools import parameters
from pillarbox.tools.cli import cli
from pillarbox.tools.commands import backup, database, mail, message, recovery_merge
from pillarbox.tools.lazy import LazyCommand

if TYPE_CHECKING:
    from conftest import Pillarbox

DATA = Path(__file__).parents[1] / "data"
PILLARBOX = (sys.executable, "-c", "from pillarbox.tools.main import run; run()")


def commands(
    group: click.Group = cli, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it, groups left out."""
    for name, listed in group.commands.items():
        command = listed.load() if isinstance(listed, LazyCommand) else listed
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


# -- mistakes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("status", "{tmp}/missing"), 40),
        (("status", "{tmp}"), 40),
        (("init", "{server}"), 51),
        (("list", "{server}", "nobody"), 40),
        (("show", "{server}", "nobody", "1-1"), 40),
        (("import", "{server}", "anna", "{tmp}/missing"), 40),
        (("mount", "{server}", "Nothing"), 40),
        (("group", "delete", "{server}", "Nothing"), 40),
        (("events", "list", "{tmp}/missing"), 40),
        (("limits", "show", "{tmp}/missing"), 40),
    ],
)
def test_a_mistake_gets_a_sentence_a_hint_and_its_exit_code(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    stderr = pillarbox.refused(code, *(word.format(server=server, tmp=tmp_path) for word in words))
    sentence, hint, *rest = stderr.splitlines()
    assert sentence.startswith("pillarbox: ") and hint.startswith("  ") and not rest


@pytest.mark.parametrize(
    "words",
    [
        ("status", "{tmp}/{name}"),
        ("list", "{server}", "{name}"),
        ("list", "{server}", "anna", "{name}"),
        ("list", "{server}", "/{name}"),
        ("show", "{server}", "anna", "{name}"),
        ("import", "{server}", "{name}", "{mail}"),
        ("mount", "{server}", "{name}"),
        ("limits", "show", "{server}", "{name}"),
        ("group", "create", "{server}", "{name}"),
        ("group", "delete", "{server}", "{name}"),
        ("database", "create", "{server}", "{name}"),
        ("mailbox", "create", "{server}", "{name}"),
        ("mailbox", "rename", "{server}", "anna", "{name}"),
        ("folder", "create", "{server}", "anna", "{name}"),
        ("folder", "move", "{server}", "anna", "spam", "--to", "{name}"),
        ("message", "search", "{server}", "anna", "--folder", "{name}"),
    ],
)
@pytest.mark.parametrize("name", ["\udcff", "x" * 300, "\x1b[2J"], ids=["no text", "long", "controls"])
def test_no_name_however_odd_makes_a_command_fail(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, words: tuple[str, ...], name: str
) -> None:
    mail = DATA / "lists.mbox"
    result = pillarbox.run(
        *(word.format(server=server, tmp=tmp_path, name=name, mail=mail) for word in words)
    )
    assert 0 < result.exit_code < 60 and result.stderr.startswith("pillarbox: ")


def test_a_server_is_not_made_where_its_files_could_not_be(pillarbox: Pillarbox, tmp_path: Path) -> None:
    assert "not UTF-8" in pillarbox.refused(26, "init", tmp_path / "\udcff")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("frobnicate",), ("init",), ("status", "x", "--odd"), ("list", "x")])
def test_a_wrong_call_ends_with_2(pillarbox: Pillarbox, words: tuple[str, ...]) -> None:
    assert "Usage: " in pillarbox.refused(2, *words)


@pytest.mark.parametrize(
    ("words", "code", "kind", "hint"),
    [
        (("list", "{server}", "nobody"), 40, "NotFound", "pillarbox mailbox list"),
        (("limits", "set", "{server}", "--limit-gb", "76"), 27, "InvalidSetting", "from 1 to 75"),
        (("limits", "set", "{server}"), 2, "UsageError", " limits set --help`"),
        (("list", "{server}", "--nothing"), 2, "NoSuchOption", " list --help`"),
        (("list",), 2, "MissingParameter", " list --help`"),
        (("limits", "check"), 2, "MissingParameter", " limits check --help`"),
    ],
)
def test_an_error_under_json_is_json(
    pillarbox: Pillarbox, server: Path, words: tuple[str, ...], code: int, kind: str, hint: str
) -> None:
    result = pillarbox.run(*(word.format(server=server) for word in words), "--json")
    assert result.exit_code == code and result.stdout == ""
    told = json.loads(result.stderr)
    assert told.keys() == {"error", "code", "class", "hint"}
    assert (told["code"], told["class"]) == (code, kind)
    assert told["error"] and hint in told["hint"]


def test_an_error_cannot_steer_the_terminal(pillarbox: Pillarbox, server: Path) -> None:
    for words in (("folder", "show", server, "anna", "x\x1b[2Jy"), ("show", server, "anna", "\x1b[2J")):
        stderr = pillarbox.refused(40, *words)
        assert all(letter.isprintable() or letter == "\n" for letter in stderr)


@pytest.mark.parametrize(
    ("number", "file", "code", "said"),
    [
        (errno.EIO, "disk", 9, "disk: Input/output error"),
        (errno.EIO, None, 9, "the system: Input/output error"),
        (errno.EACCES, "closed", 56, "closed: Permission denied"),
        (errno.ENOSPC, "disk", 12, "disk: no space left on the disk"),
    ],
)
def test_an_error_of_the_system_is_a_sentence_too(
    pillarbox: Pillarbox,
    server: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    file: str | None,
    code: int,
    said: str,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), file)

    monkeypatch.setattr(Server, "open", broken)
    error, hint = pillarbox.refused(code, "status", server).splitlines()
    assert error == f"pillarbox: {said}"
    assert hint.startswith("  ")


def test_a_directory_that_may_not_be_read_is_no_wrong_call(
    pillarbox: Pillarbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir
    listdir = os.listdir

    def refuse(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "access", lambda path, *_: Path(path) != tmp_path)
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) if path == tmp_path else scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path: refuse(path) if path == tmp_path else listdir(path))
    assert f"{tmp_path}: Permission denied" in pillarbox.refused(56, "init", tmp_path)


def test_an_interruption_ends_with_130(
    pillarbox: Pillarbox, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "open", interrupted)
    assert "interrupted" in pillarbox.refused(130, "status", server)


def test_an_interrupted_question_does_nothing(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("mailbox", "disconnect", server, "anna")
    with subprocess.Popen(
        # In the background of a shell, where this may run, SIGINT is ignored.
        ["env", "--default-signal=INT", *PILLARBOX, "mailbox", "purge", str(server), "anna"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        while process.stderr.read(1) != "]":
            pass
        process.send_signal(signal.SIGINT)
        assert "interrupted" in process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert pillarbox.answer("mailbox", "show", server, "anna")["messages"] == 30


def test_a_reader_that_goes_away_is_no_error(server: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with subprocess.Popen(
        [*PILLARBOX, "list", str(server), "anna", "lists"], stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, b"")


# -- what happens beside what was asked


def test_a_warning_of_the_store_is_shown(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("limits", "set", server, "Mailbox Store", "--limit-gb", 20)
    config = server / "server.toml"
    config.write_text(config.read_text().replace("_in_gb = 20", "_in_gb = 99"))
    result = pillarbox.run("list", server, "anna")
    assert result.exit_code == 0
    assert "pillarbox: event 20005: database_size_limit_in_gb of database Mailbox Store" in result.stderr


def test_an_ordinary_command_says_nothing_on_stderr(pillarbox: Pillarbox, server: Path) -> None:
    for words in (
        ("status", server),
        ("list", server, "anna"),
        ("check", server),
        ("limits", "check", server),
    ):
        assert pillarbox.run(*words).stderr == ""


# -- what is offered for a choice stands in the command, which loads the library only when it is called


def test_every_kind_that_the_library_knows_can_be_chosen() -> None:
    assert get_args(Dialect) == mail.DIALECTS and parameters.FORMATS == FORMATS
    assert tuple(each.name.lower() for each in views.Sort) == message.SORTS
    assert tuple(MergeMode) == recovery_merge.MODES
    assert (*backup.KINDS, "capture") == tuple(SnapshotKind)
    assert {DatabaseKind[name] for name in database.KINDS.values()} == set(DatabaseKind)


# -- help and completion


# Those of backup and recovery are looked at by their own tests.
COMMANDS = {
    " ".join(words): (words, command)
    for words, command in commands()
    if words[0] not in ("backup", "recovery")
}


@pytest.mark.parametrize(("words", "command"), COMMANDS.values(), ids=COMMANDS)
def test_every_command_has_help_with_an_example_and_json(
    pillarbox: Pillarbox, words: tuple[str, ...], command: click.Command
) -> None:
    text = pillarbox.run(*words, "--help").stdout
    assert f"\n  pillarbox {' '.join(words)} " in text, "an example"
    assert "--json" in text or words == ("completion",)
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, f"{option.name} has no help"


EVERY = {" ".join(words): words for words, _ in commands()}


@pytest.mark.parametrize("words", [(), ("limits",), *EVERY.values()], ids=" ".join)
def test_a_help_page_fits_80_columns(pillarbox: Pillarbox, words: tuple[str, ...]) -> None:
    lines = pillarbox.run(*words, "--help").stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []


LAZY = [command for command in cli.commands.values() if isinstance(command, LazyCommand)]


@pytest.mark.parametrize("width", [20, 45, 200])
def test_a_command_is_listed_with_the_first_sentence_of_its_help(width: int) -> None:
    for lazy in LAZY:
        command = lazy.load()
        assert (lazy.name, lazy.get_short_help_str(width)) == (
            command.name,
            command.get_short_help_str(width),
        )


def test_it_tells_its_version(pillarbox: Pillarbox) -> None:
    assert pillarbox.run("--version").stdout.split()[-1] == version("pillarbox")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(pillarbox: Pillarbox, shell: str) -> None:
    text = pillarbox.run("completion", shell).stdout
    assert "_PILLARBOX_COMPLETE" in text and "pillarbox" in text


def test_bash_completes_by_what_is_printed(pillarbox: Pillarbox, server: Path) -> None:
    answer = subprocess.run(
        PILLARBOX,
        env={
            **os.environ,
            "_PILLARBOX_COMPLETE": "bash_complete",
            "COMP_WORDS": f"pillarbox list {server} an",
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "plain,anna\n"


def test_json_of_a_fixed_form_is_what_it_was(pillarbox: Pillarbox, server: Path, tmp_path: Path) -> None:
    """Other programs rely on these."""
    assert pillarbox.answer("import", server, "anna", DATA / "lists.mbox")["imported"] == 0
    assert isinstance(pillarbox.answer("status", server), list)
    assert {"folder", "messages", "unread"} <= pillarbox.answer("list", server, "anna")[0].keys()
    (row, *_) = pillarbox.answer("list", server, "anna", "spam")
    assert {"id", "uid", "from", "to", "subject", "date_ms", "size_bytes", "flags"} <= row.keys()
    assert "content" in pillarbox.answer("show", server, "anna", row["id"])
    assert pillarbox.answer("export", server, "anna", tmp_path / "out", "--format", "mbox")["exported"] == 30
    assert {"clean", "findings"} <= pillarbox.answer("check", server).keys()
    assert json.loads(pillarbox.run("check", server, "--json").stdout)["clean"] is True
