"""A replica believes a gap only when it holds what the gap depends on."""

from __future__ import annotations

from pillarbox.replication.ground.knowledge import Knowledge, Pair
from pillarbox.store.change_number import ChangeNumber, CNSet

A, B, SOURCE, OTHER = (bytes([n]) * 16 for n in range(4))
FOLDER = ChangeNumber(A, 9)


def numbers(origin: bytes, *counters: int) -> CNSet:
    return CNSet.of(ChangeNumber(origin, counter) for counter in counters)


def test_gaps_are_taken_when_what_they_require_is_held() -> None:
    knowledge = Knowledge()
    knowledge.tell(SOURCE, Pair(CNSet.full(A, 5), numbers(A, 5)))
    assert knowledge.known == CNSet(), "5 replaced some of them and has not come"
    knowledge.claim(numbers(A, 5))
    knowledge.settle()
    assert knowledge.known == CNSet.full(A, 5)
    assert knowledge.pairs_count == 0


def test_a_whole_answer_fulfils_its_own_condition() -> None:
    knowledge = Knowledge()
    knowledge.claim_each([ChangeNumber(A, 2), ChangeNumber(A, 7)])
    knowledge.tell(SOURCE, Pair(CNSet.full(A, 7), numbers(A, 2, 7)))
    assert knowledge.known == CNSet.full(A, 7)


def test_gaps_of_one_origin_do_not_wait_for_another_one() -> None:
    knowledge = Knowledge(numbers(A, 3))
    knowledge.tell(SOURCE, Pair(CNSet.full(A, 3) | CNSet.full(B, 3), numbers(A, 3) | numbers(B, 3)))
    assert knowledge.known == CNSet.full(A, 3)
    assert knowledge.pairs_count == 1


def test_a_gap_that_is_taken_may_fulfil_the_condition_of_another() -> None:
    knowledge = Knowledge()
    knowledge.tell(OTHER, Pair(CNSet.full(A, 9), numbers(A, 4, 9)))
    knowledge.tell(SOURCE, Pair(CNSet.full(A, 5), numbers(A, 5)))
    knowledge.claim(numbers(A, 5, 9))
    knowledge.settle()
    assert knowledge.known == CNSet.full(A, 9)


def test_of_two_statements_of_one_source_neither_is_lost() -> None:
    knowledge = Knowledge()
    knowledge.tell(SOURCE, Pair(CNSet.full(A, 2), numbers(A, 2)))
    knowledge.tell(SOURCE, Pair(CNSet.of_range(A, 3, 5), numbers(A, 5)))
    assert knowledge.pairs_count == 1
    knowledge.claim(numbers(A, 2, 5))
    knowledge.settle()
    assert knowledge.known == CNSet.full(A, 5)


def test_expired_numbers_are_had_and_not_offered() -> None:
    knowledge = Knowledge(CNSet.full(A, 4))
    knowledge.expire(numbers(A, 2))
    assert knowledge.known == numbers(A, 1, 3, 4)
    assert knowledge.had == CNSet.full(A, 4)
    knowledge.tell(SOURCE, Pair(CNSet.full(A, 6), numbers(A, 3)))
    assert knowledge.known == numbers(A, 1, 3, 4, 5, 6), "a gap does not make it offered again"
    knowledge.claim(numbers(A, 2))
    assert not knowledge.expired


def test_what_is_tried_again_holds_up_the_gaps_of_those_alone_who_may_give_it() -> None:
    knowledge = Knowledge(expired=numbers(A, 2))
    knowledge.retried = numbers(A, 2)
    knowledge.tell(SOURCE, Pair(numbers(A, 1, 2), numbers(A, 2)))
    assert not knowledge.known, "it has the number, which may come, and replaced another one"
    knowledge.tell(OTHER, Pair(numbers(A, 3, 4), numbers(A, 2)))
    assert knowledge.known == numbers(A, 3, 4), "it let the number go, and will not give it"
    assert knowledge.retried == numbers(A, 2)


def test_numbers_that_all_others_expired_are_required_of_nobody() -> None:
    knowledge = Knowledge(numbers(A, 5))
    knowledge.tell(SOURCE, Pair(CNSet.full(A, 5), numbers(A, 3, 5)))
    knowledge.settle(assumed=numbers(A, 3))
    assert knowledge.known == numbers(A, 1, 2, 4, 5), "the gaps are taken; what is assumed is not had"


def test_a_copy_stands_still() -> None:
    knowledge = Knowledge()
    copied = knowledge.copy()
    knowledge.tell(SOURCE, Pair(CNSet.full(A, 1), numbers(A, 9)))
    knowledge.claim(CNSet.full(B, 3))
    assert copied.known == CNSet() and copied.pairs_count == 0


def test_equal_knowledge_of_a_folder_has_equal_digests() -> None:
    piecewise = Knowledge()
    piecewise.claim(numbers(A, 1, 3))
    piecewise.claim(numbers(A, 2))
    assert piecewise.digest(FOLDER) == Knowledge(CNSet.full(A, 3)).digest(FOLDER)
    assert piecewise.digest(FOLDER) != piecewise.digest(ChangeNumber(B, 9))
    assert len(piecewise.digest(FOLDER)) == 16
