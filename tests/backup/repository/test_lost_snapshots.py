"""A snapshot whose file is gone is named, and none that was forgotten or withdrawn, whoever works beside."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.lock import EXPIRE_MS
from pillarbox.backup.repository.prune import prune
from pillarbox.backup.repository.repository import Repository
from pillarbox.store.errors import AlreadyExists, DiskFull, RepositoryLocked


def copied(base: MemoryBackend) -> MemoryBackend:
    backend = MemoryBackend()
    backend.files = dict(base.files)
    return backend


def unmarked(world: Any, count: int = 2) -> tuple[MemoryBackend, list[str]]:
    """A repository as it was before there were marks, and the ids of its snapshots."""
    backend = MemoryBackend()
    repository = world.create(backend)
    ids = [world.save(repository, world.files(seed)) for seed in range(count)]
    for name in ids:
        backend.delete(FileKind.MADE, name)
    return backend, ids


def save(world: Any, repository: Repository) -> None:
    world.save(repository, world.files(7))


@pytest.mark.parametrize("which", ["backup", "prune"])
def test_what_has_no_mark_is_whole_and_gets_one_from_the_next_writer(world: Any, which: str) -> None:
    base, ids = unmarked(world)
    assert check_repository(world.open(base), read_data=1).is_whole
    repository = world.open(base)
    prune(repository) if which == "prune" else save(world, repository)
    for name in ids:
        backend = copied(base)
        backend.delete(FileKind.SNAPSHOT, name)
        (damage,) = check_repository(world.open(backend)).damage
        assert damage.file == f"snapshots/{name}" and damage.snapshots == (name,)


def test_a_prune_frees_what_it_can_before_it_marks(world: Any) -> None:
    """On a disk so full that not even an empty file can be made."""
    backend, ids = unmarked(world)
    world.open(backend).forget(ids)

    def full(operation: str, kind: FileKind, name: str) -> None:
        if operation == "put" and kind is FileKind.MADE:
            raise DiskFull("no space left on the disk")

    stays = world.save(world.open(backend), world.files(20))
    backend.delete(FileKind.MADE, stays)
    backend.before = full
    with pytest.raises(DiskFull):
        prune(world.open(backend), unused_share_max=0)
    backend.before = lambda *_: None
    plan = prune(world.open(backend), unused_share_max=0, dry_run=True)
    assert (plan.packs_deleted, plan.packs_repacked, plan.packs_unlisted) == (0, 0, 0)
    assert world.restore(world.open(backend), stays) == world.files(20)


def test_no_repository_is_made_where_marks_of_another_lie(world: Any) -> None:
    """Its first check would name the snapshots of the other."""
    backend = MemoryBackend()
    backend.put(FileKind.MADE, "ab" * 32, b"")
    with pytest.raises(AlreadyExists):
        world.create(backend)


def forget_and_prune(world: Any, repository: Repository) -> None:
    repository.forget(repository.snapshot_ids()[:2])
    prune(repository, unused_share_max=0, pack_bytes=1500)


@pytest.mark.parametrize("work", [save, forget_and_prune])
def test_work_killed_at_any_write_makes_nothing_lost_and_the_next_marks_all(
    world: Any, killed_everywhere: Callable[..., int], work: Any
) -> None:
    base, _ = unmarked(world, 4)

    def survives(backend: MemoryBackend) -> None:
        assert check_repository(world.open(backend), read_data=1).is_whole
        work(world, world.open(backend))
        for name in world.open(backend).snapshot_ids():
            backend.delete(FileKind.SNAPSHOT, name)
            assert name in world.open(backend).lost_snapshot_ids()

    assert killed_everywhere(base, lambda backend: work(world, world.open(backend)), survives) > 20


def test_marking_many_keeps_the_lock_alive(world: Any) -> None:
    """The first backup after an upgrade, to a slow object store: an hour for all the marks."""
    backend, ids = unmarked(world, 4)
    repository = world.open(backend)

    def take_long(operation: str, kind: FileKind, name: str) -> None:
        if operation == "put" and kind is FileKind.MADE:
            world.clock.advance_ms(EXPIRE_MS // 2 + 1)

    backend.before = take_long
    with repository.lock(exclusive=False, purpose="backup") as lock:
        first = [name for kind, name in backend.files if kind is FileKind.LOCK]
        repository.mark_unmarked(lock)
        last = [name for kind, name in backend.files if kind is FileKind.LOCK]
        assert len(last) == 1 and first != last
    assert {name for kind, name in backend.files if kind is FileKind.MADE} == set(ids)


# --- beside others ------------------------------------------------------------------------------------------


def take_turns(backend: MemoryBackend, works: Sequence[Callable[[], object]], turns: Sequence[int]) -> None:
    """Run `works` at once; `turns` says whose call of the backend comes next; then they end in turn."""
    may_go = [threading.Semaphore(0) for _ in works]
    stands = threading.Semaphore(0)
    at_work = set(range(len(works)))
    me = threading.local()

    def wait(operation: str, kind: FileKind, name: str) -> None:
        stands.release()
        may_go[me.number].acquire()

    def run(number: int) -> None:
        me.number = number
        try:
            works[number]()
        finally:
            at_work.discard(number)
            stands.release()

    backend.before = wait
    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
        stands.acquire()
    for number in [*turns, *(each for each in range(len(works)) for _ in range(100))]:
        if number in at_work:
            may_go[number].release()
            stands.acquire()
    for thread in threads:
        thread.join()
    backend.before = lambda *_: None


def test_forgetting_beside_who_marks_makes_nothing_lost_in_any_order(world: Any) -> None:
    base, (name,) = unmarked(world, 1)
    calls = 8
    for first in itertools.combinations(range(calls), 3):
        backend = copied(base)
        forgetting, marking = world.open(backend), world.open(backend)
        with marking.lock(exclusive=False, purpose="backup") as lock:
            works = [partial(forgetting.forget, [name]), partial(marking.mark_unmarked, lock)]
            take_turns(backend, works, [0 if at in first else 1 for at in range(calls)])
        assert forgetting.snapshot_ids() == []
        assert forgetting.lost_snapshot_ids() == [], first


def call_at(backend: MemoryBackend, number: int, act: Callable[[], object]) -> list[int]:
    """Let others act before the `number`-th call from now; the answer has that number once they did."""
    came: list[int] = []
    calls = itertools.count(1)

    def count(operation: str, kind: FileKind, name: str) -> None:
        if not came and next(calls) == number:
            came.append(number)
            act()

    backend.before = count
    return came


@pytest.mark.parametrize("work", [prune, save])
def test_what_is_forgotten_at_any_moment_of_a_work_is_not_lost(world: Any, work: Any) -> None:
    base, ids = unmarked(world)
    for number in itertools.count(1):
        backend = copied(base)
        repository = world.open(backend)
        came = call_at(backend, number, partial(world.open(backend).forget, ids[:1]))
        work(repository) if work is prune else work(world, repository)
        backend.before = lambda *_: None
        assert check_repository(world.open(backend), read_data=1).is_whole
        if not came:
            break
    assert number > 20


@pytest.mark.parametrize("forgets", [False, True])
def test_what_a_backup_that_hung_takes_back_is_not_lost(world: Any, forgets: bool) -> None:
    """At any moment of it others take its lock away, and prune."""
    base = MemoryBackend()
    world.save(world.create(base), world.files(0))

    def prune_meanwhile(backend: MemoryBackend, other: Repository) -> None:
        for key in [key for key in backend.files if key[0] is FileKind.LOCK]:
            del backend.files[key]
        other.forget(other.snapshot_ids() if forgets else [])
        prune(other)

    for number in itertools.count(1):
        backend = copied(base)
        repository = world.open(backend)
        came = call_at(backend, number, partial(prune_meanwhile, backend, world.open(backend)))
        with suppress(RepositoryLocked):
            save(world, repository)
        backend.before = lambda *_: None
        damage = check_repository(world.open(backend), read_data=1).damage
        assert not [each for each in damage if each.snapshots], number
        if not came:
            break
    assert number > 20
