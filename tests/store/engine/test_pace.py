"""Bulk work takes short turns, and rests after each while others are at work."""

from __future__ import annotations

from pillarbox.store.engine.pace import BATCH_ROWS, Pace


def test_work_that_is_alone_does_not_rest() -> None:
    pace = Pace()
    assert [pace.rest_ms(10, sequence) for sequence in (7, 8, 9)] == [0, 0, 0]


def test_work_rests_longer_than_it_took_while_others_change_the_database() -> None:
    pace = Pace()
    assert pace.rest_ms(10, 7) == 0, "nothing is known of others yet"
    assert pace.rest_ms(10, 9) > 10
    assert pace.rest_ms(10, 10) == 0, "they have stopped"


def test_no_rest_is_so_long_that_the_work_would_not_end() -> None:
    pace = Pace()
    pace.rest_ms(1, 1)
    assert pace.rest_ms(60_000, 9) == 200


def test_a_batch_that_took_long_is_followed_by_smaller_ones_and_these_grow_again() -> None:
    pace = Pace()
    sizes = []
    for sequence in range(10):
        pace.rest_ms(100, sequence)
        sizes.append(pace.rows)
    assert sizes[0] == BATCH_ROWS // 2 and sizes[-1] == 16
    pace.rest_ms(30, 20)
    assert pace.rows == 16
    for sequence in range(30, 40):
        pace.rest_ms(5, sequence)
    assert pace.rows == BATCH_ROWS


def test_small_batches_stay_small() -> None:
    pace = Pace(2)
    pace.rest_ms(100, 1)
    assert pace.rows == 2
    pace.rest_ms(1, 2)
    assert pace.rows == 2
