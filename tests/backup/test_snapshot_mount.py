"""What a mounted snapshot promises: only records come over, and content is exact or an error."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from pillarbox.backup.database_snapshot import read_stored_database, read_stored_segment
from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.index import Location
from pillarbox.backup.repository.pack import BlobKind, Child
from pillarbox.backup.repository.repository import Repository, Snapshot
from pillarbox.backup.restore import restorable_databases, restore_records
from pillarbox.backup.snapshot_mount import RecoveryDatabase, RepositoryFrames, open_snapshot_mount
from pillarbox.store.access import Actor
from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.stream import Codec, FrameKind, build_frame
from pillarbox.store.disk.tables import IDENTITY_KEY, DatabaseKind, DictionaryRecord, Table
from pillarbox.store.engine import content_store
from pillarbox.store.errors import (
    AccessDenied,
    Corrupt,
    Dismounted,
    NotFound,
    PeerUnreachable,
    UnsupportedVersion,
)
from pillarbox.store.mail import folders, mailboxes, messages

ADMIN = Actor.administrator("root")


class Mounting:
    """Snapshots of Store 1 mounted beside it."""

    def __init__(self, group, directory: Path) -> None:
        self.group = group
        self.directory = directory
        self.opened: list[RecoveryDatabase] = []

    def mount(self, snapshot: Snapshot, place: str = "mount", **options: int) -> RecoveryDatabase:
        found = restorable_databases(snapshot, ["Store 1"])[0]
        restore_records(self.group.repository, found, self.directory / place)
        return self.open(snapshot, place, **options)

    def open(self, snapshot: Snapshot, place: str = "mount", **options: int) -> RecoveryDatabase:
        found = restorable_databases(snapshot, ["Store 1"])[0]
        self.opened.append(
            open_snapshot_mount(self.group.repository, found, self.directory / place, **options)
        )
        return self.opened[-1]

    def chunks(self, snapshot: Snapshot) -> list[Location]:
        """Where in the repository's packs the content of Store 1 lies, in its order."""
        repository: Repository = self.group.repository
        root = restorable_databases(snapshot, ["Store 1"])[0].root
        segments = read_stored_database(repository, root).segments
        return [
            repository.index.find(blob_id)[0]
            for each in segments
            for blob_id in read_stored_segment(repository, *each).chunks
        ]


@pytest.fixture
def mounting(group, tmp_path_factory) -> Iterator[Mounting]:
    made = Mounting(group, tmp_path_factory.mktemp("mounts"))
    yield made
    for each in made.opened:
        each.close()


def inbox(database: RecoveryDatabase) -> list[bytes]:
    with database.read(ADMIN) as read:
        found = mailboxes.find(read, "anna").roles["inbox"]
        return [messages.content(read, item) for item in folders.messages(read, found)]


def large_message(seed: int, size: int = 1_500_000) -> bytes:
    """A message with an attachment that takes several chunks."""
    attached = base64.encodebytes(Random(seed).randbytes(size))
    return b"Subject: large\r\nContent-Transfer-Encoding: base64\r\n\r\n" + attached.replace(b"\n", b"\r\n")


def test_every_message_comes_through_the_mount_byte_for_byte(group, mounting):
    raws = [*group.corpus(), large_message(1), large_message(2, 3_000_000)]
    group.deliver(group.databases[0], raws)
    database = mounting.mount(group.snapshot())
    assert inbox(database) == raws
    assert (database.name, database.guid, database.kind) == (
        "Store 1",
        group.databases[0].guid,
        DatabaseKind.MAILBOX_STORE,
    )


def test_the_moment_of_the_snapshot_is_shown_whatever_came_later(group, mounting):
    corpus = group.corpus()
    held = []
    for count in (3, 7, 12):  # the later two are the image of the first, and redo
        group.deliver(group.databases[0], corpus[len(held[-1][1]) if held else 0 : count])
        held.append((group.snapshot(), corpus[:count]))
    group.deliver(group.databases[0], corpus[12:])
    for number, (snapshot, expected) in enumerate(held):
        assert inbox(mounting.mount(snapshot, f"mount{number}")) == expected


def test_mounting_and_listing_a_folder_fetches_records_and_no_content(group, mounting, backend, monkeypatch):
    group.deliver(group.databases[0], [*group.corpus(), large_message(1)])
    snapshot = group.snapshot()
    content = mounting.chunks(snapshot)
    get, ranges = backend.get, []

    def counted(kind: FileKind, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = get(kind, name, offset, length)
        ranges.append((name, offset, offset + len(data)))
        return data

    monkeypatch.setattr(backend, "get", counted)
    database = mounting.mount(snapshot)
    with database.read(ADMIN) as read:
        found = list(folders.messages(read, mailboxes.find(read, "anna").roles["inbox"]))
    assert len(found) == len(group.corpus()) + 1
    for location in content:
        start, end = location.record.offset, location.record.offset + location.record.length
        assert not any(
            name == location.pack.name and first < end and start < last for name, first, last in ranges
        )
    stored = read_stored_database(group.repository, restorable_databases(snapshot, ["Store 1"])[0].root)
    assert sum(last - first for _, first, last in ranges) < stored.image_bytes + stored.redo_bytes + 20_000


def test_a_chunk_is_fetched_once_however_many_messages_lie_in_it(group, mounting, backend, monkeypatch):
    raws = [*group.corpus(), large_message(1)]
    group.deliver(group.databases[0], raws)
    snapshot = group.snapshot()
    database = mounting.mount(snapshot)
    get, starts = backend.get, []

    def counted(kind: FileKind, name: str, offset: int = 0, length: int | None = None) -> bytes:
        starts.append((name, offset))
        return get(kind, name, offset, length)

    monkeypatch.setattr(backend, "get", counted)
    assert inbox(database) == raws
    assert inbox(database) == raws
    assert len(set(starts)) == len(starts)


def test_several_threads_read_at_once_and_fetch_each_chunk_once(group, mounting):
    raws = [*group.corpus(), *(large_message(seed, 300_000) for seed in range(4))]
    group.deliver(group.databases[0], raws)
    snapshot = group.snapshot()
    database = mounting.mount(snapshot)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: inbox(database), range(4)))
    assert found == [raws] * 4
    with database.read(ADMIN) as read:
        assert read.files.frames.fetched_chunks <= len(mounting.chunks(snapshot))


def test_few_chunks_are_kept_in_memory_and_what_is_read_stays_right(group, mounting):
    raws = [*group.corpus(), large_message(1), large_message(2)]
    group.deliver(group.databases[0], raws)
    database = mounting.mount(group.snapshot(), chunks_kept=2)
    assert inbox(database) == raws
    with database.read(ADMIN) as read:
        frames = read.files.frames
    assert isinstance(frames, RepositoryFrames)
    assert frames.chunks_in_memory <= 2


def test_content_packed_with_a_dictionary_comes_through_the_mount(group, mounting):
    """The dictionary lies in the stream; it too is fetched when a message needs it, and not before."""
    database = group.databases[0]
    data = b"".join(group.corpus())[:20_000]
    frame = build_frame(FrameKind.DICTIONARY, Codec.PLAIN, 0, len(data), digest_of(data), data)
    with database.transaction(ADMIN) as txn:
        place = txn.append_frame(frame)
        record = DictionaryRecord(place.segment, place.offset, len(frame))
        txn.insert(Table.DICTIONARY, (1).to_bytes(4, "big"), record)
    database.files.dictionaries.add(1, data)
    group.deliver(database, group.corpus())
    mounted = mounting.mount(group.snapshot())
    with mounted.read(ADMIN) as read:
        assert read.files.frames.fetched_chunks == 0
        found = folders.messages(read, mailboxes.find(read, "anna").roles["inbox"])
        places = [content_store.content_record(read, item.digest) for item in found]
        frames = [read.files.frames.read(each.segment, each.offset, each.length) for each in places]
    assert {each.dictionary for each in frames} == {1}
    assert inbox(mounted) == group.corpus()


def test_damaged_content_is_an_error_that_names_its_place_and_other_messages_go_on(group, mounting, backend):
    raws = [large_message(seed, 400_000) for seed in range(6)]
    group.deliver(group.databases[0], raws)
    snapshot = group.snapshot()
    damaged = mounting.chunks(snapshot)[1]
    key = (FileKind.PACK, damaged.pack.name)
    whole = bytearray(backend.files[key])
    whole[damaged.record.offset + 20] ^= 1
    backend.files[key] = bytes(whole)
    database = mounting.mount(snapshot)
    found = []
    with database.read(ADMIN) as read:
        for item in folders.messages(read, mailboxes.find(read, "anna").roles["inbox"]):
            try:
                found.append(messages.content(read, item))
            except Corrupt as error:
                assert error.file == "Store 1/00000001.stm"
                assert 0 <= error.offset < 600_000
                found.append(b"")
    assert b"" in found
    assert [raw for raw in found if raw] == [raw for raw, got in zip(raws, found, strict=True) if got]
    assert len([raw for raw in found if raw]) >= 3


def test_content_whose_pack_is_gone_is_damage_and_not_an_empty_message(group, mounting, backend):
    group.deliver(group.databases[0], group.corpus())
    snapshot = group.snapshot()
    database = mounting.mount(snapshot)
    for location in mounting.chunks(snapshot):
        backend.files.pop((FileKind.PACK, location.pack.name), None)
    with pytest.raises(Corrupt, match=r"Store 1/00000001\.stm at \d+: .*missing"):
        inbox(database)


def test_a_repository_that_does_not_answer_is_no_damage(group, mounting, backend):
    group.deliver(group.databases[0], group.corpus())
    database = mounting.mount(group.snapshot())

    def silent(*_: object) -> None:
        raise PeerUnreachable("the network is down")

    backend.before = silent
    with pytest.raises(PeerUnreachable):
        inbox(database)
    backend.before = lambda *_: None
    assert inbox(database) == group.corpus()


@pytest.mark.parametrize(
    ("segment", "offset", "length"),
    [(9, 40, 100), (1, -5, 100), (1, 1 << 62, 100), (1, 40, 1 << 40), (1, 40, 0), (1, 41, 100)],
    ids=["no segment", "before it", "behind it", "too long", "nothing", "between frames"],
)
def test_a_place_where_no_frame_can_be_is_damage(group, mounting, segment, offset, length):
    """Tables made by an enemy say where content lies."""
    group.deliver(group.databases[0], group.corpus())
    with mounting.mount(group.snapshot()).read(ADMIN) as read, pytest.raises(Corrupt):
        read.files.frames.read(segment, offset, length)


def test_who_is_no_administrator_or_task_reads_nothing(group, mounting):
    database = mounting.mount(group.snapshot())
    for actor in (Actor.user("anna"), Actor.transport()):
        with pytest.raises(AccessDenied, match="recovery storage group"):
            database.read(actor)


def test_every_mailbox_is_disconnected(group, mounting):
    assert not disconnected(group.databases[0])
    assert disconnected(mounting.mount(group.snapshot()))


def disconnected(database) -> bool:
    with database.read(ADMIN) as read:
        box = mailboxes.find(read, "anna")
        assert [box] == [record for _, record in read.records(Table.MAILBOX, b"", None)]
        return box.state == mailboxes.DISCONNECTED


def test_after_closing_nothing_is_read_and_it_opens_again_without_its_records_coming_again(
    group, mounting, backend
):
    group.deliver(group.databases[0], group.corpus())
    snapshot = group.snapshot()
    database = mounting.mount(snapshot)
    database.close()
    database.close()
    assert not database.is_open
    with pytest.raises(Dismounted):
        database.read(ADMIN)
    for location in image_locations(group.repository, snapshot):
        backend.files.pop((FileKind.PACK, location.pack.name), None)
    again = mounting.open(snapshot)
    with again.read(ADMIN) as read:
        assert mailboxes.find(read, "anna").messages_count == len(group.corpus())


def image_locations(repository: Repository, snapshot: Snapshot) -> list[Location]:
    stored = read_stored_database(repository, restorable_databases(snapshot, ["Store 1"])[0].root)
    children = repository.read_tree(stored.image).children
    return [repository.index.find(child.blob_id)[0] for child in children]


def test_records_that_are_not_there_or_another_database_s_are_refused(group, mounting):
    snapshot = group.snapshot()
    with pytest.raises(NotFound, match="records of database Store 1"):
        mounting.open(snapshot)
    other = restorable_databases(snapshot, ["Store 2"])[0]
    restore_records(group.repository, other, mounting.directory / "mount")
    with pytest.raises(Corrupt, match="not those of"):
        mounting.open(snapshot)


def test_tables_of_a_version_that_is_not_known_are_refused(group, mounting):
    """Whatever the manifest says of them."""
    with group.databases[0].transaction(ADMIN) as txn:
        identity = txn.record(Table.META, IDENTITY_KEY)
        txn.put(Table.META, IDENTITY_KEY, identity._replace(layout_version=99))
    with pytest.raises(UnsupportedVersion, match="99"):
        mounting.mount(group.snapshot())


def test_chunks_that_are_not_as_long_as_they_must_be_are_damage(group):
    group.deliver(group.databases[0], group.corpus())
    root = restorable_databases(group.snapshot(), ["Store 1"])[0].root
    stored = read_stored_database(group.repository, root)
    with group.repository.writer() as writer:
        short = writer.add(BlobKind.DATA, b"short").id
        tree = writer.add_tree([Child(BlobKind.DATA, short)], [1, 1000]).id
        writer.save_snapshot({}, [tree])
    frames = RepositoryFrames(group.repository, replace(stored, segments=((1, tree),)), "Store 1")
    with pytest.raises(Corrupt, match="a chunk has 5 bytes, not 1000"):
        frames.read(1, 40, 100)


def test_damaged_records_are_never_mounted_silently(group, mounting, backend):
    group.deliver(group.databases[0], group.corpus())
    snapshot = group.snapshot()
    location = image_locations(group.repository, snapshot)[0]
    key = (FileKind.PACK, location.pack.name)
    whole = bytearray(backend.files[key])
    whole[location.record.offset + location.record.length // 2] ^= 1
    backend.files[key] = bytes(whole)
    with pytest.raises(Corrupt):
        mounting.mount(snapshot)
