"""Many things taken some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")


def batches(
    items: Iterable[ItemT], bytes_of: Callable[[ItemT], int], count_max: int, bytes_max: int
) -> Iterator[list[ItemT]]:
    """Items in order, so many together that they reach a count or a number of bytes; the rest at the end."""
    batch: list[ItemT] = []
    size_bytes = 0
    for item in items:
        batch.append(item)
        size_bytes += bytes_of(item)
        if len(batch) >= count_max or size_bytes >= bytes_max:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
