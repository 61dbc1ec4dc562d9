"""Where blobs lie: the index against a dictionary, its files, and reading neighbours in one go."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.backup.repository import index as index_module
from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.crypto import Config, Encryption, Sealer, Secrets
from pillarbox.backup.repository.index import (
    Index,
    PackEntry,
    find_absent_packs,
    plan_runs,
    read_index,
    read_index_file,
    write_index,
)
from pillarbox.backup.repository.pack import BlobId, BlobKind, PackBuilder
from pillarbox.store.errors import Corrupt, NotFound

SEALER = Sealer(Config(bytes(16), Encryption.AES_256_GCM), Secrets(b"f" * 32, b"i" * 32), Random(1).randbytes)


def blob_id(number: int) -> BlobId:
    return BlobId(Random(number).randbytes(32))


def build(numbers: list[int], size_bytes: int = 10) -> tuple[PackEntry, bytes]:
    builder = PackBuilder(SEALER)
    for number in numbers:
        builder.add(BlobKind.DATA, blob_id(number), bytes(size_bytes), size_bytes)
    made = builder.finish()
    return PackEntry(made.name, made.header, len(made.data)), made.records


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=6, unique=True), max_size=6), st.data())
@settings(deadline=None, max_examples=60)
def test_the_index_is_a_dictionary_of_lists(packs: list[list[int]], data: st.DataObject) -> None:
    index = Index()
    expected: dict[int, set[str]] = {number: set() for number in range(22)}
    for numbers in packs:
        pack, records = build(numbers)
        for _ in range(data.draw(st.integers(1, 2))):  # the same pack may be in several files
            index.add_pack(pack, records)
        for number in numbers:
            expected[number].add(pack.name)
        if data.draw(st.booleans()):
            index.fold()
    for fold in (False, True):
        if fold:
            index.fold()
            assert len(index) == sum(map(len, expected.values()))
        for number, names in expected.items():
            found = index.find(blob_id(number))
            assert {location.pack.name for location in found} == names
            assert all(location.record.blob_id == blob_id(number) for location in found)
            assert (blob_id(number) in index) == bool(names)


def test_positions_and_locations_agree() -> None:
    index = Index()
    for numbers in ([1, 2, 3], [3, 4]):
        index.add_pack(*build(numbers))
    index.fold()
    for position, location in index.locations():
        assert index.position(location.record.blob_id) == position
        assert index.id_at(position) == location.record.blob_id
    assert index.position(blob_id(9)) == -1


def test_what_was_written_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_RECORDS_PER_FILE", 4)
    backend = MemoryBackend()
    packs = [build([1, 2, 3]), build([4, 5]), build([6])]
    names = write_index(backend, SEALER, packs)
    assert len(names) == 2
    index, read_names = read_index(backend, SEALER)
    assert sorted(read_names) == sorted(names)
    assert index.records_by_pack().keys() == {pack.name for pack, _ in packs}
    assert all(blob_id(number) in index for number in range(1, 7))


def test_an_index_without_packs_is_no_file() -> None:
    assert write_index(MemoryBackend(), SEALER, []) == []


def test_files_that_are_merged_while_they_are_read() -> None:
    backend = MemoryBackend()
    packs = [build([1]), build([2])]
    old = [name for pack in packs for name in write_index(backend, SEALER, [pack])]

    def merge(operation: str, kind: FileKind, name: str) -> None:
        if operation == "get":
            backend.before = lambda *call: None
            write_index(backend, SEALER, packs)
            for each in old:
                backend.delete(FileKind.INDEX, each)

    backend.before = merge
    index, _ = read_index(backend, SEALER)
    assert blob_id(1) in index
    assert blob_id(2) in index


def test_a_file_under_anothers_name_is_damage() -> None:
    backend = MemoryBackend()
    first, second = (write_index(backend, SEALER, [build([number])])[0] for number in (1, 2))
    backend.files[FileKind.INDEX, first] = backend.files[FileKind.INDEX, second]
    with pytest.raises(Corrupt, match=first):
        read_index_file(backend, SEALER, first)


def test_files_that_contradict_each_other() -> None:
    pack, records = build([1])
    index = Index()
    index.add_pack(pack, records)
    with pytest.raises(Corrupt, match=pack.name):
        index.add_pack(pack._replace(size_bytes=pack.size_bytes + 1), records)


def test_packs_that_are_not_there_or_cut() -> None:
    backend = MemoryBackend()
    index = Index()
    whole, cut, missing = (build([number])[0] for number in (1, 2, 3))
    for pack in (whole, cut, missing):
        index.add_pack(pack, b"")
    backend.put(FileKind.PACK, whole.name, bytes(whole.size_bytes))
    backend.put(FileKind.PACK, cut.name, bytes(cut.size_bytes - 1))
    assert find_absent_packs(backend, index) == {cut.name, missing.name}


def test_neighbours_are_one_run_and_the_far_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_RUN_GAP_BYTES_MAX", 100)
    monkeypatch.setattr(index_module, "_RUN_BYTES_MAX", 200)
    index = Index()
    index.add_pack(*build(list(range(20)), size_bytes=34))  # 50 bytes each when sealed
    runs = plan_runs(index, [blob_id(number) for number in (3, 0, 1, 6, 1, 19)])
    found = [[location.record.blob_id for location in run] for run in runs]
    assert found == [[blob_id(0), blob_id(1), blob_id(3)], [blob_id(6)], [blob_id(19)]]


def test_a_run_needs_blobs_that_are_known() -> None:
    with pytest.raises(NotFound):
        list(plan_runs(Index(), [blob_id(1)]))
