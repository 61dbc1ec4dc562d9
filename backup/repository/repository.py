"""A repository: who may open it, its snapshots, and its blobs read and written.

Write order, from which everything else follows: packs, then an index file that lists them, then the snapshot.
A snapshot exists when its file does, so whatever is interrupted leaves only files that nothing refers to.
Nothing is changed in place; only `prune` and `repair_index` remove files, under an exclusive lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgpack
from blake3 import blake3

from pillarbox.backup.repository.backend import Backend, FileKind
from pillarbox.backup.repository.crypto import (
    SEALED_FILE_BYTES_MAX,
    Cipher,
    Config,
    Credential,
    Encryption,
    Entropy,
    KdfCost,
    KeyFile,
    Passphrase,
    Sealer,
    Secrets,
    Unencrypted,
    WrappedKey,
    secure_entropy,
    wrap,
)
from pillarbox.backup.repository.damage import damaged_file
from pillarbox.backup.repository.index import (
    Index,
    Location,
    PackEntry,
    find_absent_packs,
    plan_runs,
    read_index,
    read_index_file,
    write_index,
)
from pillarbox.backup.repository.lock import LockContext, RepositoryLock, hold_lock, this_process
from pillarbox.backup.repository.pack import (
    BLOB_ID_BYTES,
    COMPRESSION_LEVEL,
    PACK_BYTES,
    PACK_LETTER,
    BlobId,
    BlobKind,
    BlobNaming,
    Child,
    PackBuilder,
    PackFile,
    Tree,
    blob_ids_of,
    compress,
    decode_tree,
    encode_tree,
    open_blob,
    pack_value,
    unpack_value,
)
from pillarbox.backup.repository.reports import (
    DamagedCopy,
    Report,
    keep_report,
    known_damage,
    read_reports,
)
from pillarbox.backup.repository.sealed_files import read_sealed_file
from pillarbox.store.clock import Clock
from pillarbox.store.errors import (
    AlreadyExists,
    Corrupt,
    InvalidName,
    NotFound,
    OverLimit,
    PillarboxError,
    Refused,
    RepositoryLocked,
    WrongKey,
)

CONFIG_NAME: Final = "config"
KEYS_MAX: Final = 32
LATEST: Final = "latest"
_PROOF_OF_REPOSITORY: Final = (FileKind.CONFIG, FileKind.PACK, FileKind.SNAPSHOT, FileKind.MADE)
_SNAPSHOT_LETTER: Final = b"S"
_KEY_BYTES_MAX: Final = 4096
_TIME_MS_MAX: Final = 253_402_214_400_000  # the last day of the year 9999: later times have no date
_PACKS_PER_INDEX_FILE: Final = 16
_CIPHERS_KEPT: Final = 64


class SnapshotKind(StrEnum):
    """The part of a backup among others (DOMAIN.md "Backup"). Each restores by itself, of any kind."""

    FULL = "full"
    COPY = "copy"
    INCREMENTAL = "incremental"
    DIFFERENTIAL = "differential"
    CAPTURE = "capture"
    """Ours: one of many short moments between backups (capture.py); it follows whatever there is."""


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: when it was taken, the trees it keeps, and what the program that made it says of it.

    `manifest` must not hold blob ids but speak of roots by their place; `origin` names the snapshot that this
    one is a copy of, as `<repository id>/<snapshot id>`.
    """

    id: str
    time_ms: int
    roots: tuple[BlobId, ...]
    manifest: Mapping[str, Any]
    origin: str = ""


class Added(NamedTuple):
    """A blob given to a writer, and whether the repository did not have it."""

    id: BlobId
    is_new: bool


class Repository:
    """An open repository. Reading takes no lock and may go on during any other work, from several threads.

    `damaged` are the copies of blobs that reports name, or that were read and found damaged.
    """

    def __init__(self, backend: Backend, sealer: Sealer, context: LockContext, key_name: str) -> None:
        self.backend = backend
        self.sealer = sealer
        self.naming = BlobNaming(sealer.master.ids)
        self.clock = context.clock
        self.entropy = context.entropy
        self.damaged: set[DamagedCopy] = set()
        self._context = context
        self._key_name = key_name
        self._index: Index | None = None
        self._index_names: set[str] = set()
        self._snapshots: dict[str, Snapshot] = {}
        self._damaged: dict[str, Corrupt] = {}
        self._cipher_of = lru_cache(_CIPHERS_KEPT)(self._make_cipher)

    @classmethod
    def create(
        cls,
        backend: Backend,
        credential: Credential,
        *,
        clock: Clock,
        entropy: Entropy = secure_entropy,
        kdf_cost: KdfCost | None = None,
        share_ids_with: Repository | None = None,
        context: LockContext | None = None,
    ) -> Repository:
        """Make a repository in an empty place and open it.

        With `share_ids_with` the blobs get the same ids as in that repository, so that copies between the two
        need not read what the target has; who holds both then sees what they have in common.
        Raises: AlreadyExists.
        """
        if any(True for kind in _PROOF_OF_REPOSITORY for _ in backend.list(kind)):
            raise AlreadyExists(
                "there is a repository already", hint="use it, or name another place for the new one"
            )
        unencrypted = isinstance(credential, Unencrypted)
        config = Config(entropy(16), Encryption.NONE if unencrypted else Encryption.AES_256_GCM)
        master = Secrets.public(config.repository_id) if unencrypted else Secrets.generate(entropy)
        if share_ids_with:
            if unencrypted:
                raise Refused("ids of an unencrypted repository are public and cannot be shared")
            master = Secrets(master.files, share_ids_with.sealer.master.ids)
        context = context or LockContext(clock, entropy, this_process())
        repository = cls(backend, Sealer(config, master, entropy), context, "")
        # The config comes last: until it is there, there is no repository.
        if not isinstance(credential, Unencrypted):
            repository._key_name = repository.add_key(credential, kdf_cost=kdf_cost)
        backend.put(FileKind.CONFIG, CONFIG_NAME, config.encode(), must_not_exist=True)
        return repository

    @classmethod
    def open(
        cls,
        backend: Backend,
        credential: Credential,
        *,
        clock: Clock,
        entropy: Entropy = secure_entropy,
        context: LockContext | None = None,
    ) -> Repository:
        """Open a repository.

        Raises: NotFound when there is none, WrongKey, Corrupt, UnsupportedVersion.
        """
        try:
            config = Config.decode(backend.get(FileKind.CONFIG, CONFIG_NAME))
        except NotFound as error:
            raise NotFound("there is no repository", hint="make one with `pillarbox backup init`") from error
        context = context or LockContext(clock, entropy, this_process())
        # What is asked must be what is there: else a forged config could make us write in the clear.
        if isinstance(credential, Unencrypted) is not (config.encryption is Encryption.NONE):
            if config.encryption is Encryption.NONE:
                raise WrongKey(
                    "the repository is not encrypted, and a passphrase or key file was given",
                    hint="if it is the one meant, leave out the key and unset PILLARBOX_PASSPHRASE",
                )
            raise WrongKey("the repository is encrypted", hint="give its passphrase or key file")
        if isinstance(credential, Unencrypted):
            master, key_name = Secrets.public(config.repository_id), ""
        else:
            master, key_name = _unwrap_any(backend, config, credential)
        return cls(backend, Sealer(config, master, entropy), context, key_name)

    @property
    def id(self) -> str:
        """The repository's id, in hexadecimal."""
        return self.sealer.config.repository_id.hex()

    # --- keys -----------------------------------------------------------------------------------------------

    def keys(self) -> dict[str, WrappedKey]:
        """All ways to open this repository, by name. Raises: Corrupt when one is damaged."""
        return {name: read_key(self.backend, name) for name in _key_names(self.backend)}

    def add_key(
        self, credential: Passphrase | KeyFile, *, label: str = "", kdf_cost: KdfCost | None = None
    ) -> str:
        """Let `credential` open this repository too; the new key's name. Raises: Refused when unencrypted."""
        config = self.sealer.config
        if config.encryption is Encryption.NONE:
            raise Refused("an unencrypted repository has no keys")
        if len(_key_names(self.backend)) >= KEYS_MAX:
            raise OverLimit(f"a repository has at most {KEYS_MAX} keys")
        key = wrap(
            config,
            self.sealer.master,
            credential,
            cost=kdf_cost or KdfCost(),
            label=label,
            created_ms=self.clock.now_ms(),
            entropy=self.entropy,
        )
        data = key.encode()
        name: str = blake3(data).hexdigest()
        self.backend.put(FileKind.KEY, name, data)
        return name

    def remove_key(self, name: str) -> None:
        """Let a key open this repository no more. Raises: NotFound, Refused for the last one.

        Who copied the key's file before can still open what they copied: the master secret stays the same.
        """
        names = _key_names(self.backend)
        if name not in names:
            raise NotFound(f"the repository has no key {name}")
        if len(names) == 1:
            raise Refused("this is the last key: without it nobody could open the repository")
        self.backend.delete(FileKind.KEY, name)

    def change_key(self, credential: Passphrase | KeyFile, *, kdf_cost: KdfCost | None = None) -> str:
        """Put `credential` in the place of the one this repository was opened with; the new key's name."""
        old, self._key_name = self._key_name, self.add_key(credential, kdf_cost=kdf_cost)
        self.remove_key(old)
        return self._key_name

    # --- blobs ----------------------------------------------------------------------------------------------

    @property
    def index(self) -> Index:
        """Where every blob lies, read at the first use."""
        return self.reload_index() if self._index is None else self._index

    def reload_index(self) -> Index:
        """Read what others wrote since; all of it again when index files went, as in a prune."""
        listed = {info.name for info in self.backend.list(FileKind.INDEX)}
        if self._index is not None and self._index_names <= listed:
            with suppress(NotFound):  # gone since it was listed
                for name in sorted(listed - self._index_names):
                    for pack, records in read_index_file(self.backend, self.sealer, name):
                        self._index.add_pack(pack, records)
                    self._index_names.add(name)
                return self._index
        self._index, names = read_index(self.backend, self.sealer)
        self._index_names = set(names)
        return self._index

    def list_packs(self, packs: Sequence[tuple[PackEntry, bytes]]) -> None:
        """Make stored packs part of the repository: in an index file, and only then in the index."""
        index = self.index
        self._index_names.update(write_index(self.backend, self.sealer, packs))
        for pack, records in packs:
            index.add_pack(pack, records)

    def read(self, blob_id: BlobId) -> bytes:
        """The content of a blob, proven to be what the id names.

        Raises: NotFound when the repository has no such blob, Corrupt when no copy of it is whole.
        """
        try:
            return self._read_any(blob_id)
        except NotFound:  # a prune since the index was read may have moved it
            self.reload_index()
        try:
            return self._read_any(blob_id)
        except NotFound as error:
            locations = self.index.find(blob_id)
            if not locations:
                raise
            file = locations[0].pack.file
            raise damaged_file(f"{file} is missing; it holds blob {blob_id.hex()}", file=file) from error

    def read_tree(self, blob_id: BlobId) -> Tree:
        """The tree of that id. Raises as `read` does, and InvalidContent."""
        return decode_tree(self.read(blob_id))

    def read_many(self, blob_ids: Iterable[BlobId]) -> Iterator[tuple[BlobId, bytes]]:
        """The blobs, each once, in the order in which they lie: neighbours come in one request.

        Holds 8 MiB at a time. Raises as `read` does.
        """
        for run in plan_runs(self.index, blob_ids):
            first, last = run[0].record, run[-1].record
            pack = run[0].pack
            length = last.offset + last.length - first.offset
            try:
                data = self.backend.get(FileKind.PACK, pack.name, first.offset, length)
            except (NotFound, Corrupt):
                data = b""  # one by one, below: there may be other copies, or a newer index
            for location in run:
                record = location.record
                at = record.offset - first.offset
                yield record.blob_id, self._open_or_read(location, data[at : at + record.length])

    def _open_or_read(self, location: Location, sealed: bytes) -> bytes:
        try:
            return self.open_at(location, sealed)
        except Corrupt:
            return self.read(location.record.blob_id)

    def open_at(self, location: Location, sealed: bytes) -> bytes:
        """The content of a blob from its sealed bytes. Raises: Corrupt."""
        return self.open_whole_at(location, sealed)[1]

    def open_whole_at(self, location: Location, sealed: bytes) -> tuple[bytes, bytes]:
        """The stored form of a blob, and its content, from its sealed bytes. Raises: Corrupt."""
        pack = location.pack
        return open_blob(self._cipher_of(pack), self.naming, location.record, sealed, pack.file)

    def _read_any(self, blob_id: BlobId) -> bytes:
        """From the first copy that is whole. Raises: Corrupt, NotFound when a copy or all are not there."""
        failure: PillarboxError = NotFound(f"the repository has no blob {blob_id.hex()}")
        for location in self.index.find(blob_id):
            record = location.record
            try:
                sealed = self.backend.get(FileKind.PACK, location.pack.name, record.offset, record.length)
            except (NotFound, Corrupt) as error:
                failure = error
                continue
            try:
                return self.open_at(location, sealed)
            except Corrupt as error:
                failure = error
                self.damaged.add((location.pack.name, record.offset))
        raise failure

    def is_known_damaged(self, location: Location) -> bool:
        """True when a copy of a blob was found damaged, here or as a report says."""
        return (location.pack.name, location.record.offset) in self.damaged

    def _make_cipher(self, pack: PackEntry) -> Cipher:
        return self.sealer.cipher(pack.header, PACK_LETTER, pack.file)

    # --- snapshots ------------------------------------------------------------------------------------------

    def snapshot_ids(self) -> list[str]:
        """The ids of all snapshots, damaged ones too."""
        return sorted(info.name for info in self.backend.list(FileKind.SNAPSHOT))

    def snapshots(self) -> list[Snapshot]:
        """All snapshots that can be read, oldest first; `unreadable_snapshots` has the others.

        Each is read once, since they never change; what is damaged later the next program finds.
        """
        found: dict[str, Snapshot] = {}
        damaged: dict[str, Corrupt] = {}
        for name in self.snapshot_ids():
            try:
                found[name] = self._snapshots.get(name) or self._read_snapshot(name)
            except NotFound:  # forgotten since the listing
                continue
            except Corrupt as error:
                damaged[name] = error
        self._snapshots, self._damaged = found, damaged
        return sorted(found.values(), key=lambda each: (each.time_ms, each.id))

    def unreadable_snapshots(self) -> dict[str, Corrupt]:
        """Why the snapshots that were made and not forgotten cannot be read, by id: damaged, or lost."""
        self.snapshots()
        lost = {
            name: damaged_file(f"snapshots/{name} is missing and was not forgotten", f"snapshots/{name}")
            for name in self.lost_snapshot_ids()
        }
        return {**self._damaged, **lost}

    def refuse_unclear_newest(self) -> None:
        """Raises Refused while a snapshot that cannot be read may be the newest.

        It is not when another names it under `previous` in its manifest, as the one before it.
        """
        found = self.snapshots()
        followed = {snapshot.manifest.get("previous") for snapshot in found}
        for name, error in self.unreadable_snapshots().items():
            if name not in followed:
                before = f": {found[-1].id[:12]} may be the one before it" if found else ""
                raise Refused(
                    f"snapshot {name[:12]} cannot be read, and may be the newest: {error}",
                    hint=f"name the one that is meant by its id{before}; `backup forget` accepts the loss",
                )

    def snapshot(self, name: str) -> Snapshot:
        """The snapshot of that id, of an id that begins so, or `latest`.

        Raises: NotFound, Corrupt, InvalidName when several ids begin so, Refused when it is not clear which
        one is the newest.
        """
        if name == LATEST:
            self.refuse_unclear_newest()
            newest = self.snapshots()[-1:]
            if not newest:
                raise NotFound(
                    "the repository has no snapshots", hint="take one with `pillarbox backup create`"
                )
            return newest[0]
        return self._read_snapshot(self.snapshot_id(name))

    def snapshot_id(self, name: str) -> str:
        """The whole id that begins so, of a snapshot that is there, damaged or not, or of a lost one.

        Raises: NotFound, InvalidName when several ids begin so.
        """
        ids = {*self.snapshot_ids(), *self._made_ids()}
        found = sorted(each for each in ids if name and each.startswith(name.lower()))
        if not found:
            raise NotFound(
                f"the repository has no snapshot {name!r}",
                hint="see which it has with `pillarbox backup list --captures`",
            )
        if len(found) > 1:
            raise InvalidName(f"{len(found)} snapshots begin with {name!r}", hint="write more of the id")
        return found[0]

    def forget(self, snapshot_ids: Iterable[str]) -> None:
        """Remove snapshots by their full ids, lost ones too. Their blobs stay until `prune`."""
        for snapshot_id in snapshot_ids:
            # The mark first: alone it says that the snapshot is lost. And again: others may have put it back.
            self.backend.delete(FileKind.MADE, snapshot_id)
            self.backend.delete(FileKind.SNAPSHOT, snapshot_id)
            self.backend.delete(FileKind.MADE, snapshot_id)

    def lost_snapshot_ids(self) -> list[str]:
        """The ids of snapshots that were made and not forgotten, and whose files are not there."""
        made = self._made_ids()  # before the others: one that is made meanwhile is not lost
        missing = made.difference(self.snapshot_ids())
        return sorted(missing & self._made_ids()) if missing else []  # else forgotten meanwhile

    def mark_unmarked(self, lock: RepositoryLock) -> None:
        """Mark what was made before there were marks, or by a backup that was killed before its last step.

        `lock`, of either kind, is kept alive meanwhile. Raises: RepositoryLocked when it was lost.
        """
        for snapshot_id in sorted(set(self.snapshot_ids()) - self._made_ids()):
            lock.renew_if_due()
            self.mark_made(snapshot_id)

    def mark_made(self, snapshot_id: str) -> None:
        """Mark a snapshot, so that it counts as lost when its file is gone and nobody forgot it.

        Whoever forgets it meanwhile deletes the mark last, and here the snapshot is looked for last: either
        they see the mark or we miss the snapshot.
        """
        self.backend.put(FileKind.MADE, snapshot_id, b"")
        try:
            self.backend.size(FileKind.SNAPSHOT, snapshot_id)
        except NotFound:
            self.backend.delete(FileKind.MADE, snapshot_id)

    def _made_ids(self) -> set[str]:
        return {info.name for info in self.backend.list(FileKind.MADE)}

    def _read_snapshot(self, name: str) -> Snapshot:
        file = f"{FileKind.SNAPSHOT}/{name}"
        try:
            body = read_sealed_file(self.backend, self.sealer, FileKind.SNAPSHOT, name, _SNAPSHOT_LETTER)
            time_ms, roots, origin, manifest = unpack_value(body)
            if type(time_ms) is not int or not 0 <= time_ms <= _TIME_MS_MAX:
                raise ValueError("its time is none")
            if len(roots) % BLOB_ID_BYTES or not isinstance(manifest, dict):
                raise ValueError("its fields are not those of a snapshot")
            starts = range(0, len(roots), BLOB_ID_BYTES)
            root_ids = tuple(BlobId(bytes(roots[at : at + BLOB_ID_BYTES])) for at in starts)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise damaged_file(f"{file}: {error}", file=file) from error
        return Snapshot(name, time_ms, root_ids, manifest, str(origin))

    # --- reports --------------------------------------------------------------------------------------------

    def reports(self) -> list[Report]:
        """The reports of checks and verifications, oldest first; `damaged` then has what they name."""
        found = read_reports(self.backend, self.sealer)
        self.damaged |= known_damage(found)
        return sorted(found.values(), key=lambda report: report.time_ms)

    def keep_report(self, report: Report) -> bool:
        """Keep what a check or a verification found, as `reports.keep_report` does."""
        return keep_report(self.backend, self.sealer, report)

    # --- writing --------------------------------------------------------------------------------------------

    def lock(
        self, *, exclusive: bool, purpose: str, wait_ms: int = 0
    ) -> AbstractContextManager[RepositoryLock]:
        """Hold a lock for a `with` block; wait for it up to `wait_ms`. Raises: RepositoryLocked."""
        return hold_lock(
            self.backend, self.sealer, self._context, exclusive=exclusive, purpose=purpose, wait_ms=wait_ms
        )

    @contextmanager
    def writer(
        self,
        *,
        purpose: str = "backup",
        wait_ms: int = 0,
        pack_bytes: int = PACK_BYTES,
        level: int = COMPRESSION_LEVEL,
        uploads: int = 1,
    ) -> Iterator[Writer]:
        """A writer for a `with` block, under a shared lock. Several may write at once, from any process.

        Holds about `pack_bytes` times (3 + `uploads`) of memory; `uploads` packs are stored in the
        background, with 0 each is stored before `add` returns. Raises: RepositoryLocked while a prune runs.
        """
        with self.lock(exclusive=False, purpose=purpose, wait_ms=wait_ms) as lock:
            self.reload_index()  # under the lock: what it lists cannot be removed any more
            self.reports()
            self.mark_unmarked(lock)
            writer = Writer(self, lock, pack_bytes, level, uploads)
            try:
                yield writer
            finally:
                writer.close()


def _unwrap_any(backend: Backend, config: Config, credential: Passphrase | KeyFile) -> tuple[Secrets, str]:
    """The secrets by the first key that `credential` opens, and its name. Raises: WrongKey, Corrupt."""
    damage: Corrupt | None = None
    for name in _key_names(backend):
        try:
            return read_key(backend, name).unwrap(config, credential), name
        except WrongKey:
            continue
        except Corrupt as error:
            damage = error
    if damage:
        raise damage
    raise WrongKey(
        "no key of the repository opens with this passphrase or key file",
        hint="check the passphrase (PILLARBOX_PASSPHRASE, --passphrase-file) and the repository's address",
    )


def _key_names(backend: Backend) -> list[str]:
    return sorted(info.name for info in backend.list(FileKind.KEY))[:KEYS_MAX]


def read_key(backend: Backend, name: str) -> WrappedKey:
    """A key of the repository. Raises: NotFound, Corrupt, UnsupportedVersion."""
    file = f"{FileKind.KEY}/{name}"
    if backend.size(FileKind.KEY, name) > _KEY_BYTES_MAX:
        raise damaged_file(f"{file} is larger than any key of ours", file=file)
    return WrappedKey.decode(backend.get(FileKind.KEY, name), file)


@dataclass
class WriterCounts:
    """The bytes and blobs that a writer was given and stored."""

    blobs: int = 0
    content_bytes: int = 0
    new_blobs: int = 0
    new_content_bytes: int = 0
    stored_bytes: int = 0


class Writer:
    """Adds blobs and snapshots. Threads may share one. After an error everything further meets the same."""

    def __init__(
        self, repository: Repository, lock: RepositoryLock, pack_bytes: int, level: int, uploads: int
    ) -> None:
        self.counts = WriterCounts()
        self._repository = repository
        self._repository_lock = lock
        self._pack_bytes = pack_bytes
        self._level = level
        self._uploads = uploads
        self._absent = find_absent_packs(repository.backend, repository.index)
        self._builders: dict[BlobKind, PackBuilder] = {}
        self._pending: set[BlobId] = set()
        self._in_flight: deque[tuple[PackEntry, bytes, Future[None]]] = deque()
        self._unlisted: list[tuple[PackEntry, bytes]] = []
        self._executor = ThreadPoolExecutor(max(uploads, 1), thread_name_prefix="pillarbox-upload")
        self._lock = threading.RLock()
        self._failed = False
        self._failure: PillarboxError | None = None

    def add(self, kind: BlobKind, content: bytes, *, compressible: bool = True) -> Added:
        """Store a blob, unless the repository has it; durable once `flush` or `save_snapshot` returns.

        `compressible=False` spares the try on bytes that are compressed already.
        Raises: OverLimit above `BLOB_BYTES_MAX`; RepositoryLocked and what the backend raises.
        """
        blob_id = self._repository.naming.name(kind, content)
        with self._guarded():
            self.counts.blobs += 1
            self.counts.content_bytes += len(content)
            self._repository_lock.renew_if_due()
            if self.has(blob_id):
                return Added(blob_id, False)
        stored = compress(
            content, self._level if compressible else 0
        )  # outside the lock: threads do it at once
        with self._guarded():
            if self.has(blob_id):
                return Added(blob_id, False)
            self._pending.add(blob_id)
            self._append(kind, blob_id, stored, len(content))
        return Added(blob_id, True)

    def add_tree(self, children: Sequence[Child], meta: Any) -> Added:
        """Store a tree. Raises as `add` does, and NotFound when a child is not in the repository."""
        for child in children:
            if not self.has(child.blob_id):
                raise NotFound(
                    f"the tree names blob {child.blob_id.hex()}, which the repository does not have"
                )
        return self.add(BlobKind.TREE, encode_tree(children, meta))

    def has(self, blob_id: BlobId) -> bool:
        """True when a blob is stored or about to be.

        A copy in a pack that is not there or cut does not count, nor one that is known to be damaged.
        """
        with self._lock:
            repository = self._repository
            if blob_id in self._pending:
                return True
            if not self._absent and not repository.damaged:
                return blob_id in repository.index
            return any(
                each.pack.name not in self._absent and not repository.is_known_damaged(each)
                for each in repository.index.find(blob_id)
            )

    def flush(self) -> None:
        """Make everything added so far durable and listed."""
        with self._guarded():
            for kind in list(self._builders):
                self._ship(kind)
            self._settle(0)
            self._write_index()

    def save_snapshot(
        self,
        manifest: Mapping[str, Any],
        roots: Sequence[BlobId],
        *,
        time_ms: int | None = None,
        origin: str = "",
    ) -> str:
        """Save a snapshot of the trees `roots`; its id. When this returns, it and all below it is durable.

        Raises: NotFound when a root is not there; RepositoryLocked when the lock was lost, and then there is
        no snapshot.
        """
        repository = self._repository
        for root in roots:
            if not self.has(root):
                raise NotFound(f"a snapshot names blob {root.hex()}, which is not in the repository")
        self.flush()
        with self._guarded():
            time_ms = repository.clock.now_ms() if time_ms is None else time_ms
            body = pack_value([time_ms, b"".join(roots), origin, dict(manifest)])
            data = repository.sealer.seal(_SNAPSHOT_LETTER, body)
            if len(data) > SEALED_FILE_BYTES_MAX:
                raise OverLimit("the manifest is too large; put the rest in blobs")
            name: str = blake3(data).hexdigest()
            self._repository_lock.renew()
            repository.backend.put(FileKind.SNAPSHOT, name, data)
            try:  # a prune may have begun while the last step hung
                self._repository_lock.renew()
            except RepositoryLocked:
                repository.forget([name])
                raise
            repository.mark_made(name)
            return name

    def close(self) -> None:
        """End the uploads. What is not part of a flush or a snapshot is dropped."""
        self._failed, self._failure = True, None
        self._executor.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time; and after an error nothing more, for what was pending may be lost."""
        with self._lock:
            if self._failure is not None:
                raise type(self._failure)(str(self._failure), hint=self._failure.hint)
            if self._failed:
                raise Refused("the writer has ended; open another")
            try:
                yield
            except BaseException as error:
                self._failed = True
                if isinstance(error, PillarboxError):
                    self._failure = error
                raise

    def _append(self, kind: BlobKind, blob_id: BlobId, stored: bytes, content_bytes: int) -> None:
        builder = self._builders.get(kind)
        if builder is None:
            builder = self._builders[kind] = PackBuilder(self._repository.sealer)
        builder.add(kind, blob_id, stored, content_bytes)
        self.counts.new_blobs += 1
        self.counts.new_content_bytes += content_bytes
        if builder.size_bytes >= self._pack_bytes:
            self._ship(kind)
            self._settle(self._uploads)

    def _ship(self, kind: BlobKind) -> None:
        pack = self._builders.pop(kind).finish()
        self.counts.stored_bytes += len(pack.data)
        entry = PackEntry(pack.name, pack.header, len(pack.data))
        future = self._executor.submit(self._put, pack)
        self._in_flight.append((entry, pack.records, future))

    def _put(self, pack: PackFile) -> None:
        self._repository.backend.put(FileKind.PACK, pack.name, pack.data)

    def _settle(self, in_flight_max: int) -> None:
        """Wait until at most so many packs are on their way; list those that arrived when they are many."""
        while len(self._in_flight) > in_flight_max:
            entry, records, future = self._in_flight.popleft()
            future.result()
            self._unlisted.append((entry, records))
        if len(self._unlisted) >= _PACKS_PER_INDEX_FILE:
            self._write_index()

    def _write_index(self) -> None:
        """List what arrived, so that another run finds it even if this one never ends.

        Until then nobody else may count on it: this run may die, and the next prune takes what is not listed.
        """
        self._repository.list_packs(self._unlisted)
        for _, records in self._unlisted:
            self._pending.difference_update(blob_ids_of(records))
        self._unlisted = []


# --- copies -------------------------------------------------------------------------------------------------


def copy_snapshots(source: Repository, target: Repository, snapshots: Iterable[Snapshot]) -> dict[str, str]:
    """Copy snapshots of one repository to another, each with its own secrets; the new ids by the old ones.

    What was copied before is found by its origin, and not copied again, nor is what came from the target.
    Where the repositories share ids, only data that the target lacks is read. Raises: Corrupt when the source
    is damaged; RepositoryLocked.
    """
    with target.writer(purpose="copy") as writer:
        taken = {each.origin or _origin_of(target, each): each.id for each in target.snapshots()}
        copier = _Copier(source, target, writer)
        copies = {}
        for snapshot in snapshots:
            origin = snapshot.origin or _origin_of(source, snapshot)
            if origin not in taken:
                roots = [copier.copy_tree(root) for root in snapshot.roots]
                taken[origin] = writer.save_snapshot(
                    snapshot.manifest, roots, time_ms=snapshot.time_ms, origin=origin
                )
            copies[snapshot.id] = taken[origin]
        return copies


def _origin_of(repository: Repository, snapshot: Snapshot) -> str:
    """The origin that the copies of a snapshot which was taken into `repository` tell of."""
    return f"{repository.id}/{snapshot.id}"


class _Copier:
    """Copies trees; remembers what became of each blob in 32 bytes a blob of the source."""

    def __init__(self, source: Repository, target: Repository, writer: Writer) -> None:
        self._source = source
        self._writer = writer
        # An index of its own: positions in it must not move while the source reads its index again.
        self._index, _ = read_index(source.backend, source.sealer)
        self._copies = bytearray(BLOB_ID_BYTES * len(self._index))
        self._same_ids = source.sealer.master.ids == target.sealer.master.ids

    def copy_tree(self, root: BlobId) -> BlobId:
        """Copy a tree and all below it, children first; its id in the target."""
        stack: list[tuple[BlobId, Tree | None]] = [(root, None)]
        while stack:
            tree_id, tree = stack.pop()
            if self._copy_of(tree_id):
                continue
            if tree is None:
                tree = self._source.read_tree(tree_id)
                stack.append((tree_id, tree))
                stack += [(child.blob_id, None) for child in tree.children if child.kind is BlobKind.TREE]
                continue
            self._copy_data([child.blob_id for child in tree.children if child.kind is BlobKind.DATA])
            children = [Child(child.kind, self._copied(child.blob_id)) for child in tree.children]
            self._remember(tree_id, self._writer.add_tree(children, tree.meta).id)
        return self._copied(root)

    def _copy_data(self, blob_ids: Sequence[BlobId]) -> None:
        wanted = []
        for blob_id in blob_ids:
            if self._same_ids and self._writer.has(blob_id):
                self._remember(blob_id, blob_id)
            elif not self._copy_of(blob_id):
                wanted.append(blob_id)
        for blob_id, content in self._source.read_many(wanted):
            self._remember(blob_id, self._writer.add(BlobKind.DATA, content).id)

    def _remember(self, blob_id: BlobId, copy_id: BlobId) -> None:
        at = self._index.position(blob_id) * BLOB_ID_BYTES
        if at >= 0:
            self._copies[at : at + BLOB_ID_BYTES] = copy_id

    def _copy_of(self, blob_id: BlobId) -> BlobId | None:
        at = self._index.position(blob_id) * BLOB_ID_BYTES
        found = bytes(self._copies[at : at + BLOB_ID_BYTES]) if at >= 0 else b""
        return BlobId(found) if any(found) else None

    def _copied(self, blob_id: BlobId) -> BlobId:
        found = self._copy_of(blob_id)
        if found is None:
            raise NotFound(f"blob {blob_id.hex()} came to the source while it was being copied; start again")
        return found
