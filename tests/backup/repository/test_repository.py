"""What a repository promises: content comes back byte for byte or not at all, and no death hurts it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.backup.repository import repository as repository_module
from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.crypto import KdfCost, KeyFile, Passphrase, Unencrypted
from pillarbox.backup.repository.pack import BlobId, BlobKind, Child
from pillarbox.backup.repository.prune import prune
from pillarbox.backup.repository.repository import copy_snapshots
from pillarbox.store.errors import (
    AlreadyExists,
    Corrupt,
    DiskFull,
    InvalidName,
    NotFound,
    OverLimit,
    Refused,
    RepositoryLocked,
    WrongKey,
)

CHEAP = KdfCost(memory_kib=64, passes=1, lanes=1)
OTHER_KEY = KeyFile(b"o" * 32)


def packs(backend: MemoryBackend) -> dict[str, bytes]:
    return {name: data for (kind, name), data in backend.files.items() if kind is FileKind.PACK}


# --- opening and keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("credential", [Passphrase("secret"), KeyFile(b"k" * 32), Unencrypted()])
def test_a_repository_opens_with_what_it_was_made_for(world: Any, credential: Any) -> None:
    backend = MemoryBackend()
    made = world.create(backend, credential, kdf_cost=CHEAP)
    snapshot_id = world.save(made, world.files(0))
    opened = world.open(backend, credential)
    assert opened.id == made.id
    assert world.restore(opened, snapshot_id) == world.files(0)


@pytest.mark.parametrize("credential", [Passphrase("secret"), KeyFile(b"k" * 32), Unencrypted()])
@pytest.mark.parametrize("other", [Passphrase("Secret"), KeyFile(b"K" * 32), Unencrypted()])
def test_a_repository_opens_with_nothing_else(world: Any, credential: Any, other: Any) -> None:
    if credential == other == Unencrypted():
        pytest.skip("this is the right one")
    backend = MemoryBackend()
    world.create(backend, credential, kdf_cost=CHEAP)
    with pytest.raises(WrongKey):
        world.open(backend, other)


def test_where_there_is_no_repository(world: Any) -> None:
    with pytest.raises(NotFound):
        world.open(MemoryBackend())


def test_no_second_repository_over_the_first(world: Any) -> None:
    backend = MemoryBackend()
    world.create(backend)
    with pytest.raises(AlreadyExists):
        world.create(backend)


def test_of_two_that_create_at_once_one_is_told(world: Any) -> None:
    backend = MemoryBackend()

    def other_was_faster(operation: str, kind: FileKind, name: str) -> None:
        if operation == "put" and kind is FileKind.CONFIG:
            backend.before = lambda *call: None
            world.create(backend, OTHER_KEY)

    backend.before = other_was_faster
    with pytest.raises(AlreadyExists):
        world.create(backend)
    world.open(backend, OTHER_KEY)


def test_several_keys_open_the_same_repository(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    name = repository.add_key(Passphrase("second"), label="spare", kdf_cost=CHEAP)
    assert repository.keys()[name].label == "spare"
    assert world.open(backend, Passphrase("second")).id == world.open(backend).id
    repository.remove_key(name)
    with pytest.raises(WrongKey):
        world.open(backend, Passphrase("second"))


def test_the_last_key_stays(world: Any) -> None:
    repository = world.create(MemoryBackend())
    with pytest.raises(Refused):
        repository.remove_key(next(iter(repository.keys())))
    with pytest.raises(NotFound):
        repository.remove_key("00")


def test_a_changed_passphrase(world: Any) -> None:
    backend = MemoryBackend()
    world.create(backend, Passphrase("old"), kdf_cost=CHEAP)
    opened = world.open(backend, Passphrase("old"))
    opened.change_key(Passphrase("new"), kdf_cost=CHEAP)
    opened.change_key(Passphrase("newer"), kdf_cost=CHEAP)
    world.open(backend, Passphrase("newer"))
    for old in ("old", "new"):
        with pytest.raises(WrongKey):
            world.open(backend, Passphrase(old))


def test_keys_have_a_bound(world: Any) -> None:
    repository = world.create(MemoryBackend())
    with pytest.raises(OverLimit):
        for number in range(50):
            repository.add_key(KeyFile(bytes([number]) * 32))


def test_one_damaged_key_does_not_shut_out_the_others(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    damaged = repository.add_key(OTHER_KEY)
    backend.files[FileKind.KEY, damaged] = b"damaged"
    world.open(backend)
    with pytest.raises(Corrupt, match=damaged):
        world.open(backend, OTHER_KEY)


def test_an_encrypted_repository_shows_nothing_of_its_content(world: Any) -> None:
    backend = MemoryBackend()
    text = b"meet me at the usual place at nine; " * 40
    world.save(world.create(backend), {"letter": text})
    everything = b"".join(backend.files.values())
    assert b"usual place" not in everything
    assert b"letter" not in everything


def test_a_forged_config_does_not_make_us_write_in_the_clear(world: Any) -> None:
    backend, open_to_all = MemoryBackend(), MemoryBackend()
    world.create(backend)
    world.create(open_to_all, Unencrypted())
    backend.files[FileKind.CONFIG, "config"] = open_to_all.files[FileKind.CONFIG, "config"]
    with pytest.raises(WrongKey):
        world.open(backend)


# --- blobs and snapshots ------------------------------------------------------------------------------------


@given(
    contents=st.lists(st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=900)), max_size=4),
    unencrypted=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_every_snapshot_comes_back(
    new_world: Any, contents: list[dict[str, bytes]], unencrypted: bool
) -> None:
    world, backend = new_world(), MemoryBackend()
    credential = Unencrypted() if unencrypted else OTHER_KEY
    repository = world.create(backend, credential)
    ids = [world.save(repository, files) for files in contents]
    opened = world.open(backend, credential)
    assert [each.id for each in opened.snapshots()] == ids
    for snapshot_id, files in zip(ids, contents, strict=True):
        assert world.restore(opened, snapshot_id) == files
    assert check_repository(opened, read_data=1).is_whole


def test_what_is_there_is_not_stored_again(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    world.save(repository, world.files(0))
    before = packs(backend)
    with world.open(backend).writer(uploads=0) as writer:
        world.save_with(writer, world.files(0))
        assert writer.counts.new_blobs == 0
        assert writer.counts.blobs > 0
    assert packs(backend) == before


def test_stored_bytes_are_in_proportion_to_what_changed(world: Any) -> None:
    repository = world.create(MemoryBackend())
    world.save(repository, world.files(0, count=50))
    with repository.writer() as writer:
        world.save_with(writer, world.files(1, count=50))
        assert writer.counts.new_content_bytes < writer.counts.content_bytes / 10


def test_add_tells_whether_a_blob_is_new(world: Any) -> None:
    with world.create(MemoryBackend()).writer() as writer:
        first = writer.add(BlobKind.DATA, b"x")
        assert first.is_new
        assert writer.add(BlobKind.DATA, b"x") == (first.id, False)
        assert writer.add(BlobKind.TREE, b"x").is_new


def test_an_empty_blob(world: Any) -> None:
    repository = world.create(MemoryBackend())
    with repository.writer() as writer:
        blob_id = writer.add(BlobKind.DATA, b"").id
        writer.flush()
    assert repository.read(blob_id) == b""


def test_a_tree_or_snapshot_names_only_what_is_there(world: Any) -> None:
    repository = world.create(MemoryBackend())
    nobody = BlobId(b"n" * 32)
    with repository.writer() as writer:
        with pytest.raises(NotFound):
            writer.add_tree([Child(BlobKind.DATA, nobody)], None)
        with pytest.raises(NotFound):
            writer.save_snapshot({}, [nobody])
    assert repository.snapshots() == []


def test_without_a_flush_nothing_is_readable_and_with_it_everything(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    with repository.writer() as writer:
        dropped = writer.add(BlobKind.DATA, b"dropped").id
    with repository.writer() as writer:
        kept = writer.add(BlobKind.DATA, b"kept").id
        writer.flush()
    assert world.open(backend).read(kept) == b"kept"
    with pytest.raises(NotFound):
        world.open(backend).read(dropped)


def test_a_reader_finds_what_was_written_since_it_opened(world: Any) -> None:
    backend = MemoryBackend()
    writing = world.create(backend)
    reading = world.open(backend)
    assert len(reading.index) == 0
    snapshot_id = world.save(writing, world.files(0))
    assert world.restore(reading, snapshot_id) == world.files(0)


def test_two_writers_at_once(world: Any) -> None:
    backend = MemoryBackend()
    first, second = world.create(backend), world.open(backend)
    with first.writer(uploads=0) as one, second.writer(uploads=0) as two:
        ids = [world.save_with(one, world.files(0)), world.save_with(two, world.files(2))]
    opened = world.open(backend)
    assert [world.restore(opened, each) for each in ids] == [world.files(0), world.files(2)]
    assert check_repository(opened, read_data=1).is_whole


def test_threads_share_a_writer(world: Any) -> None:
    repository = world.create(MemoryBackend())
    contents = [Random(number).randbytes(500) for number in range(60)]
    found: dict[int, list[BlobId]] = {}

    with repository.writer(pack_bytes=2000, uploads=2) as writer:

        def add_all(thread: int) -> None:
            found[thread] = [writer.add(BlobKind.DATA, content).id for content in contents]

        threads = [threading.Thread(target=add_all, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.flush()
        assert writer.counts.new_blobs == len(contents)
    assert len({tuple(ids) for ids in found.values()}) == 1
    assert [repository.read(blob_id) for blob_id in found[0]] == contents


def test_many_blobs_at_once_come_each_once_and_in_few_requests(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    contents = [Random(number).randbytes(100) for number in range(50)]
    with repository.writer() as writer:
        ids = [writer.add(BlobKind.DATA, content).id for content in contents]
        writer.flush()
    requests: list[str] = []
    backend.before = lambda operation, kind, name: requests.append(operation)
    read = list(repository.read_many([*ids, *ids]))
    assert dict(read) == dict(zip(ids, contents, strict=True))
    assert len(read) == len(ids)
    assert requests == ["get"]


def test_a_full_disk_ends_the_writer_and_keeps_the_repository(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    kept = world.save(repository, world.files(0))

    def full(operation: str, kind: FileKind, name: str) -> None:
        if operation == "put" and kind is FileKind.PACK:
            raise DiskFull("the disk is full")

    backend.before = full
    with pytest.raises(DiskFull), repository.writer(pack_bytes=1000) as writer:
        try:
            world.save_with(writer, world.files(9))
        finally:
            with pytest.raises(DiskFull, match="the disk is full"):
                writer.add(BlobKind.DATA, b"after the error")
    with pytest.raises(Refused, match="the writer has ended"):
        writer.add(BlobKind.DATA, b"after the end")
    backend.before = lambda *call: None
    assert world.restore(repository, kept) == world.files(0)
    assert check_repository(repository, read_data=1).is_whole
    world.save(repository, world.files(9))


@pytest.mark.parametrize("level", [0, 1, 9])
def test_levels_of_compression(world: Any, level: int) -> None:
    repository = world.create(MemoryBackend())
    with repository.writer(level=level) as writer:
        blob_id = writer.add(BlobKind.DATA, b"again " * 1000).id
        writer.flush()
        assert (writer.counts.stored_bytes < 3000) == (level > 0)
    assert repository.read(blob_id) == b"again " * 1000


def test_snapshots_by_name(world: Any) -> None:
    repository = world.create(MemoryBackend())
    with pytest.raises(NotFound):
        repository.snapshot("latest")
    ids = [world.save(repository, world.files(number)) for number in range(20)]
    assert repository.snapshot("latest").id == ids[-1]
    assert repository.snapshot(ids[3]).id == ids[3]
    assert repository.snapshot(ids[3][:12].upper()).id == ids[3]
    for name in ("", "zz", "no such"):
        with pytest.raises(NotFound):
            repository.snapshot(name)
    with pytest.raises(InvalidName):  # 20 snapshots, 16 first letters
        for letter in "0123456789abcdef":
            if any(each.startswith(letter) for each in ids):
                repository.snapshot(letter)


def test_a_snapshot_keeps_what_was_said_of_it(world: Any) -> None:
    repository = world.create(MemoryBackend())
    manifest = {"group": "first", "databases": [{"name": "one", "guid": b"\x01\xff"}], "numbers": {1: 2}}
    with repository.writer() as writer:
        root = writer.add_tree([], None).id
        snapshot_id = writer.save_snapshot(manifest, [root, root], time_ms=1234)
    found = repository.snapshot(snapshot_id)
    assert (found.manifest, found.roots, found.time_ms) == (manifest, (root, root), 1234)


def test_forgotten_snapshots_are_gone_and_the_others_are_not(world: Any) -> None:
    repository = world.create(MemoryBackend())
    ids = [world.save(repository, world.files(number)) for number in range(3)]
    repository.forget([ids[1], ids[1]])
    assert [each.id for each in repository.snapshots()] == [ids[0], ids[2]]


def test_blobs_of_a_lost_pack_are_stored_again(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    kept = world.save(repository, world.files(0))
    for name in packs(backend):
        del backend.files[FileKind.PACK, name]
    world.save(repository, world.files(0))
    assert world.restore(world.open(backend), kept) == world.files(0)


def test_of_two_copies_the_whole_one_is_read(world: Any) -> None:
    backend = MemoryBackend()
    first, second = world.create(backend), world.open(backend)
    with first.writer(uploads=0) as one, second.writer(uploads=0) as two:
        blob_id = one.add(BlobKind.DATA, b"twice").id
        two.add(BlobKind.DATA, b"twice")
        one.flush()
        two.flush()
    assert len(packs(backend)) == 2
    for name, data in packs(backend).items():
        backend.files[FileKind.PACK, name] = bytes(len(data))
        assert world.open(backend).read(blob_id) == b"twice"
        assert dict(world.open(backend).read_many([blob_id])) == {blob_id: b"twice"}
        backend.files[FileKind.PACK, name] = data


def test_a_lost_lock_means_no_snapshot(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)
    with pytest.raises(RepositoryLocked), repository.writer() as writer:
        root = writer.add_tree([], None).id
        for kind, name in list(backend.files):
            if kind is FileKind.LOCK:
                backend.delete(kind, name)
        writer.save_snapshot({}, [root])
    assert repository.snapshots() == []


def test_a_lock_lost_in_the_last_step_takes_the_snapshot_back(world: Any) -> None:
    backend = MemoryBackend()
    repository = world.create(backend)

    def lose_lock(operation: str, kind: FileKind, name: str) -> None:
        if operation == "put" and kind is FileKind.SNAPSHOT:
            for each in [key for key in backend.files if key[0] is FileKind.LOCK]:
                del backend.files[each]

    backend.after = lose_lock
    with pytest.raises(RepositoryLocked):
        world.save(repository, world.files(0))
    assert repository.snapshot_ids() == []


# --- dying --------------------------------------------------------------------------------------------------


def test_a_backup_killed_at_any_write_hurts_nothing_and_is_carried_on(
    world: Any, killed_everywhere: Callable[..., int]
) -> None:
    base = MemoryBackend()
    kept = world.save(world.create(base), world.files(0))

    def survives(backend: MemoryBackend) -> None:
        repository = world.open(backend)
        assert world.restore(repository, kept) == world.files(0)
        assert check_repository(repository, read_data=1).is_whole
        for snapshot_id in set(repository.snapshot_ids()) - {kept}:  # it exists: then it is whole
            assert world.restore(repository, snapshot_id) == world.files(2)
        again = world.save(repository, world.files(2))
        assert world.restore(world.open(backend), again) == world.files(2)

    deaths = killed_everywhere(
        base, lambda backend: world.save(world.open(backend), world.files(2)), survives
    )
    assert deaths > 12


def test_what_a_killed_backup_listed_is_not_stored_again(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_module, "_PACKS_PER_INDEX_FILE", 1)
    backend = MemoryBackend()
    repository = world.create(backend)
    contents = [Random(number).randbytes(600) for number in range(10)]
    with pytest.raises(KeyboardInterrupt), repository.writer(pack_bytes=1000, uploads=0) as writer:
        for content in contents:
            writer.add(BlobKind.DATA, content)
        raise KeyboardInterrupt
    with world.open(backend).writer() as writer:
        assert sum(writer.add(BlobKind.DATA, content).is_new for content in contents) == 0


def test_making_a_repository_killed_at_any_write_leaves_none_or_a_whole_one(
    world: Any, killed_everywhere: Callable[..., int]
) -> None:
    def survives(backend: MemoryBackend) -> None:
        try:
            repository = world.open(backend)
        except NotFound:
            repository = world.create(backend)
        world.save(repository, world.files(0))

    assert killed_everywhere(MemoryBackend(), world.create, survives) == 4


def test_changing_a_key_killed_at_any_write_never_shuts_everybody_out(
    world: Any, killed_everywhere: Callable[..., int]
) -> None:
    base = MemoryBackend()
    world.create(base)

    def survives(backend: MemoryBackend) -> None:
        try:
            world.open(backend)
        except WrongKey:
            world.open(backend, OTHER_KEY)

    killed_everywhere(base, lambda backend: world.open(backend).change_key(OTHER_KEY), survives)


# --- copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [False, True])
def test_copies_in_another_repository(world: Any, share: bool) -> None:
    source = world.create(MemoryBackend())
    target_backend = MemoryBackend()
    target = world.create(target_backend, OTHER_KEY, share_ids_with=source if share else None)
    ids = [world.save(source, world.files(number)) for number in range(3)]
    copies = copy_snapshots(source, target, source.snapshots())
    assert list(copies) == ids
    opened = world.open(target_backend, OTHER_KEY)
    for number, (old, new) in enumerate(copies.items()):
        assert world.restore(opened, new) == world.files(number)
        assert opened.snapshot(new).time_ms == source.snapshot(old).time_ms
        assert (opened.snapshot(new).roots == source.snapshot(old).roots) == share
    assert check_repository(opened, read_data=1).is_whole


def test_copying_again_copies_only_what_is_new(world: Any) -> None:
    source_backend = MemoryBackend()
    source, target = world.create(source_backend), world.create(MemoryBackend(), OTHER_KEY)
    world.save(source, world.files(0))
    first = copy_snapshots(source, target, source.snapshots())
    world.save(source, world.files(1))
    second = copy_snapshots(source, target, source.snapshots())
    assert first.items() <= second.items()
    assert len(target.snapshots()) == 2
    requests: list[str] = []
    source_backend.before = lambda operation, kind, name: (
        requests.append(operation) if kind == "packs" else None
    )
    copy_snapshots(source, target, source.snapshots())
    assert "get" not in requests


def test_a_copy_that_is_copied_back_is_what_it_was_made_of(world: Any) -> None:
    source, target = world.create(MemoryBackend()), world.create(MemoryBackend(), OTHER_KEY)
    taken = world.save(source, world.files(0))
    copies = copy_snapshots(source, target, source.snapshots())
    assert copy_snapshots(target, source, target.snapshots()) == {copies[taken]: taken}
    assert [each.id for each in source.snapshots()] == [taken]


def test_with_shared_ids_only_new_data_is_read(world: Any) -> None:
    source_backend = MemoryBackend()
    source = world.create(source_backend)
    target = world.create(MemoryBackend(), OTHER_KEY, share_ids_with=source)
    world.save(source, world.files(0, count=40))
    copy_snapshots(source, target, source.snapshots())
    newest = world.save(source, world.files(1, count=40))
    tree_bytes = data_bytes = 0
    for location in (location for _, location in source.index.locations()):
        if location.record.kind is BlobKind.TREE:
            tree_bytes += location.record.length
        else:
            data_bytes += location.record.length
    read_bytes = 0
    get = source_backend.get

    def count(kind: FileKind, name: str, offset: int = 0, length: int | None = None) -> bytes:
        nonlocal read_bytes
        data = get(kind, name, offset, length)
        read_bytes += len(data) if kind is FileKind.PACK else 0
        return data

    source_backend.get = count  # type: ignore[method-assign]
    copy_snapshots(source, target, [source.snapshot(newest)])
    assert read_bytes < tree_bytes + data_bytes / 10


def test_ids_of_an_unencrypted_repository_are_not_shared(world: Any) -> None:
    source = world.create(MemoryBackend())
    with pytest.raises(Refused):
        world.create(MemoryBackend(), Unencrypted(), share_ids_with=source)


def test_a_copy_killed_at_any_write_is_carried_on(world: Any, killed_everywhere: Callable[..., int]) -> None:
    source = world.create(MemoryBackend())
    world.save(source, world.files(0))
    base = MemoryBackend()
    world.create(base, OTHER_KEY)

    def survives(backend: MemoryBackend) -> None:
        target = world.open(backend, OTHER_KEY)
        assert check_repository(target, read_data=1).is_whole
        copies = copy_snapshots(source, target, source.snapshots())
        assert len(target.snapshots()) == 1
        assert world.restore(target, next(iter(copies.values()))) == world.files(0)

    def copy(backend: MemoryBackend) -> None:
        copy_snapshots(source, world.open(backend, OTHER_KEY), source.snapshots())

    assert killed_everywhere(base, copy, survives) > 10


def test_a_writer_does_not_count_on_what_another_has_not_listed_yet(world, backend: MemoryBackend) -> None:
    """Two backups of one process: the first dies before its packs are listed, and a prune takes them."""
    repository = world.create(backend)
    content = b"stored by both" * 50

    def fail_beside_another() -> None:
        with (
            repository.writer(pack_bytes=10, uploads=0) as dying,
            repository.writer(pack_bytes=10, uploads=0) as writer,
        ):
            dying.add(BlobKind.DATA, content)
            blob = writer.add(BlobKind.DATA, content).id
            root = writer.add_tree([Child(BlobKind.DATA, blob)], None).id
            writer.save_snapshot({}, [root])
            raise OSError("the first backup fails")

    with pytest.raises(OSError):
        fail_beside_another()
    prune(repository)
    assert check_repository(world.open(backend), read_data=True).is_whole
