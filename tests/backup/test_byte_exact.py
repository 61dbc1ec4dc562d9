"""Whatever was delivered before the freeze comes back byte for byte, while more is delivered."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from pillarbox.backup.capture import Capture
from pillarbox.backup.snapshot import SnapshotSource
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus

DELIVERED_MEANWHILE_MAX = 2_000


@contextmanager
def deliveries(group, messages: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Another thread that delivers to the first database as long as the block runs; what it delivered."""
    delivered: list[bytes] = []
    ended, begun = threading.Event(), threading.Event()

    def deliver() -> None:
        for raw in cycle(messages):
            if ended.is_set() or len(delivered) == DELIVERED_MEANWHILE_MAX:
                return
            group.deliver(group.databases[0], [raw])
            delivered.append(raw)
            begun.set()

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        assert begun.wait(60)
        yield delivered
    finally:
        ended.set()
        thread.join()


def assert_restored_under_deliveries(group, messages: list[bytes]) -> None:
    group.deliver(group.databases[0], messages)
    capture = Capture(SnapshotSource("server", "First", group.databases), group.repository, clock=group.clock)
    held_at_least: list[int] = []
    with deliveries(group, messages) as delivered:
        for take in (group.snapshot, capture.capture, group.snapshot):
            held_at_least.append(len(messages) + len(delivered))
            group.clock.advance_ms(1000)
            take()
    everything = messages + delivered
    for number, snapshot in enumerate(group.repository.snapshots()):
        found = group.restored(snapshot, f"out{number}")[0]
        assert held_at_least[number] <= len(found) <= len(everything)
        assert found == everything[: len(found)]


def test_the_messages_of_the_tests_come_back_byte_for_byte_under_deliveries(group):
    assert_restored_under_deliveries(group, read_corpus(CORPUS_DEFAULT))


@pytest.mark.slow
def test_a_whole_corpus_comes_back_byte_for_byte_under_deliveries(group):
    corpus = Path(os.environ.get("PILLARBOX_CORPUS", ""))
    if not os.environ.get("PILLARBOX_CORPUS") or not corpus.is_dir():
        pytest.skip("no mail corpus; set PILLARBOX_CORPUS to a folder of mbox, eml and tar.gz files")
    assert_restored_under_deliveries(group, read_corpus(corpus))
