"""Which snapshots are kept, and that freeing the rest never costs a kept one anything."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.index import PackEntry
from pillarbox.backup.repository.prune import PackUse, plan_prune, prune
from pillarbox.store.errors import Corrupt, DiskFull, NotFound, Refused, RepositoryLocked

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


# --- planning -----------------------------------------------------------------------------------------------


def use(name: str, used: int, unused: int) -> PackUse:
    return PackUse(PackEntry(name, b"", used + unused), int(used > 0), used, unused)


def names(uses: tuple[PackUse, ...]) -> list[str]:
    return [each.pack.name for each in uses]


def test_what_nobody_needs_is_deleted_and_the_emptiest_written_anew() -> None:
    uses = [use("full", 1000, 0), use("half", 500, 500), use("most", 990, 10), use("none", 0, 9)]
    plan = plan_prune(uses, 0.05, 0)
    assert names(plan.keep) == ["full", "most"]
    assert names(plan.repack) == ["half"]
    assert names(plan.delete) == ["none"]


def test_a_share_may_stay_unused() -> None:
    uses = [use("full", 1000, 0), use("half", 500, 500)]
    assert names(plan_prune(uses, 0.5, 0).repack) == []
    assert names(plan_prune(uses, 0, 0).repack) == ["half"]


def test_small_packs_become_one_when_there_are_several() -> None:
    small = [use(f"small {number}", 10, 0) for number in range(4)]
    assert names(plan_prune([*small, use("large", 1000, 0)], 0.05, 1000).repack) == names(tuple(small))
    assert names(plan_prune([*small[:3], use("large", 1000, 0)], 0.05, 1000).repack) == []


# --- freeing ------------------------------------------------------------------------------------------------


def pack_bytes(backend: MemoryBackend) -> int:
    return sum(len(data) for (kind, _), data in backend.files.items() if kind is FileKind.PACK)


def several_snapshots(world: Any, backend: MemoryBackend, count: int = 5) -> dict[str, int]:
    repository = world.create(backend)
    return {world.save(repository, world.files(3 * number)): 3 * number for number in range(count)}


def test_kept_snapshots_stay_whole_and_the_rest_is_freed(world: Any) -> None:
    backend = MemoryBackend()
    seeds = several_snapshots(world, backend)
    repository = world.open(backend)
    gone = list(seeds)[:3]
    repository.forget(gone)
    before = pack_bytes(backend)
    report = prune(repository, unused_share_max=0, pack_bytes=1500)
    assert report.bytes_before == before
    assert report.bytes_after == pack_bytes(backend) < before * 0.6
    for opened in (repository, world.open(backend)):
        for snapshot_id in set(seeds) - set(gone):
            assert world.restore(opened, snapshot_id) == world.files(seeds[snapshot_id])
    found = check_repository(world.open(backend), read_data=1)
    assert found.is_whole
    assert not found.leftovers


def test_a_second_prune_changes_nothing(world: Any) -> None:
    backend = MemoryBackend()
    several_snapshots(world, backend)
    world.open(backend).forget(list(world.open(backend).snapshot_ids())[:2])
    prune(world.open(backend), unused_share_max=0, pack_bytes=1500)
    before = dict(backend.files)
    report = prune(world.open(backend), unused_share_max=0, pack_bytes=1500)
    assert backend.files == before
    assert (report.packs_repacked, report.packs_deleted, report.packs_unlisted) == (0, 0, 0)


def test_a_dry_run_says_what_would_come_and_changes_nothing(world: Any) -> None:
    backend = MemoryBackend()
    seeds = several_snapshots(world, backend)
    repository = world.open(backend)
    repository.forget(list(seeds)[:3])
    before = dict(backend.files)
    planned = prune(repository, unused_share_max=0, pack_bytes=1500, dry_run=True)
    assert backend.files == before
    done = prune(repository, unused_share_max=0, pack_bytes=1500)
    assert planned.packs_deleted == done.packs_deleted > 0
    assert planned.packs_repacked == done.packs_repacked
    assert planned.bytes_before == done.bytes_before
    assert abs(planned.bytes_after - done.bytes_after) < 2000


def test_without_snapshots_nothing_is_left(world: Any) -> None:
    backend = MemoryBackend()
    several_snapshots(world, backend)
    repository = world.open(backend)
    repository.forget(repository.snapshot_ids())
    prune(repository)
    assert {kind for kind, _ in backend.files} == {FileKind.CONFIG, FileKind.KEY}


def test_many_small_index_files_and_packs_become_few(world: Any) -> None:
    backend = MemoryBackend()
    seeds = several_snapshots(world, backend, count=12)
    prune(world.open(backend))
    kinds = [kind for kind, _ in backend.files]
    assert kinds.count(FileKind.INDEX) == 1
    assert kinds.count(FileKind.PACK) == 2
    for snapshot_id, seed in seeds.items():
        assert world.restore(world.open(backend), snapshot_id) == world.files(seed)


def test_copies_of_two_writers_become_one(world: Any) -> None:
    backend = MemoryBackend()
    first, second = world.create(backend), world.open(backend)
    with first.writer(uploads=0) as one, second.writer(uploads=0) as two:
        ids = [world.save_with(each, world.files(0)) for each in (one, two)]
    before = pack_bytes(backend)
    prune(world.open(backend), unused_share_max=0)
    assert pack_bytes(backend) < before * 0.6
    for snapshot_id in ids:
        assert world.restore(world.open(backend), snapshot_id) == world.files(0)


def test_a_prune_waits_for_a_backup_and_a_backup_for_a_prune(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    with repository.writer(), pytest.raises(RepositoryLocked, match="backup"):
        prune(world.open(backend))
    with (
        repository.lock(exclusive=True, purpose="prune"),
        pytest.raises(RepositoryLocked, match="prune"),
        world.open(backend).writer(),
    ):
        pytest.fail("a prune runs")


def test_a_reader_goes_on_after_a_prune(world: Any) -> None:
    backend = MemoryBackend()
    seeds = several_snapshots(world, backend)
    reading = world.open(backend)
    newest = list(seeds)[-1]
    world.restore(reading, newest)
    pruning = world.open(backend)
    pruning.forget(list(seeds)[:-1])
    prune(pruning, unused_share_max=0)
    assert world.restore(reading, newest) == world.files(seeds[newest])


def test_damage_of_what_is_needed_stops_a_prune_before_it_removes_anything(world: Any) -> None:
    base = MemoryBackend()
    seeds = several_snapshots(world, base)
    world.open(base).forget(list(seeds)[:2])
    for key in [key for key in base.files if key[0] is not FileKind.KEY]:
        for damaged in (None, base.files[key][:-3] + b"xxx", base.files[key][:-1]):
            backend = MemoryBackend()
            backend.files = {name: data for name, data in base.files.items() if name != key}
            if damaged is not None:
                backend.files[key] = damaged
            before = dict(backend.files)
            try:
                prune(world.open(backend), unused_share_max=0, pack_bytes=1500)
            except (Corrupt, NotFound, Refused):
                assert before.items() <= backend.files.items()


def test_a_prune_makes_room_on_a_full_disk_before_it_needs_any(world: Any) -> None:
    """What an interrupted backup left fills the disk: it goes first."""
    backend = MemoryBackend()
    repository = world.create(backend)
    first, last = (world.save(repository, world.files(seed)) for seed in (0, 50))
    repository.forget([first])
    backend.put(FileKind.PACK, "ab" * 32, bytes(20_000))
    disk_bytes = sum(map(len, backend.files.values()))

    def full(operation: str, kind: FileKind, name: str) -> None:
        is_full = sum(map(len, backend.files.values())) >= disk_bytes
        if operation == "put" and kind is not FileKind.LOCK and is_full:
            raise DiskFull("no space left on the disk")

    backend.before = full
    prune(world.open(backend))
    assert not any(name == "ab" * 32 for _, name in backend.files)
    assert world.restore(world.open(backend), last) == world.files(50)


def test_a_lost_lock_stops_a_prune_before_it_removes_anything(world: Any) -> None:
    backend = MemoryBackend()
    seeds = several_snapshots(world, backend)
    repository = world.open(backend)
    repository.forget(list(seeds)[:2])
    before = dict(backend.files)

    def lose_lock(operation: str, kind: FileKind, name: str) -> None:
        if operation == "put" and kind is FileKind.PACK:
            for each in [key for key in backend.files if key[0] is FileKind.LOCK]:
                del backend.files[each]

    backend.after = lose_lock
    with pytest.raises(RepositoryLocked):
        prune(repository, unused_share_max=0, pack_bytes=1500)
    assert before.items() <= backend.files.items()


def test_a_prune_killed_at_any_write_costs_no_snapshot_anything(
    world: Any, killed_everywhere: Callable[..., int]
) -> None:
    base = MemoryBackend()
    seeds = several_snapshots(world, base)
    gone = list(seeds)[1:3]
    world.open(base).forget(gone)
    kept_seeds = {name: seed for name, seed in seeds.items() if name not in gone}

    def all_restore(backend: MemoryBackend) -> None:
        repository = world.open(backend)
        assert check_repository(repository, read_data=1).is_whole
        for snapshot_id, seed in kept_seeds.items():
            assert world.restore(repository, snapshot_id) == world.files(seed)

    def survives(backend: MemoryBackend) -> None:
        all_restore(backend)
        prune(world.open(backend), unused_share_max=0, pack_bytes=1500)
        all_restore(backend)
        assert not check_repository(world.open(backend)).leftovers
        world.save(world.open(backend), world.files(77))

    def work(backend: MemoryBackend) -> None:
        prune(world.open(backend), unused_share_max=0, pack_bytes=1500)

    assert killed_everywhere(base, work, survives) > 30


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_any_history_of_backups_forgetting_and_prunes(new_world: Any, data: st.DataObject) -> None:
    world, backend = new_world(), MemoryBackend()
    repository = world.create(backend)
    expected: dict[str, int] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        match data.draw(st.sampled_from(["save", "forget", "prune"])):
            case "save":
                seed = data.draw(st.integers(0, 12))
                expected[world.save(repository, world.files(seed))] = seed
            case "forget" if expected:
                name = data.draw(st.sampled_from(sorted(expected)))
                repository.forget([name])
                del expected[name]
            case _:
                share = data.draw(st.sampled_from([0.0, 0.05, 0.5]))
                prune(repository, unused_share_max=share, pack_bytes=data.draw(st.sampled_from([700, 5000])))
    assert repository.snapshot_ids() == sorted(expected)
    for snapshot_id, seed in expected.items():
        assert world.restore(world.open(backend), snapshot_id) == world.files(seed)
    assert check_repository(world.open(backend), read_data=1).is_whole
