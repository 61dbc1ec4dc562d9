"""What is printed: readable, never steering the terminal, valid JSON however it comes."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.store.errors import Refused
from pillarbox.tools import output

DATA = Path(__file__).parents[1] / "data"
PILLARBOX = "from pillarbox.tools.main import run; run()"


@given(st.text())
def test_a_line_is_one_line_of_visible_letters(text: str) -> None:
    assert output.printable(text).isprintable()
    assert len(output.printable(text)) == len(text)


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.lists(inner), max_leaves=8))
def test_json_says_the_same_with_every_letter_visible(data: Any) -> None:
    text = output.json_text(data, indent=2)
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert json.loads(text) == data
    assert text.encode()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_come_as_one_json_array(capsys: pytest.CaptureFixture[str], count: int) -> None:
    rows = [{"number": number, "text": "a\nb"} for number in range(count)]
    output.show_each(iter(rows), str, True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == rows
    assert len(printed.splitlines()) == (count + 2 if count else 1)


def test_no_rows_are_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_each(iter(()), str, False, empty="nothing")
    assert capsys.readouterr().out == "nothing\n"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KB"),
        (1536, "1.5 KB"),
        (1048575, "1.0 MB"),
        (18 << 30, "18.0 GB"),
        (1 << 70, "1,048,576.0 PB"),
    ],
)
def test_sizes_are_shown_in_units_people_use(size_bytes: int, text: str) -> None:
    assert output.size_text(size_bytes) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 messages"), (1, "1 message"), (1200, "1,200 messages")])
def test_numbers_of_things_are_counted_as_people_do(count: int, text: str) -> None:
    assert output.counted(count, "message") == text


@pytest.fixture
def vienna(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that stands in Vienna."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Vienna")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("vienna")
def test_times_are_shown_on_the_local_clock_with_their_zone() -> None:
    assert output.local_time(1030015600000) == "2002-08-22 13:26+02:00"
    assert output.local_time(1040015600000) == "2002-12-16 06:13+01:00"


@pytest.mark.parametrize(("time_ms", "text"), [(None, ""), (1 << 62, "?"), (-(1 << 62), "?")])
def test_a_time_that_is_none_is_none(time_ms: int | None, text: str) -> None:
    assert output.local_time(time_ms) == text


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_yes_is_yes(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    output.confirm("Sure?", yes=False)


def test_whoever_is_asked_is_not_asked_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    with pytest.raises(Refused):
        output.confirm("Delete \x1b[1m?", yes=False)
    printed = capsys.readouterr()
    assert printed.out == "" and "Delete  [1m? [y/N]" in printed.err


def terminal_output(*words: object) -> str:
    """What a command prints on a terminal's stderr."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PILLARBOX, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        printed = b""
        try:
            while block := os.read(ours, 65536):
                printed += block
        except OSError:
            pass  # so ends a terminal that nobody holds any more
        os.close(ours)
    assert process.returncode == 0, printed
    return printed.decode()


def test_progress_is_shown_where_a_person_looks(pillarbox: Any, tmp_path: Path) -> None:
    pillarbox.answer("init", tmp_path / "server")
    words = ("import", tmp_path / "server", "anna", DATA / "lists.mbox")
    assert "importing" in terminal_output(*words)
    assert pillarbox.run(*words).stderr == ""


def test_progress_is_shown_to_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with output.progress("importing", as_json=True) as step:
        assert step is None


def test_counts_add_up_and_a_total_that_was_too_low_is_made_up_for() -> None:
    steps: list[tuple[int, int]] = []
    told = output.counting(lambda done, total, what: steps.append((done, total)), 10)
    for count in (4, 6, 3):
        told(count)
    assert steps == [(4, 10), (10, 10), (13, 13)]
