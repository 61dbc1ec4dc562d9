"""A backend that asks again: bounded exponential waits, with jitter so that clients do not come at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Final, TypeVar

from pillarbox.backup.repository.backend import Backend, FileInfo, FileKind
from pillarbox.store.clock import Clock
from pillarbox.store.errors import AlreadyExists, DiskFull, Retryable

_T = TypeVar("_T")

ATTEMPTS_MAX: Final = 8
DELAY_MS_FIRST: Final = 250
DELAY_MS_MAX: Final = 30_000


class RetryBackend:
    """`inner`, with every call that fails with Retryable made again, `attempts_max` times in all.

    The n-th wait is between half and all of `delay_ms_first` times 2 to the n, at most `delay_ms_max`.
    A full disk is not waited for: that needs a person.
    """

    def __init__(
        self,
        inner: Backend,
        clock: Clock,
        random: Random,
        *,
        attempts_max: int = ATTEMPTS_MAX,
        delay_ms_first: int = DELAY_MS_FIRST,
        delay_ms_max: int = DELAY_MS_MAX,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._random = random
        self._attempts_max = attempts_max
        self._delay_ms_first = delay_ms_first
        self._delay_ms_max = delay_ms_max

    def put(self, kind: FileKind, name: str, data: bytes, *, must_not_exist: bool = False) -> None:
        attempt = 0

        def put_once() -> None:
            nonlocal attempt
            attempt += 1
            try:
                self._inner.put(kind, name, data, must_not_exist=must_not_exist)
            except AlreadyExists:
                # An earlier attempt may have done it and only its answer was lost.
                if attempt == 1 or self._inner.get(kind, name) != data:
                    raise

        self._repeat(put_once)

    def get(self, kind: FileKind, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._repeat(lambda: self._inner.get(kind, name, offset, length))

    def list(self, kind: FileKind) -> Iterator[FileInfo]:
        yield from self._repeat(lambda: list(self._inner.list(kind)))

    def size(self, kind: FileKind, name: str) -> int:
        return self._repeat(lambda: self._inner.size(kind, name))

    def delete(self, kind: FileKind, name: str) -> None:
        self._repeat(lambda: self._inner.delete(kind, name))

    def remove_leftovers(self) -> None:
        self._repeat(self._inner.remove_leftovers)

    def _repeat(self, call: Callable[[], _T]) -> _T:
        delay_ms = self._delay_ms_first
        for _ in range(self._attempts_max - 1):
            try:
                return call()
            except DiskFull:
                raise
            except Retryable:
                self._clock.sleep_ms(self._random.randint(delay_ms // 2, delay_ms))
                delay_ms = min(delay_ms * 2, self._delay_ms_max)
        return call()
