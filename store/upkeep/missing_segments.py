"""Segments of a stream that are not there, between those that are, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise


def runs_of_missing(segments: Sequence[int], given_back: Collection[int] = ()) -> Iterator[tuple[int, int]]:
    """First and last number of each run of segments that are missing between others, in order.

    `segments` are those there are, in order; `given_back` those of which it is known that compaction has
    removed them.
    """
    for before, after in pairwise(segments):
        first = before + 1
        for number in (*sorted(each for each in given_back if before < each < after), after):
            if first < number:
                yield first, number - 1
            first = number + 1


def missing_text(first: int, last: int, transactions: tuple[int, int] | None, *, is_sure: bool) -> str:
    """A run of missing segments in words, with the transactions that are missing between the others.

    Where it is not sure that they are lost compaction may have given them back.
    """
    segments = f"segment {first} is" if first == last else f"segments {first} to {last} are"
    lost = ""
    if transactions is not None:
        one, other = transactions
        lost = f" with transaction {one}" if one == other else f" with transactions {one} to {other}"
    if is_sure:
        return f"{segments} missing in the stream{lost}"
    return f"{segments} not there: given back by compaction, or lost{lost}"
