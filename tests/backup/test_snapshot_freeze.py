"""What a freeze promises to those that write meanwhile."""

from __future__ import annotations

import threading

import pytest

from pillarbox.backup.snapshot import SnapshotHook
from pillarbox.store.access import Actor
from pillarbox.store.errors import Retryable


def test_a_transaction_that_stays_open_in_one_database_holds_no_other_beyond_the_time_out(group):
    first, second = sorted(group.databases, key=lambda database: database.guid)
    failed: list[Exception] = []

    def take() -> None:
        try:
            group.snapshot(freeze_timeout_ms=20)
        except Retryable as error:
            failed.append(error)

    with second.transaction(Actor.task("test")):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join(10)
        assert len(failed) == 1
        group.deliver(first, group.corpus()[:1])
    assert len(group.contents(first)) == 1


class HangingHook(SnapshotHook):
    """Hangs in one of its calls until it is let go; writes down what it is told and by which thread."""

    def __init__(self, hangs_in: str = "") -> None:
        self.told: list[str] = []
        self.threads: set[int] = set()
        self.let_go = threading.Event()
        self.thawed = threading.Event()
        self._hangs_in = hangs_in

    def _tell(self, what: str) -> None:
        if what == self._hangs_in:
            self.let_go.wait(30)
        self.told.append(what)

    def prepare(self) -> None:
        self._tell("prepare")

    def freeze(self) -> None:
        self.threads.add(threading.get_ident())
        self._tell("freeze")

    def thaw(self) -> None:
        self.threads.add(threading.get_ident())
        self._tell("thaw")
        self.thawed.set()

    def complete(self) -> None:
        self._tell("complete")

    def abort(self) -> None:
        self._tell("abort")


def test_a_hook_that_hangs_in_its_freeze_keeps_nobody_else_frozen(group):
    good, bad = HangingHook(), HangingHook("freeze")
    try:
        with pytest.raises(Retryable, match="did not freeze within 20 ms"):
            group.snapshot(hooks=[good, bad], freeze_timeout_ms=20)
        assert good.told == ["prepare", "freeze", "thaw", "abort"]
        assert bad.told == ["prepare", "abort"]
        group.deliver(group.databases[0], group.corpus()[:1])
        assert len(group.contents(group.databases[0])) == 1
    finally:
        bad.let_go.set()
    assert bad.thawed.wait(30)
    assert bad.told == ["prepare", "abort", "freeze", "thaw"], "a late freeze is thawed too"


def test_a_hook_that_hangs_in_its_thaw_stops_neither_the_others_nor_the_backup(group):
    good, bad = HangingHook(), HangingHook("thaw")
    try:
        snapshot = group.snapshot(hooks=[good, bad], freeze_timeout_ms=1000)
        assert good.told == ["prepare", "freeze", "thaw", "complete"]
        assert group.repository.snapshots() == [snapshot]
    finally:
        bad.let_go.set()
    assert bad.thawed.wait(30)


def test_a_hook_is_frozen_and_thawed_by_one_thread(group):
    hook = HangingHook()
    group.snapshot(hooks=[hook])
    assert len(hook.threads) == 1, "so that it may hold a lock meanwhile"
