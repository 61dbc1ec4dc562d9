"""The benchmark runs end to end on a handful of messages; what it measures is not judged here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pillarbox.tools.bench.__main__ import on_one_core, run
from pillarbox.tools.bench.peers import dovecot_import
from pillarbox.tools.bench.report import (
    CHANGES,
    DOVECOT_IMPORT,
    DOVECOT_ONE_CORE,
    MAILDIR,
    PILLARBOX_BULK,
    PILLARBOX_LIST,
    PILLARBOX_ONE_CORE,
    PILLARBOX_ONE_PROCESS,
    PILLARBOX_READ,
    PILLARBOX_SCALE_FIRST,
    PILLARBOX_SCALE_LAST,
    PILLARBOX_SINGLE,
    PILLARBOX_THREADS,
    SQLITE_BULK,
    SQLITE_LIST,
    SQLITE_READ,
    SQLITE_SINGLE,
    Figure,
    best_of,
    change_name,
    verdicts,
)
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus, resample


def test_the_fastest_of_each_figure_counts() -> None:
    first = [Figure(MAILDIR, 10, 2.0), Figure(SQLITE_BULK, 10, 1.0)]
    second = [Figure(MAILDIR, 10, 1.0), Figure(PILLARBOX_BULK, 10, 3.0), Figure(SQLITE_BULK, 10, 4.0)]
    assert best_of([first, second]) == [second[0], first[1], second[1]]


@pytest.fixture(autouse=True)
def no_dovecot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail server is not started by tests."""
    monkeypatch.setattr("pillarbox.tools.bench.peers._has_dovecot", lambda: False)


def test_with_dovecot_both_sides_are_also_measured_on_one_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores: list[int] = []

    def imported(root: Path, messages: object) -> Figure:
        cores.append(len(os.sched_getaffinity(0)))
        return Figure(DOVECOT_IMPORT, 1, 1.0)

    before = os.sched_getaffinity(0)
    monkeypatch.setattr("pillarbox.tools.bench.__main__.dovecot_import", imported)
    figures = on_one_core(tmp_path, [b"Subject: x\r\n\r\n"])
    assert [figure.name for figure in figures if figure] == [DOVECOT_ONE_CORE, PILLARBOX_ONE_CORE]
    assert cores == [1]
    assert os.sched_getaffinity(0) == before


def test_the_user_of_dovecot_may_look_through_every_directory_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    def imported(root: Path, messages: object) -> None:
        between = [root, *root.parents]
        modes.extend(path.stat().st_mode for path in between[: between.index(tmp_path)])

    monkeypatch.setattr("pillarbox.tools.bench.__main__.dovecot_import", imported)
    assert run(["8", "--only", "bulk", "--dir", str(tmp_path)]) == 0
    assert len(modes) == 3, "the run's directory twice, and the one of what runs on one core"
    assert all(mode & 0o005 == 0o005 for mode in modes)


def test_a_peer_that_cannot_be_run_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dovecot_import(tmp_path, []) is None
    assert "no figure of doveadm import, mdbox, zstd: dovecot is not installed" in capsys.readouterr().err


def test_every_measure_and_its_peers_come_out_of_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["32", "--rounds", "2", "--json", "--dir", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    counts = {figure["name"]: figure["count"] for figure in told["figures"]}
    assert counts == dict.fromkeys(
        [
            MAILDIR,
            SQLITE_BULK,
            SQLITE_SINGLE,
            PILLARBOX_SINGLE,
            PILLARBOX_BULK,
            PILLARBOX_ONE_PROCESS,
            PILLARBOX_THREADS,
            PILLARBOX_LIST,
            SQLITE_LIST,
            PILLARBOX_READ,
            SQLITE_READ,
            *(
                f"{side}, {change_name(change, is_one_by_one=single)}"
                for side in ("Pillarbox", "SQLite")
                for change in CHANGES
                for single in (False, True)
            ),
        ],
        32,
    )
    assert len(told["targets"]) == 13  # all but Dovecot's and those of scale
    assert not list(tmp_path.iterdir())


def test_scale_times_the_first_and_the_last_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillarbox.tools.bench.pillarbox_side.WINDOW_COUNT", 10)
    assert run(["--scale", "25", "--json", "--dir", str(tmp_path)]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert [(figure["name"], figure["count"]) for figure in figures] == [
        (PILLARBOX_SCALE_FIRST, 10),
        (PILLARBOX_SCALE_LAST, 5),
    ]


def test_the_same_seed_gives_the_same_messages_and_no_two_are_alike() -> None:
    corpus = read_corpus(CORPUS_DEFAULT)
    messages = list(resample(corpus, 100))
    assert messages == list(resample(corpus, 100))
    assert len(set(messages)) == 100


def test_a_missed_target_is_called_missed() -> None:
    figures = [Figure(PILLARBOX_SINGLE, 90, 1.0), Figure(SQLITE_SINGLE, 100, 1.0)]
    (verdict,) = verdicts(figures)
    assert (verdict.reached, verdict.met) == (0.9, False)


def test_a_folder_without_mail_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--corpus", str(tmp_path)]) == 1
    assert "no mail" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["0"], ["-5"], ["many"], ["20", "--rounds", "0"]])
def test_a_number_below_one_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words)
    assert ended.value.code == 2
    assert "is no number from 1 on" in capsys.readouterr().err
