"""Changes that the writer makes for callers, deliveries above all: in one transaction, each with its outcome.

Preparation comes first and needs no transaction. The writer prepares small changes itself, one after the
other: threads that prepare beside one another wake one another for Python's one lock at each step that lets
go of it, and take twice the time together. Large changes are prepared by their callers. So nobody waits for
the preparation of others beyond the bytes bounded here (docs/architecture.md, "How a commit goes").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pillarbox.store.access import Actor
from pillarbox.store.engine.commits import GROUP_BYTES_MAX, GROUP_COMMITS_MAX
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import PillarboxError

ResultT = TypeVar("ResultT")
PreparedT = TypeVar("PreparedT")

# 24 in 25 messages of the mail of the benchmarks are smaller: half a millisecond to prepare.
SMALL_BYTES_MAX: Final = 128 << 10
_PREPARED_AT_ONCE_BYTES: Final = 1 << 20
_COUNTED_BYTES_MIN: Final = 4096  # a message of one byte takes some time, too

Event = tuple[int, dict[str, Any]]


class Made(NamedTuple):
    """The outcome of a change: its result and the events it reported, or what kept it from being made."""

    result: Any
    events: Sequence[Event]
    error: Exception | None


class Change(Generic[ResultT]):
    """A change that the writer makes for a caller, in one transaction with others that wait.

    `prepare` is called once and gives `make` what it needs beside the transaction. `length` is how many bytes
    are prepared, and about to be added to the stream.
    """

    def __init__(
        self,
        actor: Actor,
        prepare: Callable[[], PreparedT],
        make: Callable[[WriteTransaction, PreparedT], ResultT],
        length: int,
    ) -> None:
        self.actor = actor
        self.length = length
        self.outcome: SimpleQueue[Made] = SimpleQueue()
        self.is_prepared = False
        self._prepare = prepare
        self._make: Callable[[WriteTransaction, Any], ResultT] = make
        self._prepared: Any = None

    def prepare(self) -> None:
        """Prepare it, unless it is prepared. Raises what `prepare` does."""
        if not self.is_prepared:
            self._prepared = self._prepare()
            self.is_prepared = True

    def make(self, transaction: WriteTransaction) -> ResultT:
        """Make it, when it is prepared; it can be made again in another transaction."""
        return self._make(transaction, self._prepared)

    def fail(self, error: Exception) -> None:
        """Tell its caller that it was not made."""
        self.outcome.put(Made(None, (), error))

    def fail_with_others(self, error: Exception) -> None:
        """`fail` by an error that others are told, too: each raises one of its own."""
        if isinstance(error, PillarboxError):
            shared, error = error, error.anew()
            error.__cause__ = shared
        self.fail(error)


class Together:
    """The outcome of a transaction that was made for several callers."""

    def __init__(self, made: Sequence[tuple[Change[Any], Made]]) -> None:
        self._made = made

    def put(self, error: PillarboxError | None) -> None:
        """Tell each caller how its own change went."""
        for change, made in self._made:
            if error is None:
                change.outcome.put(made)
            else:
                change.fail_with_others(error)


class WaitingChanges:
    """Changes that wait for the writer, in the order in which they came. For the writer thread."""

    def __init__(self) -> None:
        self._came: deque[Change[Any]] = deque()
        self._prepared: deque[Change[Any]] = deque()
        self._returning = 0
        self._are_quick = True

    def __len__(self) -> int:
        return len(self._came) + len(self._prepared)

    def add(self, change: Change[Any]) -> None:
        """Put a change behind all others."""
        self._came.append(change)
        self._returning -= 1

    @property
    def are_more_expected(self) -> bool:
        """True when callers whose changes were made last are about to come back with their next."""
        return self._are_quick and self._returning > 0

    def expect_return(self, callers: int) -> None:
        """Note that so many callers are about to be told together; many deliver the next message at once.

        They are waited for only while those who were told before them have come back by now.
        """
        self._are_quick = self._returning <= 0
        self._returning = callers

    def expect_no_more(self) -> None:
        """Wait for no caller who is not back yet."""
        self._are_quick = False

    def prepare_next(self) -> None:
        """Prepare those that came first, until they are 1 MB. A failure is told to its own caller."""
        left = _PREPARED_AT_ONCE_BYTES
        while self._came and left > 0:
            change = self._came[0]
            if not change.is_prepared:
                left -= max(change.length, _COUNTED_BYTES_MIN)
            error: Exception | None = None
            try:
                change.prepare()
            except Exception as failed:
                error = failed
            self._came.popleft()  # only now: what nobody foresaw is told to all that wait
            if error is None:
                self._prepared.append(change)
            else:
                change.fail(error)

    def take_group(self) -> list[Change[Any]]:
        """The prepared changes that are to be made together next."""
        group: list[Change[Any]] = []
        length = 0
        while self._prepared and len(group) < GROUP_COMMITS_MAX:
            length += self._prepared[0].length
            if group and length > GROUP_BYTES_MAX:
                break
            group.append(self._prepared.popleft())
        return group

    def fail(self, error: Exception) -> None:
        """Tell all that wait that they are not made."""
        for waiting in (self._prepared, self._came):
            while waiting:
                waiting.popleft().fail_with_others(error)
