"""A small world for the repository's tests: fixed time and randomness, snapshots of a few named files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

import pytest

from pillarbox.backup.repository.backend import Backend, FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.crypto import Credential, KeyFile
from pillarbox.backup.repository.lock import Holder, LockContext
from pillarbox.backup.repository.pack import BlobKind, Child
from pillarbox.backup.repository.repository import Repository, Snapshot, Writer
from pillarbox.backup.restore import restore_to_directory
from pillarbox.backup.snapshot import GroupSnapshot, SnapshotSource
from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.files.mbox import read_mbox
from pillarbox.store.mail import folders, mailboxes, messages

KEY = KeyFile(bytes(range(32)))
PIECE_BYTES = 300


class Killed(BaseException):
    """The process is gone: not an error that anything may catch."""


class World:
    """Repositories of one machine, on which only process `alive_pid` lives."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.random = Random(1)
        self.alive_pid = 1

    def context(self) -> LockContext:
        holder = Holder("host", "boot", self.alive_pid)
        return LockContext(self.clock, self.random.randbytes, holder, lambda pid: pid == self.alive_pid)

    def create(self, backend: Backend, credential: Credential = KEY, **options: object) -> Repository:
        return Repository.create(
            backend,
            credential,
            clock=self.clock,
            entropy=self.random.randbytes,
            context=self.context(),
            **options,  # type: ignore[arg-type]
        )

    def open(self, backend: Backend, credential: Credential = KEY) -> Repository:
        return Repository.open(
            backend, credential, clock=self.clock, entropy=self.random.randbytes, context=self.context()
        )

    def save(self, repository: Repository, files: Mapping[str, bytes]) -> str:
        """Save a snapshot of named files, cut into small pieces, one tree a file below a root tree."""
        self.clock.advance_ms(1000)
        with repository.writer(pack_bytes=1500, uploads=0) as writer:
            return self.save_with(writer, files)

    def save_with(self, writer: Writer, files: Mapping[str, bytes]) -> str:
        trees = []
        for content in files.values():
            pieces = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]
            children = [Child(BlobKind.DATA, writer.add(BlobKind.DATA, piece).id) for piece in pieces]
            trees.append(Child(BlobKind.TREE, writer.add_tree(children, len(content)).id))
        root = writer.add_tree(trees, list(files)).id
        return writer.save_snapshot({"files": len(files)}, [root])

    def restore(self, repository: Repository, snapshot_id: str) -> dict[str, bytes]:
        root = repository.read_tree(repository.snapshot(snapshot_id).roots[0])
        files = {}
        for name, child in zip(root.meta, root.children, strict=True):
            tree = repository.read_tree(child.blob_id)
            files[name] = b"".join(repository.read(piece.blob_id) for piece in tree.children)
            assert len(files[name]) == tree.meta
        return files

    def files(self, seed: int, count: int = 4) -> dict[str, bytes]:
        """Some files; neighbouring seeds have most of them in common."""
        return {
            f"file {number}": Random(number).randbytes(PIECE_BYTES * 2 + number)
            for number in range(seed, seed + count)
        }


# --- a storage group ---------------------------------------------------------------------------------------

ACTOR = Actor.task("test")
DATA = Path(__file__).parents[1] / "data"


def corpus() -> list[bytes]:
    """Every message of tests/data."""
    spam = [path.read_bytes() for path in sorted((DATA / "spam").glob("*.eml"))]
    return [item.raw for item in read_mbox(DATA / "lists.mbox")] + spam


def make_database(path: Path, number: int, clock: VirtualClock, **options: object) -> Database:
    """A mounted mailbox store with one mailbox, "anna"."""
    database = Database(
        path,
        bytes([number]) * 16,
        f"Store {number}",
        DatabaseKind.MAILBOX_STORE,
        clock=clock,
        rng=Random(number),
        **options,  # type: ignore[arg-type]
    )
    database.create()
    database.mount()
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
    return database


def deliver(database: Database, raws: list[bytes]) -> None:
    """Put messages into anna's Inbox, one transaction each."""
    for raw in raws:
        prepared = messages.prepare(database.files, raw)
        with database.transaction(ACTOR) as txn:
            messages.append(txn, mailboxes.find(txn, "anna").roles["inbox"], prepared)


def contents(database: Database) -> list[bytes]:
    """The messages in anna's Inbox, in the order of their arrival."""
    with database.read(ACTOR) as read:
        inbox = mailboxes.find(read, "anna").roles["inbox"]
        return [messages.content(read, item) for item in folders.messages(read, inbox)]


def open_restored(path: Path, number: int, clock: VirtualClock) -> Database:
    """A restored database, mounted."""
    kind = DatabaseKind.MAILBOX_STORE
    database = Database(path, bytes([number]) * 16, f"Store {number}", kind, clock=clock)
    database.mount()
    return database


class Group:
    """A storage group with a repository, and what tests do with its databases."""

    corpus = staticmethod(corpus)
    make_database = staticmethod(make_database)
    deliver = staticmethod(deliver)
    contents = staticmethod(contents)
    open_restored = staticmethod(open_restored)

    def __init__(self, directory: Path, repository: Repository, clock: VirtualClock, count: int) -> None:
        self.directory = directory
        self.repository = repository
        self.clock = clock
        tuning = Tuning(segment_bytes=600_000)
        self.databases = [
            make_database(directory / f"db{number}", number, clock, tuning=tuning)
            for number in range(1, count + 1)
        ]

    def snapshot(self, **options: object) -> Snapshot:
        self.clock.advance_ms(1000)
        source = SnapshotSource("server", "First", self.databases)
        return GroupSnapshot(source, self.repository, clock=self.clock, **options).run()  # type: ignore[arg-type]

    def restored(self, snapshot: Snapshot, place: str) -> list[list[bytes]]:
        """What the databases hold, restored from a snapshot."""
        found = []
        restored = restore_to_directory(self.repository, snapshot, self.directory / place, clock=self.clock)
        for each in restored:
            database = open_restored(each.path, each.guid[0], self.clock)
            found.append(contents(database))
            database.dismount()
        return found

    def close(self) -> None:
        for database in self.databases:
            database.dismount()


def kill_at_write(backend: MemoryBackend, number: int, *, done: bool) -> None:
    """Let the process die at the `number`-th write or delete from now: before it happens, or right after.

    The dead do nothing more, so every later call dies too.
    """
    writes = 0

    def count(operation: str, kind: FileKind, name: str) -> None:
        nonlocal writes
        if writes >= number:
            raise Killed
        if operation in ("put", "delete"):
            writes += 1
            if writes == number:
                raise Killed

    def dead(operation: str, kind: FileKind, name: str) -> None:
        if writes >= number:
            raise Killed

    if done:
        backend.after, backend.before = count, dead
    else:
        backend.before = count


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def new_world() -> type[World]:
    """For properties, each example of which needs a world of its own."""
    return World


@pytest.fixture
def killed_everywhere(world: World) -> Callable[..., int]:
    """Run work on copies of `base`, killed at every write in turn; then `survives` looks at what is left.

    Answers how often it died.
    """

    def run(
        base: MemoryBackend,
        work: Callable[[MemoryBackend], object],
        survives: Callable[[MemoryBackend], object],
    ) -> int:
        deaths = 0
        for done in (False, True):
            for number in range(1, 1000):
                backend = MemoryBackend()
                backend.files = dict(base.files)
                kill_at_write(backend, number, done=done)
                world.alive_pid += 1
                try:
                    work(backend)
                except Killed:
                    deaths += 1
                else:
                    break
                finally:
                    survivor = MemoryBackend()
                    survivor.files = dict(backend.files)
                    world.alive_pid += 1
                survives(survivor)
        return deaths

    return run


@pytest.fixture(scope="session")
def mail_corpus() -> list[bytes]:
    return corpus()


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def group(tmp_path: Path, world: World, backend: MemoryBackend) -> Iterator[Group]:
    made = Group(tmp_path, world.create(backend), world.clock, 2)
    yield made
    made.close()
