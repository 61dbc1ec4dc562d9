"""Versions of an object merge alike everywhere, and only what was seen is replaced."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.replication.ground.versions import Versions
from pillarbox.store.change_number import ChangeNumber, CNSet

A, B, C = (bytes([n]) * 16 for n in range(3))


class Text(NamedTuple):
    """A version made for the tests."""

    text: str
    gone: bool = False


State = Versions[Text]


def n(origin: bytes, counter: int) -> ChangeNumber:
    return ChangeNumber(origin, counter)


def merged(*states: State) -> State:
    result = states[0]
    for state in states[1:]:
        result = result.merged(state, CNSet())
    return result


def histories(writes: list[tuple[int, int, bool]]) -> list[State]:
    """Three replicas of one object; each write happens at one of them, after it saw another one's state."""
    states: list[State] = [Versions.first(n(A, 1), Text("new"))] * 3
    for counter, (writer, seen, gone) in enumerate(writes, 2):
        state = merged(states[writer], states[seen])
        states[writer] = state.written(n((A, B, C)[writer], counter), Text(str(counter), gone))
    return states


some_writes = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()), max_size=12)


@settings(deadline=None)
@given(some_writes)
def test_merging_gives_the_same_in_any_order_and_any_number_of_times(
    writes: list[tuple[int, int, bool]],
) -> None:
    states = histories(writes)
    first = merged(*states)
    assert all(merged(*order) == first for order in permutations(states))
    assert merged(first, *states, first) == first


@settings(deadline=None)
@given(some_writes)
def test_a_version_goes_only_by_a_write_that_saw_it(writes: list[tuple[int, int, bool]]) -> None:
    states = histories(writes)
    everywhere = merged(*states)
    for state in states:
        for number in state.siblings:
            replaced = any(other.has_seen(number) and number not in other.siblings for other in states)
            assert (number in everywhere.siblings) == (not replaced)


def test_concurrent_edits_are_siblings_until_a_write_saw_both() -> None:
    new = Versions.first(n(A, 1), Text("new"))
    mine, theirs = new.written(n(A, 2), Text("mine")), new.written(n(B, 1), Text("theirs"))
    both = mine.merged(theirs, CNSet())
    assert both.live() == (Text("theirs"), Text("mine")), "in the order of numbers, then of origins"
    assert both.written(n(B, 5), Text("settled")).merged(mine, CNSet()).live() == (Text("settled"),)


def test_an_edit_that_did_not_know_of_the_delete_lives() -> None:
    new = Versions.first(n(A, 1), Text("new"))
    deleted, edited = new.written(n(A, 2), Text("", gone=True)), new.written(n(B, 1), Text("edited"))
    assert deleted.merged(edited, CNSet()).live() == (Text("edited"),)
    assert deleted.merged(new, CNSet()).live() == ()


def test_a_version_that_was_had_and_is_no_longer_there_stays_away() -> None:
    new = Versions.first(n(A, 1), Text("new"))
    assert new.received(CNSet.full(A, 1)).siblings == {}
    assert new.received(CNSet()).siblings == new.siblings
    rewritten = Versions.first(n(B, 7), Text("other"))
    assert rewritten.merged(new, CNSet.full(A, 1)).siblings == rewritten.siblings


def test_holes_are_the_numbers_below_the_context_that_are_not_had() -> None:
    state = Versions.first(n(A, 3), Text("new")).written(n(B, 2), Text("edited"))
    assert state.holes(CNSet.of([n(A, 1), n(A, 3), n(B, 2)])) == CNSet.of([n(A, 2), n(B, 1)])
    assert state.entries() == {n(A, 3), n(B, 2)}
