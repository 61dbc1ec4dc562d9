"""Link state: stated late, only when it really changed, and counted as up while it oscillates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.replication.organisation.link_state import LinkState, LinkWatch, StatedLinks

MINUTE_MS = 60_000


def stated(changes: list[tuple[int, bool]], at_ms: int) -> LinkState:
    """The state that is stated at a time, after a connector was seen up or down at earlier ones."""
    watch, left = LinkWatch(), list(changes)
    for now_ms in range(0, at_ms + 1, 1000):
        while left and left[0][0] <= now_ms:
            watch = watch.seen(left.pop(0)[1], now_ms)
        if watch.due_ms() <= now_ms:
            watch = watch.at(now_ms)
    return watch.stated


def test_a_connector_is_down_after_thirty_seconds_and_up_after_ten() -> None:
    assert stated([(5_000, False)], 34_000) is LinkState.UP
    assert stated([(5_000, False)], 35_000) is LinkState.DOWN
    back = [(5_000, False), (60_000, True)]
    assert stated(back, 69_000) is LinkState.DOWN
    assert stated(back, 70_000) is LinkState.UP


def test_a_short_break_is_not_stated() -> None:
    assert stated([(5_000, False), (20_000, True)], MINUTE_MS) is LinkState.UP


def test_more_than_three_changes_in_ten_minutes_oscillate_until_ten_minutes_without_one() -> None:
    changes = [(k * 60_000, k % 2 == 0) for k in range(1, 8)]  # down at 1, up at 2, ... down at 7 minutes
    assert stated(changes, 3 * MINUTE_MS + 40_000) is LinkState.DOWN
    assert stated(changes, 4 * MINUTE_MS) is LinkState.OSCILLATING
    assert stated(changes, 16 * MINUTE_MS) is LinkState.OSCILLATING
    assert stated(changes, 17 * MINUTE_MS) is LinkState.DOWN


def test_a_watch_that_rests_is_due_no_more() -> None:
    watch = LinkWatch().seen(False, 0)
    assert watch.due_ms() == 30_000
    watch = watch.at(30_000)
    assert watch.stated is LinkState.DOWN and watch.due_ms() > 10**12


@given(st.lists(st.tuples(st.integers(1, 400_000), st.booleans()), max_size=30))
def test_a_watch_is_never_due_twice_at_one_time(steps: list[tuple[int, bool]]) -> None:
    watch, now_ms = LinkWatch(), 0
    for wait_ms, is_up in steps:
        while watch.due_ms() <= now_ms + wait_ms:
            due_ms = max(now_ms, watch.due_ms())
            watch = watch.at(due_ms)
            assert watch.due_ms() > due_ms
        now_ms += wait_ms
        watch = watch.seen(is_up, now_ms)


def test_late_statements_change_nothing_and_those_that_are_not_repeated_lapse() -> None:
    links = StatedLinks()
    assert links.hear("ab", b"1" * 16, 2, LinkState.DOWN, 0)
    assert not links.hear("ab", b"1" * 16, 2, LinkState.DOWN, 0)
    assert not links.hear("ab", b"1" * 16, 1, LinkState.UP, 0)
    assert links.down(0) == {"ab"}
    assert links.hear("ab", b"2" * 16, 1, LinkState.OSCILLATING, 0)
    assert links.states(0) == {"ab": LinkState.DOWN}
    assert links.down(links.lapses_ms(0) - 1) and not links.down(links.lapses_ms(0))
    assert links.hear("ab", b"1" * 16, 3, LinkState.UP, 0)
    assert not links.down(0) and links.states(0) == {"ab": LinkState.OSCILLATING}


def test_each_statement_counts_until_it_lapses_and_a_new_one_at_once() -> None:
    links = StatedLinks()
    links.hear("ab", b"1" * 16, 1, LinkState.DOWN, 0)
    lapses_ms = links.lapses_ms(0)
    assert links.down(MINUTE_MS) == {"ab"}
    links.hear("cd", b"1" * 16, 2, LinkState.DOWN, MINUTE_MS)
    assert links.down(MINUTE_MS) == {"ab", "cd"} and links.lapses_ms(MINUTE_MS) == lapses_ms
    assert links.down(lapses_ms) == {"cd"} and links.lapses_ms(lapses_ms) == lapses_ms + MINUTE_MS
    assert links.down(lapses_ms - 1) == {"ab", "cd"}  # as an earlier moment was


def test_what_an_end_had_stated_counts_no_more_once_it_begins_anew_whatever_others_state() -> None:
    links = StatedLinks()
    links.hear("ab", b"1" * 16, 1, LinkState.DOWN, 0)
    links.hear("cd", b"2" * 16, 1, LinkState.DOWN, MINUTE_MS)
    assert links.down(MINUTE_MS) == {"ab", "cd"}
    links.forget(b"1" * 16)
    assert links.down(MINUTE_MS) == {"cd"}
