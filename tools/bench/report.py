"""The figures, the targets they are held against, and both as text or JSON."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

PILLARBOX_BULK: Final = "Pillarbox, bulk, one caller"
PILLARBOX_ONE_PROCESS: Final = "Pillarbox, bulk, one caller in one process"
PILLARBOX_ONE_CORE: Final = "Pillarbox, bulk, one caller on one core"
PILLARBOX_SINGLE: Final = "Pillarbox, one a transaction"
PILLARBOX_THREADS: Final = "Pillarbox, 16 threads, each waiting for its own"
PILLARBOX_LIST: Final = "Pillarbox, list envelopes"
PILLARBOX_READ: Final = "Pillarbox, read at random"
PILLARBOX_SCALE_FIRST: Final = "Pillarbox, bulk, up to the first 10,000"
PILLARBOX_SCALE_LAST: Final = "Pillarbox, bulk, the last 10,000"
DOVECOT_IMPORT: Final = "doveadm import, mdbox, zstd"
DOVECOT_ONE_CORE: Final = "doveadm import, mdbox, zstd, on one core"
DOVECOT_LMTP: Final = "Dovecot LMTP, mdbox, zstd, 8 clients"
MAILDIR: Final = "mailbox.Maildir"
SQLITE_BULK: Final = "SQLite WAL full, zstd, 64 a transaction"
SQLITE_SINGLE: Final = "SQLite WAL full, zstd, one a transaction"
SQLITE_LIST: Final = "SQLite SELECT of the same columns"
SQLITE_READ: Final = "SQLite SELECT + zstd of the same messages"

Change = Literal["flag", "move", "delete"]
CHANGES: Final[tuple[Change, ...]] = get_args(Change)


def change_name(change: Change, *, is_one_by_one: bool) -> str:
    """The name of a figure of `changes`, without whose it is."""
    return f"{change} one by one" if is_one_by_one else f"{change} in one transaction"


@dataclass(frozen=True)
class Figure:
    """One thing measured: how many messages in how many seconds, and bytes in and on disk (0: not asked)."""

    name: str
    count: int
    seconds: float
    raw_bytes: int = 0
    disk_bytes: int = 0

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.count / self.seconds

    @property
    def disk_ratio(self) -> float | None:
        """Bytes on disk over bytes in, or None."""
        return self.disk_bytes / self.raw_bytes if self.disk_bytes else None


class Target(NamedTuple):
    """The rate of one figure over that of another should be at least so much."""

    own: str
    peer: str
    at_least: float


TARGETS: Final = (
    Target(PILLARBOX_BULK, DOVECOT_IMPORT, 1.5),
    Target(PILLARBOX_BULK, MAILDIR, 4.0),
    Target(PILLARBOX_BULK, SQLITE_BULK, 3.0),
    Target(PILLARBOX_SINGLE, SQLITE_SINGLE, 1.0),
    Target(PILLARBOX_ONE_CORE, DOVECOT_ONE_CORE, 1.0),
    Target(PILLARBOX_THREADS, PILLARBOX_ONE_PROCESS, 0.8),
    Target(PILLARBOX_THREADS, DOVECOT_LMTP, 6.0),
    Target(PILLARBOX_LIST, SQLITE_LIST, 1.0),
    Target(PILLARBOX_READ, SQLITE_READ, 1.2),
    Target(PILLARBOX_SCALE_LAST, PILLARBOX_SCALE_FIRST, 1 / 1.3),
    *(
        Target(f"Pillarbox, {name}", f"SQLite, {name}", 1 / times)
        for change, times_in_one in zip(CHANGES, (8, 5, 6), strict=True)
        for is_one_by_one, times in ((False, times_in_one), (True, 2.5))
        for name in [change_name(change, is_one_by_one=is_one_by_one)]
    ),
)
DISK_RATIO_AT_MOST: Final = 0.25
MEMORY_BYTES_AT_MOST: Final = 200_000_000


class Verdict(NamedTuple):
    """A target, what was reached, and whether that is enough."""

    what: str
    reached: float
    wanted: float
    met: bool


def best_of(rounds: Sequence[Sequence[Figure]]) -> list[Figure]:
    """Of each figure the fastest of several rounds: other work on a machine only adds time."""
    best: dict[str, Figure] = {}
    for figure in chain.from_iterable(rounds):
        if figure.name not in best or figure.rate > best[figure.name].rate:
            best[figure.name] = figure
    return list(best.values())


def verdicts(figures: Sequence[Figure], memory_bytes: int = 0) -> list[Verdict]:
    """The targets whose figures were measured. `memory_bytes` counts when it is not 0."""
    by_name = {figure.name: figure for figure in figures}
    found = []
    for own, peer, at_least in TARGETS:
        if own in by_name and peer in by_name:
            reached = by_name[own].rate / by_name[peer].rate
            found.append(Verdict(f"{own} / {peer}", reached, at_least, reached >= at_least))
    bulk = by_name.get(PILLARBOX_BULK)
    if bulk is not None and bulk.disk_ratio is not None:
        met = bulk.disk_ratio <= DISK_RATIO_AT_MOST
        found.append(Verdict("bytes on disk / bytes in (at most)", bulk.disk_ratio, DISK_RATIO_AT_MOST, met))
    if memory_bytes:
        met = memory_bytes <= MEMORY_BYTES_AT_MOST
        wanted = MEMORY_BYTES_AT_MOST / 1e6
        found.append(
            Verdict("memory beyond that of the corpus, MB (at most)", memory_bytes / 1e6, wanted, met)
        )
    return found


def as_text(figures: Sequence[Figure], judged: Sequence[Verdict]) -> str:
    """Both as tables a person reads."""
    lines = [f"{os.cpu_count()} processors", ""]
    for figure in figures:
        megabytes = f"{figure.raw_bytes / figure.seconds / 1e6:8.1f} MB/s" if figure.raw_bytes else ""
        disk = "" if figure.disk_ratio is None else f"  disk/raw {figure.disk_ratio:.3f}"
        lines.append(f"{figure.name:50s}{figure.rate:10.0f} msg/s {megabytes}{disk}")
    lines.append("")
    for verdict in judged:
        word = "met" if verdict.met else "MISSED"
        lines.append(f"{verdict.what:92s}{verdict.reached:8.2f}  target {verdict.wanted:6.2f}  {word}")
    return "\n".join(lines)


def as_data(figures: Sequence[Figure], judged: Sequence[Verdict]) -> dict[str, Any]:
    """Both as JSON holds them."""
    return {
        "processors": os.cpu_count(),
        "figures": [
            {**asdict(figure), "rate": figure.rate, "disk_ratio": figure.disk_ratio} for figure in figures
        ],
        "targets": [verdict._asdict() for verdict in judged],
    }


def at_least_one(text: str) -> int:
    """A number of messages or rounds on the command line. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def disk_bytes(path: Path) -> int:
    """The bytes that the files below a path take on the disk."""
    return sum(found.lstat().st_blocks * 512 for found in path.rglob("*") if found.is_file())
