"""Damage of any byte or file is named, with the snapshots it hits; and never comes back as content."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from blake3 import blake3

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.check import CheckReport, check_repository, repair_index
from pillarbox.backup.repository.crypto import HEADER_BYTES, Unencrypted
from pillarbox.backup.repository.pack import TRAILER_BYTES, BlobKind, Child
from pillarbox.backup.repository.prune import prune
from pillarbox.backup.repository.repository import Repository
from pillarbox.store.errors import (
    Corrupt,
    InvalidContent,
    InvalidSetting,
    NotFound,
    Refused,
    RepositoryLocked,
    UnsupportedVersion,
)

Files = dict[tuple[FileKind, str], bytes]
DAMAGE = (Corrupt, NotFound, UnsupportedVersion, InvalidContent)
SEEDS = [0, 1, 20]


@pytest.fixture(params=["encrypted", "unencrypted"])
def credential(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {} if request.param == "encrypted" else {"credential": Unencrypted()}


class Site:
    """A repository with three snapshots, the first two of which have most in common."""

    def __init__(self, world: Any, credential: dict[str, Any]) -> None:
        self.world = world
        self.credential = credential
        self.backend = MemoryBackend()
        repository = world.create(self.backend, **credential)
        self.ids = [world.save(repository, world.files(seed)) for seed in SEEDS]

    def open(self, files: Files) -> Repository:
        backend = MemoryBackend()
        backend.files = dict(files)
        opened: Repository = self.world.open(backend, **self.credential)
        return opened

    def check(self, files: Files) -> CheckReport:
        return check_repository(self.open(files), read_data=1)

    def restored_wrongly(self, files: Files) -> set[str]:
        """The snapshots that do not restore; one that restores is right, or the test fails."""
        repository = self.open(files)
        failed = set()
        for snapshot_id, seed in zip(self.ids, SEEDS, strict=True):
            try:
                assert self.world.restore(repository, snapshot_id) == self.world.files(seed)
            except DAMAGE:
                failed.add(snapshot_id)
        return failed


@pytest.fixture
def site(world: Any, credential: dict[str, Any]) -> Site:
    return Site(world, credential)


def hit(report: CheckReport) -> set[str]:
    return {snapshot for damage in report.damage for snapshot in damage.snapshots}


def keys_of(files: Files, *kinds: FileKind) -> list[tuple[FileKind, str]]:
    return [key for key in files if key[0] in kinds]


CHECKED = (FileKind.PACK, FileKind.INDEX, FileKind.SNAPSHOT, FileKind.KEY)


def test_a_whole_repository_has_no_damage(site: Site) -> None:
    report = site.check(site.backend.files)
    assert report.is_whole
    assert (report.snapshots_checked, report.leftovers) == (3, ())
    assert report.packs_read == len(keys_of(site.backend.files, FileKind.PACK))


def test_any_flipped_byte_is_found_and_never_restored(site: Site) -> None:
    for kind, name in keys_of(site.backend.files, *CHECKED):
        data = site.backend.files[kind, name]
        edges = {*range(9), HEADER_BYTES - 1, HEADER_BYTES, *range(len(data) - TRAILER_BYTES, len(data), 3)}
        for at in sorted(edges | set(range(0, len(data), 149))):
            flipped = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
            files = {**site.backend.files, (kind, name): flipped}
            if kind is FileKind.KEY:
                with pytest.raises(DAMAGE):
                    site.open(files)
                continue
            report = site.check(files)
            assert any(damage.file == f"{kind}/{name}" for damage in report.damage), (kind, at)
            if kind is not FileKind.INDEX:
                assert hit(report) == site.restored_wrongly(files)


def test_any_missing_cut_or_grown_file_is_found(site: Site) -> None:
    for kind, name in keys_of(site.backend.files, FileKind.PACK, FileKind.INDEX, FileKind.SNAPSHOT):
        data = site.backend.files[kind, name]
        missing = {key: value for key, value in site.backend.files.items() if key != (kind, name)}
        report = site.check(missing)
        assert not report.is_whole
        assert hit(report) == site.restored_wrongly(missing) != set()
        for changed in (b"", data[: len(data) // 2], data[:-1], data + b"\0"):
            report = site.check({**site.backend.files, (kind, name): changed})
            assert any(damage.file == f"{kind}/{name}" for damage in report.damage)


@pytest.mark.parametrize("kind", [FileKind.PACK, FileKind.INDEX, FileKind.SNAPSHOT])
def test_files_that_changed_places_are_found(site: Site, kind: FileKind) -> None:
    first, second = keys_of(site.backend.files, kind)[:2]
    files = {
        **site.backend.files,
        first: site.backend.files[second],
        second: site.backend.files[first],
    }
    named = {damage.file for damage in site.check(files).damage}
    assert {f"{kind}/{first[1]}", f"{kind}/{second[1]}"} <= named
    site.restored_wrongly(files)


def test_a_file_of_another_repository_is_found(world: Any, credential: dict[str, Any]) -> None:
    mine, theirs = Site(world, credential), Site(world, credential)
    for key in keys_of(theirs.backend.files, FileKind.INDEX, FileKind.SNAPSHOT):
        report = mine.check({**mine.backend.files, key: theirs.backend.files[key]})
        assert any(damage.file == f"{key[0]}/{key[1]}" for damage in report.damage)


def test_each_region_of_a_pack_is_named(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    snapshot_id = world.save(repository, {"one": b"x" * 100, "two": b"y" * 100})
    blobs = {location.record.blob_id: location for _, location in repository.index.locations()}
    assert blobs

    def messages(pack_name: str, at: int) -> list[str]:
        key = (FileKind.PACK, pack_name)
        damaged = MemoryBackend()
        damaged.files = dict(backend.files)
        data = backend.files[key]
        damaged.files[key] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return [each.message for each in check_repository(world.open(damaged), read_data=1).damage]

    for blob_id, location in blobs.items():
        found = messages(location.pack.name, location.record.offset + 3)
        assert any(blob_id.hex() in message for message in found)
    size_bytes = location.pack.size_bytes
    assert any("header" in message for message in messages(location.pack.name, 20))
    assert any("trailer" in message for message in messages(location.pack.name, size_bytes - 1))
    footer = max(
        each.record.offset + each.record.length for each in blobs.values() if each.pack == location.pack
    )
    assert any(f"byte {footer}" in message for message in messages(location.pack.name, footer + 1))
    assert snapshot_id in repository.snapshot_ids()


def test_damage_names_only_the_snapshots_that_it_hits(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    with repository.writer() as writer:
        shared, alone = (writer.add(BlobKind.DATA, content).id for content in (b"shared", b"alone"))
        children = [Child(BlobKind.DATA, shared)]
        first = writer.save_snapshot({}, [writer.add_tree(children, None).id])
        children.append(Child(BlobKind.DATA, alone))
        second = writer.save_snapshot({}, [writer.add_tree(children, None).id])
    for blob_id, expected in [(shared, {first, second}), (alone, {second})]:
        (location,) = repository.index.find(blob_id)
        key = (FileKind.PACK, location.pack.name)
        data = backend.files[key]
        backend.files[key] = data.replace(data[location.record.offset :][:4], b"oops", 1)
        assert hit(check_repository(world.open(backend), read_data=1)) == expected
        backend.files[key] = data


def test_a_blob_with_a_whole_second_copy_hits_no_snapshot(world: Any) -> None:
    backend = MemoryBackend()
    first, second = world.create(backend), world.open(backend)
    with first.writer(uploads=0) as one, second.writer(uploads=0) as two:
        world.save_with(one, {"a": b"x"})
        world.save_with(two, {"a": b"x"})
    key = keys_of(backend.files, FileKind.PACK)[0]
    del backend.files[key]
    report = check_repository(world.open(backend), read_data=1)
    assert [damage.snapshots for damage in report.damage] == [()]


def test_without_reading_data_the_structure_is_proven(site: Site) -> None:
    backend = site.open(site.backend.files).backend
    read: list[str] = []
    assert isinstance(backend, MemoryBackend)
    backend.before = lambda operation, kind, name: read.append(name) if operation == "get" else None
    repository = site.world.open(backend, **site.credential)
    report = check_repository(repository)
    trees = {
        location.pack.name
        for _, location in repository.index.locations()
        if location.record.kind is BlobKind.TREE
    }
    assert report.is_whole
    assert report.packs_read == 0
    assert {name for kind, name in backend.files if kind is FileKind.PACK} & set(read) == trees


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.01, 1), (0.5, 4), (1.0, 7)])
def test_a_share_of_the_data(world: Any, share: float, expected: int) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    with repository.writer(pack_bytes=500) as writer:
        for number in range(7):
            writer.add(BlobKind.DATA, Random(number).randbytes(500))
        writer.flush()
    assert check_repository(repository, read_data=share, random=Random(1)).packs_read == expected


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none(world: Any, share: float) -> None:
    with pytest.raises(InvalidSetting):
        check_repository(world.create(MemoryBackend()), read_data=share)


def test_packs_that_nothing_lists_are_leftovers_and_no_damage(site: Site) -> None:
    stray = b"the pack of a backup that died"
    name = blake3(stray).hexdigest()
    report = site.check({**site.backend.files, (FileKind.PACK, name): stray})
    assert report.is_whole
    assert report.leftovers == (f"packs/{name}",)


def test_a_tree_that_is_none_is_found(world: Any) -> None:
    repository = world.create(MemoryBackend())
    with repository.writer() as writer:
        root = writer.add(BlobKind.TREE, b"no tree").id
        snapshot_id = writer.save_snapshot({}, [root])
    assert hit(check_repository(repository)) == {snapshot_id}


def test_a_check_runs_beside_a_backup_and_not_beside_a_prune(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    with repository.writer():
        assert check_repository(world.open(backend)).is_whole
    with repository.lock(exclusive=True, purpose="prune"), pytest.raises(RepositoryLocked):
        check_repository(world.open(backend))


# --- repair -------------------------------------------------------------------------------------------------


def test_the_index_can_be_made_from_the_packs_alone(site: Site) -> None:
    files = {key: data for key, data in site.backend.files.items() if key[0] is not FileKind.INDEX}
    repository = site.open(files)
    report = repair_index(repository)
    assert not report.damage
    assert report.packs_listed == len(keys_of(files, FileKind.PACK))
    assert check_repository(repository, read_data=1).is_whole
    backend = repository.backend
    assert isinstance(backend, MemoryBackend)
    assert site.restored_wrongly(backend.files) == set()


def test_a_damaged_index_file_is_replaced(site: Site) -> None:
    key = keys_of(site.backend.files, FileKind.INDEX)[0]
    repository = site.open({**site.backend.files, key: b"damaged"})
    with pytest.raises(Corrupt):
        site.world.save(repository, {})
    repair_index(repository)
    assert check_repository(repository, read_data=1).is_whole


def test_damaged_blobs_are_left_out_and_the_next_backup_heals_them(site: Site) -> None:
    files = dict(site.backend.files)
    for key in keys_of(files, FileKind.PACK):
        files[key] = files[key][:50] + b"damage" + files[key][56:]
    repository = site.open(files)
    report = repair_index(repository, read_data=True)
    assert len(report.damage) == len(keys_of(files, FileKind.PACK))
    for seed in SEEDS:
        site.world.save(repository, site.world.files(seed))
    backend = repository.backend
    assert isinstance(backend, MemoryBackend)
    assert site.restored_wrongly(backend.files) == set()


def test_a_pack_that_cannot_say_what_it_holds_is_listed_as_before(site: Site) -> None:
    key = keys_of(site.backend.files, FileKind.PACK)[0]
    files = {**site.backend.files, key: site.backend.files[key][:-1] + b"X"}
    repository = site.open(files)
    report = repair_index(repository)
    assert [damage.file for damage in report.damage] == [f"packs/{key[1]}"]
    assert site.restored_wrongly(files) == set()


@pytest.mark.parametrize("content", [b"", b"x", bytes(48), bytes(5000)])
def test_a_stray_file_among_the_packs_is_told_and_passed_over(site: Site, content: bytes) -> None:
    name = "ab" * 32
    repository = site.open({**site.backend.files, (FileKind.PACK, name): content})
    report = repair_index(repository)
    assert [damage.file for damage in report.damage] == [f"packs/{name}"]
    assert check_repository(repository, read_data=1).is_whole


def test_a_repair_killed_at_any_write(world: Any, killed_everywhere: Any) -> None:
    site = Site(world, {})

    def survives(backend: MemoryBackend) -> None:
        assert check_repository(world.open(backend), read_data=1).is_whole
        assert site.restored_wrongly(backend.files) == set()

    def repair(backend: MemoryBackend) -> None:
        repair_index(world.open(backend))

    assert killed_everywhere(site.backend, repair, survives) >= 10


# --- lost snapshots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(len(SEEDS)))
def test_a_snapshot_whose_file_is_lost_is_named_until_it_is_forgotten(site: Site, which: int) -> None:
    lost = site.ids[which]
    files = {key: data for key, data in site.backend.files.items() if key != (FileKind.SNAPSHOT, lost)}
    (damage,) = site.check(files).damage
    assert damage.file == f"snapshots/{lost}" and damage.snapshots == (lost,)
    repository = site.open(files)
    assert repository.lost_snapshot_ids() == [lost]
    repository.forget([lost])
    prune(repository)
    assert check_repository(repository, read_data=1).is_whole


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_while_a_snapshot_cannot_be_read_a_prune_goes_on_and_it_can_be_put_back(site: Site, how: str) -> None:
    """What only it needs is not freed, and what those that are forgotten needed is."""
    hit, gone, *kept = site.ids
    file = FileKind.SNAPSHOT, hit
    repository = site.open({key: data for key, data in site.backend.files.items() if key != file})
    if how == "damaged":
        repository.backend.files[file] = site.backend.files[file][:-1] + b"x"
    assert list(repository.unreadable_snapshots()) == [hit]
    assert [each.id for each in repository.snapshots()] == sorted(
        [gone, *kept], key=lambda name: repository.snapshot(name).time_ms
    )
    forgotten = [repository.snapshot(gone)]
    repository.forget([gone])
    dry = prune(repository, dry_run=True, unused_share_max=0)
    done = prune(repository, forgotten=forgotten, unused_share_max=0)
    assert done.bytes_after < done.bytes_before and dry.bytes_after <= dry.bytes_before
    repository.backend.files[file] = site.backend.files[file]
    whole = site.open(repository.backend.files)
    assert check_repository(whole, read_data=1).is_whole
    assert hit in {each.id for each in whole.snapshots()}


def test_while_the_newest_snapshot_may_be_one_that_cannot_be_read_the_latest_is_refused(site: Site) -> None:
    *_, before, newest = sorted(
        site.ids, key=lambda name: site.open(site.backend.files).snapshot(name).time_ms
    )
    repository = site.open(
        {key: data for key, data in site.backend.files.items() if key != (FileKind.SNAPSHOT, newest)}
    )
    with pytest.raises(Refused, match=newest[:12]) as refused:
        repository.snapshot("latest")
    assert before[:12] in refused.value.hint
    assert repository.snapshot(before).id == before
    repository.forget([newest])
    assert repository.snapshot("latest").id == before


def test_forgetting_killed_at_any_write_makes_nothing_lost(
    site: Site, world: Any, killed_everywhere: Any
) -> None:
    def survives(backend: MemoryBackend) -> None:
        repository = world.open(backend, **site.credential)
        assert check_repository(repository, read_data=1).is_whole
        repository.forget(site.ids[:2])
        assert repository.snapshot_ids() == site.ids[2:]
        assert check_repository(repository).is_whole

    def forget(backend: MemoryBackend) -> None:
        world.open(backend, **site.credential).forget(site.ids[:2])

    assert killed_everywhere(site.backend, forget, survives) >= 4


@pytest.mark.parametrize("kind", [FileKind.KEY, FileKind.INDEX, FileKind.PACK, FileKind.SNAPSHOT])
def test_a_backup_that_ends_during_a_check_is_no_damage(world: Any, kind: FileKind) -> None:
    """It ends right after the check has listed files of one kind."""
    backend = MemoryBackend()
    repository = world.create(backend)
    world.save(repository, world.files(0))
    other = world.open(backend)
    saved: list[str] = []

    def save(operation: str, listed: FileKind, _: str) -> None:
        if (operation, listed) == ("list", kind) and not saved:
            saved.append("")
            saved.append(world.save(other, world.files(20)))

    backend.after = save
    report = check_repository(repository, read_data=1)
    assert saved and not report.damage
    assert check_repository(repository, read_data=1).snapshots_checked == 2
