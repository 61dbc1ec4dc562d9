"""Pillarbox on the workload: delivered in bulk, one at a time and by many threads; listed; read at random."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind, ItemRecord, MailboxRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.files.prepare_processes import prepare_all
from pillarbox.store.ids import new_guid
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.mail.delivery import deliver
from pillarbox.tools.bench.report import (
    PILLARBOX_BULK,
    PILLARBOX_LIST,
    PILLARBOX_ONE_PROCESS,
    PILLARBOX_READ,
    PILLARBOX_SCALE_FIRST,
    PILLARBOX_SCALE_LAST,
    PILLARBOX_SINGLE,
    PILLARBOX_THREADS,
    Figure,
    disk_bytes,
)

ItemT = TypeVar("ItemT")

BULK_BATCH: Final = 1024
THREADS: Final = 16
WINDOW_COUNT: Final = 10_000
_ACTOR: Final = Actor.task("bench")
_STATUS: Final = Path("/proc/self/status")


class Target:
    """A database with one mailbox, in whose Inbox everything comes."""

    def __init__(self, database: Database, box: MailboxRecord) -> None:
        self.database = database
        self.mailbox = box.guid
        self.folder_id = box.roles[mailboxes.INBOX]

    def deliver_one(self, raw: bytes) -> None:
        """Deliver a message and wait until it is durable."""
        deliver(self.database, _ACTOR, [self.mailbox], raw)

    def deliver_all(self, raws: Iterable[bytes], processes: int | None = None) -> None:
        """Deliver messages as one caller that has many: a thousand at a time."""
        with closing(prepare_all(self.database.files, raws, lambda raw: raw, processes)) as ready:
            for batch in _batches(ready):
                with self.database.transaction(_ACTOR) as txn:
                    for _, prepared in batch:
                        messages.append(txn, self.folder_id, prepared)


def _batches(items: Iterable[ItemT]) -> Iterator[list[ItemT]]:
    each = iter(items)
    while batch := list(islice(each, BULK_BATCH)):
        yield batch


@contextmanager
def new_target(path: Path) -> Iterator[Target]:
    """A new mailbox store at a path, mounted."""
    database = Database(path, new_guid(random.Random(1)), "Bench", DatabaseKind.MAILBOX_STORE)
    database.create()
    database.mount()
    try:
        with database.transaction(_ACTOR) as txn:
            box = mailboxes.create(txn, "bench")
        yield Target(database, box)
    finally:
        database.dismount()


def bulk(target: Target, raws: Sequence[bytes]) -> Figure:
    """One caller that has them all. The disk is looked at while the database is mounted."""
    start = time.perf_counter()
    target.deliver_all(raws)
    seconds = time.perf_counter() - start
    return Figure(PILLARBOX_BULK, len(raws), seconds, _size(raws), disk_bytes(target.database.path))


def bulk_in_one_process(root: Path, raws: Sequence[bytes], name: str = PILLARBOX_ONE_PROCESS) -> Figure:
    """One caller that has them all, and no other process prepares."""
    with new_target(root / "one process") as target:
        start = time.perf_counter()
        target.deliver_all(raws, processes=0)
        return Figure(name, len(raws), time.perf_counter() - start, _size(raws))


def single(root: Path, raws: Sequence[bytes]) -> Figure:
    """One caller, each message durable before the next."""
    with new_target(root / "single") as target:
        start = time.perf_counter()
        for raw in raws:
            target.deliver_one(raw)
        return Figure(PILLARBOX_SINGLE, len(raws), time.perf_counter() - start, _size(raws))


def threads(root: Path, raws: Sequence[bytes]) -> Figure:
    """Many callers, each waiting until its own message is durable."""
    with new_target(root / "threads") as target, ThreadPoolExecutor(THREADS) as pool:
        ready = threading.Barrier(THREADS + 1)

        def deliver_share(share: Sequence[bytes]) -> None:
            ready.wait()
            for raw in share:
                target.deliver_one(raw)

        running = [pool.submit(deliver_share, raws[first::THREADS]) for first in range(THREADS)]
        ready.wait()
        start = time.perf_counter()
        for each in running:
            each.result()
        return Figure(PILLARBOX_THREADS, len(raws), time.perf_counter() - start, _size(raws))


def listing(target: Target, limit: int) -> tuple[Figure, list[ItemRecord]]:
    """The envelopes of up to `limit` messages of the folder, one after the other."""
    with target.database.read(_ACTOR) as read:
        start = time.perf_counter()
        count = sum(1 for _ in islice(folders.messages(read, target.folder_id), limit))
        seconds = time.perf_counter() - start
        return Figure(PILLARBOX_LIST, count, seconds), list(
            islice(folders.messages(read, target.folder_id), limit)
        )


def random_reads(target: Target, order: Sequence[ItemRecord]) -> Figure:
    """The messages of `order`, whole."""
    with target.database.read(_ACTOR) as read:
        start = time.perf_counter()
        size = sum(len(messages.content(read, item)) for item in order)
        return Figure(PILLARBOX_READ, len(order), time.perf_counter() - start, size)


def scale(root: Path, raws: Iterator[bytes], count: int) -> list[Figure]:
    """Deliver `count` messages into one folder: the first and the last window of them, timed apart.

    Making the messages is not timed, and no more than a batch of them is in memory. Where `count` is no more
    than a window there is no last one.
    """
    figures: list[Figure] = []
    with new_target(root / "scale") as target:
        for at in range(0, count, WINDOW_COUNT):
            window = islice(raws, min(WINDOW_COUNT, count - at))
            name = PILLARBOX_SCALE_FIRST if at == 0 else PILLARBOX_SCALE_LAST
            figures = [*figures[:1], _window(target, window, name)]
    return figures


def _window(target: Target, raws: Iterable[bytes], name: str) -> Figure:
    count = size = 0
    seconds = 0.0
    for batch in _batches(raws):
        start = time.perf_counter()
        target.deliver_all(batch, processes=0)
        seconds += time.perf_counter() - start
        count, size = count + len(batch), size + _size(batch)
    return Figure(name, count, seconds, size)


def anonymous_memory_bytes() -> int:
    """Memory of this process that is no file's; 0 where the system does not tell."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def _size(raws: Sequence[bytes]) -> int:
    return sum(map(len, raws))
