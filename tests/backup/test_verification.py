"""A verification tells what is whole, and what it found damaged the next backup puts right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pillarbox.backup.database_snapshot import read_stored_database, read_stored_segments
from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.pack import BlobId
from pillarbox.backup.repository.reports import ReportKind
from pillarbox.backup.repository.repository import Repository, Snapshot
from pillarbox.backup.verification import verify_snapshot
from pillarbox.store.errors import Corrupt


def a_chunk(repository: Repository, snapshot: Snapshot) -> BlobId:
    """The first piece of the stream of the snapshot's first database."""
    stored = read_stored_database(repository, snapshot.roots[0])
    return next(iter(read_stored_segments(repository, stored).values())).chunks[0]


def damage(backend: MemoryBackend, repository: Repository, blob: BlobId) -> None:
    pack, record = repository.index.find(blob)[0]
    data = bytearray(backend.files[FileKind.PACK, pack.name])
    data[record.offset + record.length // 2] ^= 1
    backend.files[FileKind.PACK, pack.name] = bytes(data)


def test_what_was_found_damaged_is_whole_again_after_the_next_backup(
    group: Any, world: Any, backend: MemoryBackend, tmp_path: Path
) -> None:
    for database in group.databases:
        group.deliver(database, group.corpus()[:20])
    first = group.snapshot()
    damage(backend, group.repository, a_chunk(group.repository, first))
    with pytest.raises(Corrupt):
        verify_snapshot(world.open(backend), first, tmp_path / "verified", clock=world.clock)
    (report,) = world.open(backend).reports()
    assert (report.kind, report.hit, len(report.damaged)) == (ReportKind.VERIFICATION, {first.id}, 1)

    group.repository = world.open(backend)  # another process, which has not read what is damaged
    second = group.snapshot()
    group.repository = world.open(backend)
    wanted = [group.contents(database) for database in group.databases]
    assert group.restored(second, "second") == wanted
    assert group.restored(first, "first") == wanted


def test_a_verification_says_what_it_is_of_and_how_fast_it_was(
    group: Any, world: Any, tmp_path: Path
) -> None:
    snapshot = group.snapshot()
    place = tmp_path / "verified"

    verify_snapshot(
        group.repository, snapshot, place, names=["Store 1"], clock=world.clock,
        progress=lambda _: world.clock.advance_ms(250),
    )  # fmt: skip

    (report,) = group.repository.reports()
    assert report.subjects == {group.databases[0].guid}
    assert report.hit == frozenset()
    (entry,) = [each for each in snapshot.manifest["databases"] if each["name"] == "Store 1"]
    assert report.about["snapshot"] == snapshot.id
    assert report.about["restored_bytes"] == entry["stream_bytes"] + entry["records_bytes"]
    assert report.about["restored_ms"] % 250 == 0
    assert report.about["restored_ms"] > 0
