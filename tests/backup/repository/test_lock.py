"""Who may work at the same time, and that no lock stays for ever."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from random import Random

import pytest

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.crypto import Config, Encryption, Sealer, Secrets
from pillarbox.backup.repository.lock import (
    EXPIRE_MS,
    RENEW_MS,
    Holder,
    LockContext,
    RepositoryLock,
    hold_lock,
    is_process_alive,
    this_process,
)
from pillarbox.store.clock import VirtualClock
from pillarbox.store.errors import NoPermission, PillarboxError, ReadOnly, RepositoryLocked

RANDOM = Random(1)
SEALER = Sealer(Config(bytes(16), Encryption.AES_256_GCM), Secrets(b"f" * 32, b"i" * 32), RANDOM.randbytes)


class Site:
    """A repository that processes of several hosts lock."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.clock = VirtualClock()
        self.dead: set[int] = set()

    def context(self, pid: int, host: str = "here") -> LockContext:
        holder = Holder(host, f"boot of {host}", pid)
        return LockContext(self.clock, RANDOM.randbytes, holder, lambda asked: asked not in self.dead)

    def take(self, pid: int, *, exclusive: bool, host: str = "here") -> RepositoryLock:
        lock = RepositoryLock(self.backend, SEALER, self.context(pid, host), exclusive, f"work {pid}")
        lock.acquire()
        return lock

    def count(self) -> int:
        return len(self.backend.files)


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [(False, False, True), (False, True, False), (True, False, False), (True, True, False)],
)
def test_who_may_work_beside_whom(site: Site, first: bool, second: bool, both: bool) -> None:
    held = site.take(1, exclusive=first)
    if both:
        site.take(2, exclusive=second)
        return
    with pytest.raises(RepositoryLocked, match="work 1 by process 1 on here"):
        site.take(2, exclusive=second)
    assert site.count() == 1
    held.release()
    site.take(2, exclusive=second)


def test_a_lock_of_the_dead_is_taken_away(site: Site) -> None:
    site.take(1, exclusive=True)
    site.dead.add(1)
    site.take(2, exclusive=True)
    assert site.count() == 1


def test_process_numbers_of_another_machine_say_nothing(site: Site) -> None:
    site.take(1, exclusive=True, host="there")
    site.dead.add(1)
    with pytest.raises(RepositoryLocked):
        site.take(2, exclusive=True)


@pytest.mark.parametrize("step_ms", [EXPIRE_MS + 1, -EXPIRE_MS - 1])
def test_a_lock_that_is_not_renewed_ends(site: Site, step_ms: int) -> None:
    site.take(1, exclusive=True, host="there")
    site.clock.set_ms(site.clock.now_ms() + step_ms)
    site.take(2, exclusive=True)


def test_a_renewed_lock_stays(site: Site) -> None:
    held = site.take(1, exclusive=True, host="there")
    for _ in range(20):
        site.clock.advance_ms(RENEW_MS)
        held.renew_if_due()
        assert site.count() == 1
        with pytest.raises(RepositoryLocked):
            site.take(2, exclusive=False)


def test_renewing_is_cheap_until_it_is_due(site: Site) -> None:
    held = site.take(1, exclusive=True)
    before = dict(site.backend.files)
    site.clock.advance_ms(RENEW_MS - 1)
    held.renew_if_due()
    assert site.backend.files == before


def test_after_a_sleep_in_which_only_the_wall_clock_went_on_the_lock_is_renewed(site: Site) -> None:
    held = site.take(1, exclusive=True)
    before = dict(site.backend.files)
    site.clock.set_ms(site.clock.now_ms() + RENEW_MS)
    held.renew_if_due()
    assert site.backend.files != before


def test_who_slept_too_long_is_told_and_leaves_nothing(site: Site) -> None:
    sleeper = site.take(1, exclusive=False, host="there")
    site.clock.advance_ms(EXPIRE_MS + 1)
    taker = site.take(2, exclusive=True)
    with pytest.raises(RepositoryLocked, match="taken away"):
        sleeper.renew()
    assert site.count() == 1
    taker.renew()


def test_a_damaged_lock_holds_nobody_up(site: Site) -> None:
    site.backend.put(FileKind.LOCK, "damaged", b"damaged")
    site.backend.put(FileKind.LOCK, "large", bytes(100_000))
    site.take(1, exclusive=True)
    assert site.count() == 1


def test_a_renewal_that_a_listing_misses_is_still_seen(site: Site) -> None:
    """The listing begins before the new file is there and ends after the old one is gone."""
    held = site.take(1, exclusive=False)
    listing = site.backend.list

    def list_during_renewal(kind: FileKind):  # type: ignore[no-untyped-def]
        site.backend.list = listing  # type: ignore[method-assign]
        before = {each.name for each in listing(kind)}
        held.renew()
        return [each for each in listing(kind) if each.name in before]

    site.backend.list = list_during_renewal  # type: ignore[method-assign]
    with pytest.raises(RepositoryLocked):
        site.take(2, exclusive=True)


@pytest.mark.parametrize("moment", range(1, 12))
def test_two_never_hold_what_excludes_the_other(site: Site, moment: int) -> None:
    """A second process runs its whole attempt between any two steps of the first one's."""
    steps = itertools.count(1)
    holders: list[int] = []

    def other(operation: str, kind: FileKind, name: str) -> None:
        if next(steps) == moment:
            site.backend.before = lambda *call: None
            try:
                site.take(2, exclusive=False)
                holders.append(2)
            except RepositoryLocked:
                pass

    site.backend.before = other
    try:
        site.take(1, exclusive=True)
        holders.append(1)
    except RepositoryLocked:
        pass
    assert len(holders) <= 1


def test_waiting_ends_when_the_other_has_ended(site: Site) -> None:
    held = site.take(1, exclusive=True)

    def release_later(operation: str, kind: FileKind, name: str) -> None:
        if site.clock.monotonic_ms() > 5000:
            site.backend.before = lambda *call: None
            held.release()

    site.backend.before = release_later
    with hold_lock(site.backend, SEALER, site.context(2), exclusive=True, purpose="wait", wait_ms=60_000):
        assert site.clock.monotonic_ms() > 5000


def test_waiting_has_an_end(site: Site) -> None:
    site.take(1, exclusive=True, host="there")
    with (
        pytest.raises(RepositoryLocked),
        hold_lock(site.backend, SEALER, site.context(2), exclusive=True, purpose="wait", wait_ms=9000),
    ):
        pytest.fail("the lock is held by another")
    assert 9000 <= site.clock.monotonic_ms() <= 12_000


def test_a_lock_ends_with_its_block_whatever_happens(site: Site) -> None:
    with (
        pytest.raises(ValueError, match="mine"),
        hold_lock(site.backend, SEALER, site.context(1), exclusive=True, purpose="work"),
    ):
        assert site.count() == 1
        raise ValueError("mine")
    assert site.count() == 0


NOTHING_MAY_BE_WRITTEN = pytest.mark.parametrize("error", [ReadOnly, NoPermission])


def read_only(site: Site, error: type[PillarboxError]) -> None:
    def refuse(operation: str, kind: FileKind, name: str) -> None:
        if operation in ("put", "delete"):
            raise error("cannot write")

    site.backend.before = refuse


@NOTHING_MAY_BE_WRITTEN
def test_who_only_reads_goes_on_without_a_lock_where_none_can_be_written(
    site: Site, error: type[PillarboxError]
) -> None:
    site.take(1, exclusive=False)
    read_only(site, error)
    told: list[PillarboxError] = []
    reader = replace(site.context(2), without_lock=told.append)
    with hold_lock(site.backend, SEALER, reader, exclusive=False, purpose="check") as lock:
        site.clock.advance_ms(RENEW_MS)
        lock.renew_if_due()
        with pytest.raises(error):  # a writer asks for that before its snapshot counts
            lock.renew()
    assert [type(each) for each in told] == [error]
    with pytest.raises(error), hold_lock(site.backend, SEALER, reader, exclusive=True, purpose="prune"):
        pass
    with pytest.raises(error):
        site.take(3, exclusive=False)
    assert len(told) == 1


def test_who_goes_on_without_a_lock_still_waits_for_a_prune(site: Site) -> None:
    site.take(1, exclusive=True)
    read_only(site, ReadOnly)
    told: list[PillarboxError] = []
    reader = replace(site.context(2), without_lock=told.append)
    check = partial(hold_lock, site.backend, SEALER, reader, exclusive=False, purpose="check")
    with pytest.raises(RepositoryLocked, match="work 1 by process 1"), check():
        pass
    assert told == []
    site.dead.add(1)
    with check():
        assert len(told) == 1


def test_this_process_lives_and_is_told_apart() -> None:
    assert this_process() == this_process()
    assert this_process().pid == os.getpid()
    assert is_process_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert not is_process_alive(child.pid)
