"""Stamps order writes by what was known, then by time; one wrong clock wins nothing."""

from __future__ import annotations

from pillarbox.store.hybrid_clock import AHEAD_MS_MAX, HybridClock, Stamp

A, B = b"a" * 16, b"b" * 16
NOW = 1_800_000_000_000


def test_a_write_that_knew_of_another_is_later_whatever_the_clocks_say() -> None:
    seen = HybridClock().next(NOW + 60_000).stamp(A)
    clock = HybridClock().witnessed(seen, NOW)
    assert clock.next(NOW).stamp(B) > seen
    assert clock.next(NOW).next(NOW).stamp(B) > clock.next(NOW).stamp(B)


def test_time_moves_the_clock_on() -> None:
    assert HybridClock(NOW, 7).next(NOW + 1) == HybridClock(NOW + 1, 0)


def test_writes_of_one_moment_are_ordered_by_origin() -> None:
    assert HybridClock(NOW, 0).stamp(A) < HybridClock(NOW, 0).stamp(B)


def test_a_stamp_far_ahead_moves_no_clock_and_loses() -> None:
    wrong = Stamp(NOW + AHEAD_MS_MAX + 1, 0, A)
    assert wrong.is_ahead(NOW) and not wrong.is_ahead(NOW + 1)
    assert HybridClock(NOW, 0).witnessed(wrong, NOW) == HybridClock(NOW, 0)
    assert max((wrong, Stamp(NOW, 0, B)), key=lambda stamp: stamp.weight(NOW)) == Stamp(NOW, 0, B)


def test_a_clock_that_was_ahead_itself_comes_back() -> None:
    assert HybridClock(NOW + AHEAD_MS_MAX + 1, 3).next(NOW) == HybridClock(NOW, 0)
