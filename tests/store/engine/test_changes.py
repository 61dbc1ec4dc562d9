"""Changes that wait for the writer: prepared in turn, as many bytes at once as are bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.engine import changes as changes_module
from pillarbox.store.engine.changes import Change, Made, WaitingChanges

ACTOR = Actor.task("test")


def change_of(prepare: Callable[[], object], length: int) -> Change[None]:
    return Change(ACTOR, prepare, lambda txn, prepared: None, length)


def outcome_of(change: Change[None]) -> Made | None:
    return None if change.outcome.empty() else change.outcome.get()


def test_no_more_is_prepared_at_once_than_the_bound_and_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "_PREPARED_AT_ONCE_BYTES", 100)
    monkeypatch.setattr(changes_module, "_COUNTED_BYTES_MIN", 10)
    waiting = WaitingChanges()
    prepared: list[int] = []
    for number, length in enumerate([60, 41, 101, 1, *[1] * 10, 60]):
        waiting.add(change_of(lambda number=number: prepared.append(number), length))  # type: ignore[misc]
    at_once = []
    for _ in range(4):
        waiting.prepare_next()
        at_once.append(len(waiting.take_group()))
    assert at_once == [2, 1, 10, 2], "small ones are counted as ten bytes"
    assert prepared == list(range(15))


def test_what_its_caller_has_prepared_is_not_prepared_again_and_counts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes_module, "_PREPARED_AT_ONCE_BYTES", 5000)
    waiting = WaitingChanges()
    prepared: list[str] = []
    large = change_of(lambda: prepared.append("large"), 10_000)
    large.prepare()
    for change in (large, change_of(lambda: prepared.append("small"), 100)):
        waiting.add(change)
    waiting.prepare_next()
    assert prepared == ["large", "small"]
    assert len(waiting.take_group()) == 2


def test_those_prepared_while_others_change_the_database_are_one_group() -> None:
    waiting = WaitingChanges()
    for _ in range(3):
        waiting.add(change_of(lambda: None, 1))
        waiting.prepare_next()
    assert len(waiting) == 3
    assert len(waiting.take_group()) == 3
    assert len(waiting) == 0


def test_an_error_nobody_foresaw_while_one_is_prepared_reaches_all_that_wait() -> None:
    def stop() -> None:
        raise SystemExit

    waiting = WaitingChanges()
    changes = [change_of(prepare, 1) for prepare in (lambda: None, stop, lambda: None)]
    for change in changes:
        waiting.add(change)
    with pytest.raises(SystemExit):
        waiting.prepare_next()
    waiting.fail(ValueError("the writer ends"))
    assert [str(made.error) for change in changes if (made := outcome_of(change))] == ["the writer ends"] * 3


def test_callers_are_expected_back_while_those_before_them_came() -> None:
    waiting = WaitingChanges()
    waiting.expect_return(2)
    assert waiting.are_more_expected
    waiting.add(change_of(lambda: None, 1))
    assert waiting.are_more_expected, "one is on its way"
    waiting.add(change_of(lambda: None, 1))
    assert not waiting.are_more_expected, "all are back"
    waiting.expect_return(2)
    assert waiting.are_more_expected
    waiting.expect_return(2)
    assert not waiting.are_more_expected, "those before took their time"
    for _ in range(2):
        waiting.add(change_of(lambda: None, 1))
    waiting.expect_return(2)
    waiting.expect_no_more()
    assert not waiting.are_more_expected
