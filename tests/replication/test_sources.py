"""Backfill sources are chosen as DOMAIN.md says, "Backfill source selection"."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.replication.organisation.sources import Candidate, Late, Plan, choose_sources
from pillarbox.store.change_number import ChangeNumber, CNSet

ORIGIN, ASKER = b"o" * 16, b"a" * 16
OLD, NEW = 6, 7


def store(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def numbers(*counters: int) -> CNSet:
    return CNSet.of(ChangeNumber(ORIGIN, counter) for counter in counters)


def assigned(plan: Plan) -> dict[bytes, CNSet]:
    return {request.source: request.numbers for request in plan.requests}


def by_the_text(needed: set[int], stores: list[tuple[bytes, int, int, set[int], bool]]) -> list[set[int]]:
    """The source's text, word for word, over plain sets: the numbers asked of each group of stores that the
    text does not tell apart, in order."""
    asked = []
    listed = [each for each in stores if each[3] & needed]  # "List every store that has some"
    original = set(needed)
    for cost in sorted({each[1] for each in listed}):  # "1. lowest transport cost from here"
        of_cost = [each for each in listed if each[1] == cost]
        for late in (False, True):  # "come later (ours: after the others of their cost)"
            group = [each for each in of_cost if each[4] == late]
            for version in sorted({each[2] for each in group}, reverse=True):  # "2. at equal cost, newest"
                equal = [each for each in group if each[2] == version]
                counts = {len(each[3] & original) for each in equal}  # "counts over the original need"
                for count in sorted(counts, reverse=True):  # "3. most of the needed changes available"
                    most = [each for each in equal if len(each[3] & original) == count]
                    asked.append(set().union(*(each[3] for each in most)) & needed)
                    needed = needed - asked[-1]  # "ask ... the next for what is then still needed"
    return [numbers for numbers in asked if numbers]


some_numbers = st.sets(st.integers(1, 20), max_size=12)
some_stores = st.lists(
    st.tuples(st.sampled_from((0, 10, 20)), st.sampled_from((OLD, NEW)), some_numbers, st.booleans()),
    max_size=8,
)


@settings(deadline=None, max_examples=500)
@given(some_numbers, some_stores)
def test_sources_are_chosen_as_the_text_says(
    needed: set[int], stores: list[tuple[int, int, set[int], bool]]
) -> None:
    named = [(store(f"s{k}"), *rest) for k, rest in enumerate(stores)]
    candidates = [
        Candidate(name, cost, version, numbers(*available), Late.SILENT if late else Late.NO)
        for name, cost, version, available, late in named
    ]
    plan = choose_sources(ASKER, numbers(*needed), candidates)
    groups = by_the_text(needed, named)
    asked = [request.numbers for request in plan.requests]
    for group in groups:  # stores that the text does not tell apart share what it gives to the group
        together = CNSet()
        while together != numbers(*group):
            together |= asked.pop(0)
            assert numbers(*group).covers(together)
    assert not asked
    assert plan.left == numbers(*needed.difference(*(group for group in groups)))
    assert sum(reason.asked_count for reason in plan.reasons) + plan.left.count() == len(needed)


def test_a_new_server_backfills_from_the_old_servers_of_its_own_site() -> None:
    """The worked example: in each site older servers hold everything, and one new server is empty."""
    everything = CNSet.full(ORIGIN, 1000)
    half = CNSet.full(ORIGIN, 500)
    candidates = [
        Candidate(store("new elsewhere"), 10, NEW, half),
        Candidate(store("old elsewhere"), 10, OLD, everything),
        Candidate(store("old here"), 0, OLD, everything),
        Candidate(store("old here too"), 0, OLD, everything - numbers(7)),
        Candidate(store("empty elsewhere"), 10, NEW, CNSet()),
    ]
    plan = choose_sources(ASKER, everything, candidates)
    assert assigned(plan) == {store("old here"): everything}
    assert [reason.source for reason in plan.reasons] == [
        store("old here"),
        store("old here too"),
        store("new elsewhere"),
        store("old elsewhere"),
    ]


def test_a_cheaper_server_with_a_part_is_asked_for_that_part() -> None:
    candidates = [
        Candidate(store("dear"), 30, NEW, CNSet.full(ORIGIN, 100)),
        Candidate(store("cheap"), 10, OLD, CNSet.full(ORIGIN, 40)),
    ]
    plan = choose_sources(ASKER, CNSet.full(ORIGIN, 100), candidates)
    assert assigned(plan) == {
        store("cheap"): CNSet.full(ORIGIN, 40),
        store("dear"): CNSet.of_range(ORIGIN, 41, 100),
    }
    assert [(reason.needed_count, reason.asked_count) for reason in plan.reasons] == [(40, 40), (100, 60)]


def test_counts_are_over_the_original_need() -> None:
    # After the first, "second" has more of what is left than "third"; counted once, "third" comes first.
    candidates = [
        Candidate(store("first"), 0, OLD, CNSet.full(ORIGIN, 10)),
        Candidate(store("second"), 0, OLD, CNSet.of_range(ORIGIN, 11, 14)),
        Candidate(store("third"), 0, OLD, CNSet.of_range(ORIGIN, 6, 12)),
    ]
    plan = choose_sources(ASKER, CNSet.full(ORIGIN, 14), candidates)
    assert [reason.source for reason in plan.reasons] == [store("first"), store("third"), store("second")]
    assert assigned(plan)[store("third")] == numbers(11, 12)
    assert assigned(plan)[store("second")] == numbers(13, 14)


def test_a_silent_server_comes_after_the_others_of_its_cost() -> None:
    everything = CNSet.full(ORIGIN, 10)
    candidates = [
        Candidate(store("silent"), 0, NEW, everything, Late.SILENT),
        Candidate(store("here"), 0, OLD, everything - numbers(3)),
        Candidate(store("far"), 20, NEW, everything),
    ]
    plan = choose_sources(ASKER, everything, candidates)
    assert assigned(plan) == {store("here"): everything - numbers(3), store("silent"): numbers(3)}


def test_a_source_that_an_operator_prefers_is_asked_first() -> None:
    everything = CNSet.full(ORIGIN, 10)
    candidates = [
        Candidate(store("here"), 0, NEW, everything),
        Candidate(store("preferred"), 50, OLD, CNSet.full(ORIGIN, 9)),
    ]
    plan = choose_sources(ASKER, everything, candidates, preferred=[store("preferred")])
    assert assigned(plan) == {store("preferred"): CNSet.full(ORIGIN, 9), store("here"): numbers(10)}
    assert plan.reasons[0].is_preferred


@settings(deadline=None, max_examples=100)
@given(some_numbers, st.lists(some_numbers, max_size=6))
def test_a_number_is_asked_of_one_source_alone(needed: set[int], available: list[set[int]]) -> None:
    candidates = [Candidate(store(f"s{k}"), k, OLD, numbers(*each)) for k, each in enumerate(available)]
    plan = choose_sources(ASKER, numbers(*needed), candidates)
    assert sum(request.numbers.count() for request in plan.requests) + plan.left.count() == len(needed)


def test_sources_with_pieces_of_each_interval_are_asked_for_them_and_a_dearer_one_for_the_rest() -> None:
    pieces = [numbers(*range(k, 1000, 10)) for k in (1, 2, 3, 5, 8)]
    candidates = [Candidate(store(f"s{k}"), 0, OLD, piece) for k, piece in enumerate(pieces)]
    candidates.append(Candidate(store("everything"), 10, OLD, CNSet.full(ORIGIN, 999)))
    plan = choose_sources(ASKER, CNSet.full(ORIGIN, 999), candidates)
    assert plan.left == CNSet()
    assert {assigned(plan)[store(f"s{k}")] for k in range(5)} == set(pieces)
    assert plan.requests[-1].source == store("everything") and plan.requests[-1].numbers.count() == 499


def test_what_nobody_has_is_left() -> None:
    plan = choose_sources(ASKER, numbers(1, 2), [Candidate(store("here"), 0, OLD, numbers(2))])
    assert plan.left == numbers(1)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_candidates_does_not_matter_and_equals_share_the_askers(seed: int) -> None:
    everything = CNSet.full(ORIGIN, 10)
    candidates = [Candidate(store(f"s{k}"), 0, OLD, everything) for k in range(6)]
    shuffled = random.Random(seed).sample(candidates, len(candidates))
    first = {choose_sources(store(f"a{k}"), everything, candidates).requests[0].source for k in range(30)}
    assert len(first) > 3, "not all ask the same one"
    assert choose_sources(ASKER, everything, shuffled) == choose_sources(ASKER, everything, candidates)
