"""Turns on a link: 8 : 2 : 1, nobody starves, and a folder does not hold up the others of its class."""

from __future__ import annotations

from collections import Counter

from pillarbox.replication.core.turns import Turns
from pillarbox.replication.wire.messages import Class


def test_under_load_the_classes_have_eight_two_and_one_of_eleven_turns() -> None:
    turns: Turns[tuple[Class, int]] = Turns()
    taken: Counter[Class] = Counter()
    for k in range(110):
        for each in Class:
            turns.put(each, (each, k))
        found = turns.take()
        assert found is not None
        taken[found[0]] += 1
    assert taken == {Class.URGENT: 80, Class.CHANGES: 20, Class.ANSWERS: 10}


def test_a_turn_that_its_class_does_not_need_goes_to_the_first_that_does() -> None:
    turns: Turns[str] = Turns()
    for key in "xyz":
        turns.put(Class.ANSWERS, key)
    turns.put(Class.CHANGES, "a")
    assert [turns.take() for _ in range(5)] == [
        (Class.CHANGES, "a"),
        (Class.ANSWERS, "x"),
        (Class.ANSWERS, "y"),
        (Class.ANSWERS, "z"),
        None,
    ]


def test_keys_of_a_class_take_turns_and_one_that_waits_keeps_its_place() -> None:
    turns: Turns[str] = Turns()
    for key in "abab":
        turns.put(Class.CHANGES, key)
    order = []
    for _ in range(4):
        found = turns.take()
        assert found is not None
        order.append(found[1])
        turns.put(Class.CHANGES, found[1])
    assert order == list("abab")
    turns.drop("a")
    assert list(turns.waiting(Class.CHANGES)) == ["b"] and len(turns) == 1
