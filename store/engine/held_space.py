"""The processes that keep pages of the property file from being used again.

LMDB uses no page again that a read may still see, whichever process reads: one that is stopped makes the file
grow with every change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pillarbox.store.disk.checkpoint import read_checkpoint
from pillarbox.store.disk.env import PAGE_BYTES, Env, transaction_id_of
from pillarbox.store.disk.process_age import process_age_ms
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.events import EventId

Report = Callable[..., None]


class HeldSpace(NamedTuple):
    """Space that a process keeps from being used again, because it reads a state of long ago.

    `age_ms` is how long the process has run, None where the system does not tell; `transactions_count` how
    many were made since the state that it reads; `held_bytes` at most how much waits for its end.
    """

    process_id: int
    age_ms: int | None
    transactions_count: int
    held_bytes: int


def is_mostly_free(env: Env, tuning: Tuning) -> bool:
    """True when the file is large and more than half of it is free."""
    used, total = env.pages_used_and_total()
    return total * PAGE_BYTES > tuning.tables_bytes and 2 * used < total


def held_space(env: Env, tuning: Tuning, before: int) -> HeldSpace | None:
    """The process that reads the oldest state, where that is one before LMDB's transaction `before`.

    None where nobody reads one, or little of the file is free.
    """
    oldest = min(env.readers(), key=lambda reader: reader.transaction_id, default=None)
    if oldest is None or oldest.transaction_id >= before or not is_mostly_free(env, tuning):
        return None
    used, total = env.pages_used_and_total()
    return HeldSpace(
        oldest.process_id,
        process_age_ms(oldest.process_id),
        env.last_transaction() - oldest.transaction_id,
        (total - used) * PAGE_BYTES,
    )


def held_since_checkpoint(directory: Path, env: Env, tuning: Tuning) -> HeldSpace | None:
    """The process that reads the oldest state, where that is one before the last checkpoint."""
    return held_space(env, tuning, transaction_id_of(read_checkpoint(directory).meta_pages))


class GrowthWatch:
    """Tells, checkpoint by checkpoint, of a process for which the file of the tables grows."""

    def __init__(self, env: Env, tuning: Tuning, report: Report) -> None:
        self._env = env
        self._tuning = tuning
        self._report = report
        self._checkpoint_before = 0
        self._last_page = env.last_page()
        self._told: tuple[int, int] | None = None

    def checkpoint_made(self, transaction_id: int) -> None:
        """Look who keeps pages that the last checkpoint but one has given back.

        `transaction_id` is LMDB's number of the checkpoint's state. A process is told of once, and again
        whenever it holds twice as much.
        """
        last_page, self._last_page = self._last_page, self._env.last_page()
        before, self._checkpoint_before = self._checkpoint_before, transaction_id
        if self._last_page == last_page:
            return  # nothing waits for anybody
        held = held_space(self._env, self._tuning, before)
        if held is None:
            return
        if (
            self._told is not None
            and self._told[0] == held.process_id
            and held.held_bytes < 2 * self._told[1]
        ):
            return
        self._told = held.process_id, held.held_bytes
        self._report(
            EventId.TABLES_SPACE_HELD,
            process=held.process_id,
            minutes=None if held.age_ms is None else held.age_ms // 60_000,
            transactions=held.transactions_count,
            held_bytes=held.held_bytes,
        )
