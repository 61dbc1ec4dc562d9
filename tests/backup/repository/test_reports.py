"""A copy of a blob that was found damaged does not count: the next backup stores it, and all are whole."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.pack import BlobId, BlobKind, Child
from pillarbox.backup.repository.prune import prune
from pillarbox.backup.repository.reports import Report, ReportKind, read_reports
from pillarbox.backup.repository.repository import Repository
from pillarbox.store.errors import Corrupt, NoPermission

CONTENT = Random(5).randbytes(200)
GUID, OTHER_GUID = b"g" * 16, b"h" * 16


def save(world: Any, repository: Repository) -> tuple[BlobId, str]:
    """A backup of two blobs: the id of the first, and the snapshot's."""
    world.clock.advance_ms(1000)
    with repository.writer(uploads=0) as writer:
        blobs = [writer.add(BlobKind.DATA, each).id for each in (CONTENT, CONTENT[::-1])]
        root = writer.add_tree([Child(BlobKind.DATA, blob) for blob in blobs], None).id
        return blobs[0], writer.save_snapshot({}, [root])


def damage(backend: MemoryBackend, repository: Repository, blob: BlobId) -> None:
    pack, record = repository.index.find(blob)[0]
    data = bytearray(backend.files[FileKind.PACK, pack.name])
    data[record.offset + 5] ^= 1
    backend.files[FileKind.PACK, pack.name] = bytes(data)


def report(kind: ReportKind, time_ms: int, *subjects: bytes, **fields: Any) -> Report:
    return Report(time_ms, kind, 0.0, fields.get("damaged", frozenset()), frozenset(), frozenset(subjects))


def test_what_a_check_found_damaged_the_next_backup_stores_anew(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    blob, first = save(world, repository)
    damage(backend, repository, blob)
    assert hit(repository) == {first}

    _, second = save(world, world.open(backend))
    later = world.open(backend)
    assert (later.read(blob), len(later.index.find(blob))) == (CONTENT, 2)
    assert hit(later) == set()
    save(world, world.open(backend))
    assert len(world.open(backend).index.find(blob)) == 2  # and it is not stored for a third time

    prune(world.open(backend))
    pruned = world.open(backend)
    assert check_repository(pruned, read_data=1).is_whole
    assert pruned.reports()[-1].damaged == frozenset()
    assert {each.id for each in pruned.snapshots()} >= {first, second}


def hit(repository: Repository) -> set[str]:
    report = check_repository(repository, read_data=1)
    return {snapshot for damage in report.damage for snapshot in damage.snapshots}


def test_a_prune_goes_on_beside_damage_that_a_check_has_found(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    blob, first = save(world, repository)
    for seed in range(4):  # small packs, which would become one
        world.save(repository, world.files(seed))
    damage(backend, repository, blob)
    with pytest.raises(Corrupt):
        prune(world.open(backend))
    check_repository(world.open(backend), read_data=1)
    assert prune(world.open(backend)).packs_repacked > 0
    later = world.open(backend)
    assert hit(later) == {first}
    assert later.index.find(blob)  # its pack is as it was: what is whole in it stays
    later.forget([first])
    prune(world.open(backend))
    assert check_repository(world.open(backend), read_data=1).is_whole


def test_what_a_reader_found_damaged_it_stores_anew_itself(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    blob, _ = save(world, repository)
    damage(backend, repository, blob)
    with pytest.raises(Corrupt):
        repository.read(blob)
    save(world, repository)
    assert world.open(backend).read(blob) == CONTENT


def test_a_check_takes_over_what_it_did_not_look_at(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    blob, _ = save(world, repository)
    damage(backend, repository, blob)
    check_repository(repository, read_data=1)
    (known,) = repository.reports()
    check_repository(world.open(backend))  # reads no content
    (later,) = world.open(backend).reports()
    assert (later.damaged, len(later.damaged)) == (known.damaged, 1)


def test_a_check_that_reads_no_content_calls_nothing_whole_that_was_found_damaged(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    blob, first = save(world, repository)
    damage(backend, repository, blob)
    check_repository(repository, read_data=1)
    again = check_repository(world.open(backend))
    assert [each.snapshots for each in again.damage] == [(first,)]
    assert [each.hit for each in world.open(backend).reports()] == [{first}]

    save(world, world.open(backend))  # which stores it anew
    assert [each.snapshots for each in check_repository(world.open(backend)).damage] == [()]
    prune(world.open(backend))
    assert check_repository(world.open(backend)).is_whole


def test_a_check_killed_at_any_write_forgets_no_damage(world: Any, killed_everywhere: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    blob, _ = save(world, repository)
    damage(backend, repository, blob)
    check_repository(repository, read_data=1)
    (known,) = repository.reports()

    def survives(left: MemoryBackend) -> None:
        later = world.open(left)
        assert {copy for each in later.reports() for copy in each.damaged} == known.damaged
        save(world, later)
        assert world.open(left).read(blob) == CONTENT

    assert killed_everywhere(backend, lambda left: check_repository(world.open(left)), survives) >= 4


def test_a_report_takes_the_place_of_those_that_it_says_all_of(world: Any) -> None:
    repository = world.create(MemoryBackend())
    for each in (
        report(ReportKind.VERIFICATION, 1, GUID),
        report(ReportKind.CHECK, 2),
        report(ReportKind.VERIFICATION, 3, OTHER_GUID),
        report(ReportKind.VERIFICATION, 4, GUID),
        report(ReportKind.CHECK, 5),
    ):
        assert repository.keep_report(each)
    assert [each.time_ms for each in repository.reports()] == [3, 4, 5]


def test_a_damaged_report_is_passed_over_and_goes_with_the_next(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    repository.keep_report(report(ReportKind.CHECK, 1))
    (name,) = read_reports(backend, repository.sealer)
    backend.files[FileKind.REPORT, name] = backend.files[FileKind.REPORT, name][:-1]
    assert repository.reports() == []
    repository.keep_report(report(ReportKind.VERIFICATION, 2, GUID))
    assert [each.time_ms for each in repository.reports()] == [2]
    assert (FileKind.REPORT, name) not in backend.files


def test_where_nothing_may_be_written_no_report_is_kept(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)

    def refuse(operation: str, kind: FileKind, name: str) -> None:
        if operation == "put":
            raise NoPermission("it is read-only")

    backend.before = refuse
    assert not repository.keep_report(report(ReportKind.CHECK, 1))


def test_a_report_of_now_is_read_by_what_comes(world: Any) -> None:
    """The fields of the body, in their order: what is added comes behind them."""
    repository = world.create(MemoryBackend())
    pack = "ab" * 32
    kept = Report(
        7,
        ReportKind.VERIFICATION,
        0.5,
        frozenset({(pack, 40)}),
        frozenset({"5a"}),
        frozenset({GUID}),
        {"a": 1},
    )
    repository.keep_report(kept)
    assert repository.reports() == [kept]
    ((_, name),) = [key for key in repository.backend.files if key[0] is FileKind.REPORT]
    body = repository.sealer.open(b"R", repository.backend.files[FileKind.REPORT, name], "")
    golden = (
        b"\x97\x07\xacverification\xcd\x01\xf4\x91\x92\xc4 "
        + bytes.fromhex(pack)
        + b"(\x91\xa25a\x91\xc4\x10"
    )
    assert body == golden + GUID + b"\x81\xa1a\x01"
