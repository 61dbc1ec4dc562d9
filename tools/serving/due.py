"""The choice of what a serving process begins now, and when it looks again. A pure function of the time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

LOOK_AGAIN_MS: Final = 60_000
"""After this at the latest everything is looked at again: a clock that jumped is noticed, a lost wake made
up.
"""


class Work(StrEnum):
    """The kinds of work that come again and again."""

    SETTINGS = "settings"
    SIZE_CHECK = "size check"
    MAINTENANCE = "maintenance"
    MEMBERSHIP = "membership"
    BACKUP = "backup"


ALONE: Final = frozenset({Work.BACKUP})
"""Work of which one runs at a time: backups share a repository, and a prune wants it for itself."""


class Task(NamedTuple):
    """One thing that comes due: `subject` is the storage group of a backup, empty for work on the whole
    server.
    """

    work: Work
    subject: str = ""


class Standing(NamedTuple):
    """The standing of a task: due at `next_ms`, as its last run said, which ended at `said_ms` (ms UTC).

    `failure` says why that run failed; empty when it did not.
    """

    next_ms: int = 0
    said_ms: int = 0
    is_running: bool = False
    failure: str = ""


class Due(NamedTuple):
    """The tasks to begin now, and when to look again (ms UTC)."""

    tasks: tuple[Task, ...]
    wake_ms: int


def choose_due(tasks: Iterable[Task], standings: Mapping[Task, Standing], now_ms: int) -> Due:
    """The tasks that are due and do not run yet; a task without a standing is due at once.

    A task whose last run ended at a time to come is due too: the clock was put back, and when it said to be
    called again means nothing. Each task finds out by itself what there is to do, so that one run too many
    does no harm.
    """
    begun: list[Task] = []
    busy = {task.work for task, standing in standings.items() if standing.is_running}
    wake_ms = now_ms + LOOK_AGAIN_MS
    for task in sorted(tasks, key=lambda task: standings.get(task, Standing()).next_ms):
        standing = standings.get(task, Standing())
        if standing.is_running or (task.work in ALONE and task.work in busy):
            continue  # its end wakes the process
        if standing.next_ms <= now_ms or standing.said_ms > now_ms:
            begun.append(task)
            busy.add(task.work)
        else:
            wake_ms = min(wake_ms, standing.next_ms)
    return Due(tuple(begun), wake_ms)
