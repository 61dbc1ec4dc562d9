"""The outcome of a backup that ran in a process of its own, by what that wrote."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.store.errors import PillarboxError, RepositoryLocked
from pillarbox.tools.serving.backup_run import BackupOutcome, outcome_of

LOCKED = json.dumps({"error": "it is locked", "code": 62, "class": "RepositoryLocked", "hint": "wait"})


def taken(snapshot: str | None) -> str:
    return json.dumps({"snapshot": snapshot, "forgotten": [], "next_ms": 5})


def test_a_backup_that_was_taken_or_not_due() -> None:
    assert outcome_of(0, taken("3f2a"), "") == BackupOutcome("3f2a", 5)
    assert outcome_of(0, taken(None), "") == BackupOutcome("", 5)


def test_a_backup_that_left_something_out_was_taken_and_says_so() -> None:
    told = json.dumps(
        {"error": "the backup is without Staff", "code": 54, "class": "Incomplete", "hint": "mount"}
    )
    assert outcome_of(54, taken("3f2a"), f"remark\n{told}\n") == BackupOutcome(
        "3f2a", 5, "the backup is without Staff", "mount"
    )


def test_a_backup_that_failed_raises_what_it_ended_with() -> None:
    with pytest.raises(RepositoryLocked, match="it is locked") as told:
        outcome_of(62, "", f"{LOCKED}\n")
    assert told.value.hint == "wait"


@pytest.mark.parametrize("said", ["", "Traceback\nOSError: no\n", '{"class": "annotations"}', '{"error": 1}'])
def test_an_end_that_nobody_foresaw_is_an_error_too(said: str) -> None:
    with pytest.raises(PillarboxError):
        outcome_of(1, "", said)
