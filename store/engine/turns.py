"""Turns: who may change the database, or take memory, and that a turn ends whatever interrupts its thread.

Python raises KeyboardInterrupt in the main thread between any two steps of it, also as a `with` block is
entered or left, where no `except` reaches. A turn therefore has a watch: the interpreter itself tells the
writer thread, which no signal interrupts, that a `with` block is gone, and the writer ends a turn that has
not ended by then. The one lock here is entered and left by C code, which no signal interrupts.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

EnteredT = TypeVar("EnteredT", covariant=True)


class Watch(weakref.ref[Any]):
    """A reference to what lives as long as a `with` block; given to the writer once the block is gone."""

    turn: Turn | None = None


class Turn:
    """One turn in a line. `share` is how much it takes of what the line gives out at a time.

    `told` is the writer's inbox, None for a turn of its own. Any thread may end a turn, and end it again.
    """

    def __init__(self, told: SimpleQueue[Any] | None, share: int = 1) -> None:
        self.share = share
        self.told = told
        self.before: Turn | None = None
        self.has_ended = False
        self.thread_id = 0
        self.at_end: Callable[[], None] | None = None
        self.watch: Watch | None = None
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._behind: set[Turn] = set()
        self._rings_at: set[Turn] = set()

    def end(self) -> None:
        """Let the next turns come. Wherever this is interrupted, the writer does it again."""
        if self.at_end is not None:
            self.at_end()
        self.at_end = None
        self.has_ended = True
        for turn in self._behind.copy():
            turn._bell.put(None)
        self._behind.clear()  # who joined it since then looks at `has_ended`
        self.wait_no_more()
        if self.told is not None:
            self.told.put(None)
        self.watch = None  # last: the writer is not told any more

    def wait_for(self, earlier: Sequence[Turn], timeout_s: float | None = None) -> bool:
        """Block until one of `earlier` may have ended; False when that takes longer than `timeout_s`."""
        for turn in earlier:
            if turn not in self._rings_at:
                self._rings_at.add(turn)
                turn._behind.add(self)
            if turn.has_ended:  # looked at last: otherwise it finds this one, and rings
                return True
        try:
            self._bell.get(timeout=timeout_s)
        except Empty:
            return False
        return True

    def wait_no_more(self) -> None:
        """Have no earlier turn know this one, nor this one them: a line that never empties would keep all."""
        for turn in self._rings_at.copy():
            turn._behind.discard(self)
        self._rings_at.clear()

    @property
    def is_held(self) -> bool:
        """True while the `with` block of the turn is there, and has not ended the turn."""
        return not self.has_ended and self.watch is not None and self.watch() is not None


class Line:
    """Turns come in the order in which they join, as far as the shares of all that have come fit in `limit`.

    A turn with a larger share comes once it is the first.
    """

    def __init__(self, limit: int = 1) -> None:
        self._limit = limit
        self._last: Turn | None = None
        self._joining = threading.Lock()

    def join(self, turn: Turn) -> None:
        """Put a turn at the end of the line. Call it once."""
        with self._joining:
            turn.before, self._last = self._last, turn

    def __len__(self) -> int:
        """The number of turns that have joined and not ended, come or not."""
        count, turn = 0, self._last
        while turn is not None:
            count += not turn.has_ended
            turn = turn.before
        return count

    def blockers(self, turn: Turn) -> list[Turn]:
        """The turns before `turn` of which one has to end before it can come; none when it has come.

        They are those just before it whose shares do not fit beside its own. So the end of a turn wakes only
        who can come by it: in a line of single turns the next one, and not all that wait.
        """
        total = turn.share
        later, found = turn, list[Turn]()
        while True:
            before = later.before
            while before is not None and before.has_ended:  # also one that ended before it came
                before = before.before
            later.before = before
            if before is None:
                return []
            found.append(before)
            total += before.share
            if total > self._limit:
                return found
            later = before

    def wait(self, turn: Turn, timeout_s: float | None = None) -> bool:
        """Block until the turn has come; False when that takes longer than `timeout_s`."""
        while earlier := self.blockers(turn):
            if not turn.wait_for(earlier, timeout_s):
                return False
        turn.wait_no_more()
        return True


class _Leaving:
    """`__exit__` of a `TurnBlock`: what the interpreter keeps for a `with` block, and lets go with it.

    It keeps the object that is made here, on no frame that a traceback could keep, so that the object goes
    when the block does, also where the function it stands for was interrupted before its first step.
    """

    def __get__(self, block: TurnBlock[Any] | None, kind: type[TurnBlock[Any]]) -> Callable[..., None]:
        if block is None:
            return kind.leave  # contextlib.ExitStack asks the class, and keeps the block
        leave = partial(block.leave)
        block.watch_over(leave)
        return leave


class TurnBlock(Generic[EnteredT]):
    """Base of context managers that have a turn for the time of their `with` block. Use each once."""

    def __init__(self, turn: Turn) -> None:
        self.turn: Final = turn

    def enter(self) -> EnteredT:
        """Wait for the turn. What it raises ends the turn."""
        raise NotImplementedError

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the turn."""
        self.turn.end()

    def watch_over(self, kept: object) -> None:
        """Have the writer told when `kept` is gone."""
        if self.turn.told is not None:
            watch = Watch(kept, self.turn.told.put)
            watch.turn = self.turn
            self.turn.watch = watch

    def __enter__(self) -> EnteredT:
        if self.turn.watch is None:
            self.watch_over(self)
        try:
            return self.enter()
        except BaseException:
            self.turn.end()
            raise

    if TYPE_CHECKING:

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...

    else:
        __exit__ = _Leaving()
