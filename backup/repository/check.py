"""Proving that a repository is whole, naming what is not and which snapshots it hits; and the index anew.

The check believes nothing: it opens every file and walks the trees of every snapshot; when data is read too,
it accounts for every byte of a pack.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from blake3 import blake3

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.crypto import HEADER_BYTES, SEALED_FILE_BYTES_MAX
from pillarbox.backup.repository.damage import damaged_file
from pillarbox.backup.repository.index import Index, Location, PackEntry, read_index_file, write_index
from pillarbox.backup.repository.lock import RepositoryLock
from pillarbox.backup.repository.pack import (
    PACK_LETTER,
    RECORD_BYTES,
    TRAILER_BYTES,
    BlobId,
    BlobKind,
    Record,
    Tree,
    check_records,
    decode_record,
    decode_tree,
    locate_footer,
    open_footer,
)
from pillarbox.backup.repository.reports import Report, ReportKind, known_damage, read_reports
from pillarbox.backup.repository.repository import Repository, read_key
from pillarbox.store.errors import Corrupt, InvalidContent, InvalidSetting, NotFound, UnsupportedVersion

PACK_FILE_BYTES_MAX: Final = 256 << 20
_DAMAGE: Final = (Corrupt, InvalidContent, NotFound, UnsupportedVersion)


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong: the file (or blob), what was found, and the ids of the snapshots it hits."""

    file: str
    message: str
    snapshots: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """The findings of a check. `leftovers` are packs of interrupted work: harmless, removed by `prune`."""

    damage: tuple[Damage, ...]
    leftovers: tuple[str, ...]
    snapshots_checked: int
    blobs_checked: int
    packs_read: int

    @property
    def is_whole(self) -> bool:
        return not self.damage


@dataclass
class _Finding:
    """One damage in the making: the snapshots that it hits become known in the walk."""

    file: str
    message: str
    snapshots: set[str] = field(default_factory=set)


class _Node(NamedTuple):
    """One tree as the walk knows it: the trees below it, and the findings that hit it or data below it."""

    trees: tuple[BlobId, ...]
    findings: frozenset[int]


def check_repository(
    repository: Repository, *, read_data: float = 0.0, random: Random | None = None, wait_ms: int = 0
) -> CheckReport:
    """Check the structure, and the content of a share `read_data` (0 to 1) of the packs.

    Which packs these are `random` chooses; without it the first by name. Runs beside backups, not beside a
    prune. Holds the largest pack in memory. What a check before found damaged in packs that are not read now
    is damage still, until one that reads them finds it whole or a prune has removed it. What it found is kept
    in the repository, where it may be written: later backups store anew what is damaged. Raises:
    RepositoryLocked, InvalidSetting, DiskFull.
    """
    if not 0 <= read_data <= 1:
        raise InvalidSetting("the share of the data to read is between 0 and 1", hint="say --read-data=10%")
    with repository.lock(exclusive=False, purpose="check", wait_ms=wait_ms) as lock:
        check = _Check(repository)
        packs = sorted(check.index.packs)
        if random:
            random.shuffle(packs)
        packs = packs[: math.ceil(len(packs) * read_data)]
        records = check.index.records_by_pack() if packs else {}
        for pack in packs:
            lock.renew_if_due()
            check.read_pack(pack, records[pack.name])
        check.take_over({pack.name for pack in packs})
        report = check.walk(len(packs))
        repository.keep_report(check.to_be_kept(report, read_data, {pack.name for pack in packs}))
        return report


class _Check:
    """One check: what was found so far."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._backend = repository.backend
        self._findings: list[_Finding] = []
        self._bad_copies: dict[tuple[str, int], int] = {}
        self._unlisted: int | None = None
        self._unlisted_blobs: set[BlobId] = set()
        self._nodes: dict[BlobId, _Node] = {}
        self._blobs_checked = 0
        # Before the index: what a backup saves meanwhile is in index files that are not read any more.
        self._snapshot_ids = repository.snapshot_ids()
        for info in self._backend.list(FileKind.KEY):
            try:
                read_key(self._backend, info.name)
            except _DAMAGE as error:
                self._found(f"{FileKind.KEY}/{info.name}", str(error))
        self.index, _, damaged = _read_index_leniently(repository)
        self._findings += damaged
        self._absent, self._leftovers = self._compare_packs()

    def _found(self, file: str, message: str) -> int:
        self._findings.append(_Finding(file, message))
        return len(self._findings) - 1

    def _compare_packs(self) -> tuple[dict[str, int], tuple[str, ...]]:
        """The findings of packs that are not there as listed, by name; and the files that nothing lists."""
        sizes = dict(self._backend.list(FileKind.PACK))
        absent = {}
        for pack in self.index.packs:
            size_bytes = sizes.pop(pack.name, None)
            if size_bytes is None:
                absent[pack.name] = self._found(pack.file, f"{pack.file} is missing")
            elif size_bytes != pack.size_bytes:
                message = f"{pack.file} has {size_bytes} bytes instead of {pack.size_bytes}"
                absent[pack.name] = self._found(pack.file, message)
        return absent, tuple(sorted(f"{FileKind.PACK}/{name}" for name in sizes))

    def take_over(self, packs_read: Collection[str]) -> None:
        """Hold for damaged what earlier reports name in packs that this check does not read."""
        unread = {pack.name for pack in self.index.packs}.difference(packs_read)
        for name, offset in sorted(known_damage(read_reports(self._backend, self._repository.sealer))):
            if name in unread and name not in self._absent:
                file = f"{FileKind.PACK}/{name}"
                message = f"the blob at byte {offset} of {file} was damaged when it was last read"
                self._bad_copies[name, offset] = self._found(file, message)

    def to_be_kept(self, report: CheckReport, read_share: float, packs_read: Collection[str]) -> Report:
        """The report that backups are to know, with what earlier ones say of packs that it did not read."""
        unread = {pack.name for pack in self.index.packs}.difference(packs_read)
        earlier = known_damage(read_reports(self._backend, self._repository.sealer))
        return Report(
            self._repository.clock.now_ms(),
            ReportKind.CHECK,
            read_share,
            frozenset(self._bad_copies) | {copy for copy in earlier if copy[0] in unread},
            frozenset(each for damage in report.damage for each in damage.snapshots),
        )

    # --- packs ----------------------------------------------------------------------------------------------

    def read_pack(self, pack: PackEntry, packed_records: bytes) -> None:
        """Account for every byte of a pack."""
        if pack.name in self._absent:
            return
        if pack.size_bytes > PACK_FILE_BYTES_MAX:
            self._found(pack.file, f"{pack.file} is larger than any pack of ours")
            return
        try:
            data = self._backend.get(FileKind.PACK, pack.name)
        except _DAMAGE as error:
            self._absent[pack.name] = self._found(pack.file, str(error))
            return
        before = len(self._findings)
        if data[:HEADER_BYTES] != pack.header:
            self._found(pack.file, f"the header of {pack.file} (bytes 0 to {HEADER_BYTES - 1}) is damaged")
        records = decode_records(packed_records, pack)
        for record in records:
            self._check_blob(pack, record, data)
        try:
            _check_footer(self._repository, pack, records, data)
        except Corrupt as error:
            self._found(pack.file, str(error))
        if len(self._findings) == before and blake3(data).hexdigest() != pack.name:
            self._found(pack.file, f"{pack.file} is not the file of that name")

    def _check_blob(self, pack: PackEntry, record: Record, data: bytes) -> None:
        end = record.offset + record.length
        try:
            self._repository.open_at(Location(pack, record), data[record.offset : end])
        except Corrupt:
            name = f"{record.kind.name.lower()} blob {record.blob_id.hex()}"
            message = f"{name} in {pack.file} (bytes {record.offset} to {end - 1}) is damaged"
            self._bad_copies[pack.name, record.offset] = self._found(pack.file, message)

    # --- snapshots ------------------------------------------------------------------------------------------

    def walk(self, packs_read: int) -> CheckReport:
        """Walk all snapshots and close the check."""
        roots = {}
        for name in self._snapshot_ids:
            try:
                roots[name] = self._repository.snapshot(name).roots
            except NotFound:  # forgotten since the listing
                continue
            except _DAMAGE as error:
                finding = self._found(f"{FileKind.SNAPSHOT}/{name}", str(error))
                self._findings[finding].snapshots.add(name)
        for name in self._repository.lost_snapshot_ids():
            file = f"{FileKind.SNAPSHOT}/{name}"
            message = (
                f"{file} is missing and was not forgotten; `backup prune --forget-lost` accepts the loss"
            )
            self._findings[self._found(file, message)].snapshots.add(name)
        for snapshot_roots in roots.values():
            self._visit_below(snapshot_roots)
        if self._findings:
            for name, snapshot_roots in roots.items():
                self._attribute(name, snapshot_roots)
        return CheckReport(
            damage=tuple(
                Damage(each.file, each.message, tuple(sorted(each.snapshots))) for each in self._findings
            ),
            leftovers=self._leftovers,
            snapshots_checked=len(self._snapshot_ids),
            blobs_checked=self._blobs_checked,
            packs_read=packs_read,
        )

    def _visit_below(self, roots: Iterable[BlobId]) -> None:
        stack = list(roots)
        while stack:
            tree_id = stack.pop()
            if tree_id not in self._nodes:
                self._nodes[tree_id] = self._visit(tree_id)
                stack += self._nodes[tree_id].trees

    def _visit(self, tree_id: BlobId) -> _Node:
        tree = self._read_tree(tree_id)
        if tree is None:
            return _Node((), self._findings_of(tree_id))
        findings: set[int] = set()
        for child in tree.children:
            if child.kind is BlobKind.DATA:
                findings.update(self._findings_of(child.blob_id))
        trees = tuple(child.blob_id for child in tree.children if child.kind is BlobKind.TREE)
        return _Node(trees, frozenset(findings))

    def _read_tree(self, tree_id: BlobId) -> Tree | None:
        """The tree from its first whole copy; None when there is none, and then there are findings of it."""
        self._blobs_checked += 1
        for location in self.index.find(tree_id):
            if self._finding_at(location) is not None:
                continue
            pack, record = location
            try:
                sealed = self._backend.get(FileKind.PACK, pack.name, record.offset, record.length)
                return decode_tree(self._repository.open_at(location, sealed))
            except _DAMAGE as error:
                message = f"tree blob {tree_id.hex()} is damaged: {error}"
                self._bad_copies[pack.name, record.offset] = self._found(pack.file, message)
        return None

    def _findings_of(self, blob_id: BlobId) -> frozenset[int]:
        """The findings on a blob: none when one of its copies is whole."""
        self._blobs_checked += 1
        if not self._absent and not self._bad_copies and blob_id in self.index:
            return frozenset()
        found = {self._finding_at(location) for location in self.index.find(blob_id)}
        if not found:
            return frozenset({self._found_unlisted(blob_id)})
        return frozenset() if None in found else frozenset(each for each in found if each is not None)

    def _finding_at(self, location: Location) -> int | None:
        pack, record = location
        return self._absent.get(pack.name, self._bad_copies.get((pack.name, record.offset)))

    def _found_unlisted(self, blob_id: BlobId) -> int:
        """One finding for all blobs that no index file lists: they can be as many as there are."""
        self._unlisted_blobs.add(blob_id)
        if self._unlisted is None:
            self._unlisted = self._found(str(FileKind.INDEX), "")
        self._findings[self._unlisted].message = (
            f"{len(self._unlisted_blobs)} blobs that snapshots need are in no index file that can be read, "
            f"one is {min(self._unlisted_blobs).hex()}"
        )
        return self._unlisted

    def _attribute(self, snapshot_id: str, roots: Iterable[BlobId]) -> None:
        """Note the snapshot in all findings that lie below its roots."""
        seen = set(roots)
        stack = list(seen)
        while stack:
            node = self._nodes[stack.pop()]
            for finding in node.findings:
                self._findings[finding].snapshots.add(snapshot_id)
            new = set(node.trees) - seen
            seen |= new
            stack += new


def decode_records(packed: bytes, pack: PackEntry) -> list[Record]:
    """The records of a pack by offset. Raises: Corrupt when one is impossible."""
    starts = range(0, len(packed), RECORD_BYTES)
    records = (decode_record(packed[at : at + RECORD_BYTES], pack.size_bytes, pack.file) for at in starts)
    return sorted(records, key=lambda each: each.offset)


def _check_footer(repository: Repository, pack: PackEntry, listed: list[Record], data: bytes) -> None:
    """Prove that footer and trailer are whole, that the blobs fill the pack and the index lists no others."""
    offset = locate_footer(data[-TRAILER_BYTES:], len(data), pack.file)
    cipher = repository.sealer.cipher(pack.header, PACK_LETTER, pack.file)
    records = decode_records(open_footer(cipher, offset, data[offset:-TRAILER_BYTES], pack.file), pack)
    starts = [record.offset for record in records] + [offset]
    ends = [HEADER_BYTES] + [record.offset + record.length for record in records]
    if starts != ends:
        raise damaged_file(f"the blobs of {pack.file} leave gaps or overlap", file=pack.file)
    if not set(listed) <= set(records):
        raise damaged_file(f"the index lists blobs that are not in {pack.file}", file=pack.file)


def _read_index_leniently(repository: Repository) -> tuple[Index, list[str], list[_Finding]]:
    """The index from the files that can be read, the names of all, and what is wrong with the others."""
    index, names, findings = Index(), [], []
    for info in repository.backend.list(FileKind.INDEX):
        names.append(info.name)
        try:
            packs = read_index_file(repository.backend, repository.sealer, info.name)
            for pack, records in packs:
                decode_records(records, pack)
                repository.sealer.cipher(pack.header, PACK_LETTER, pack.file)
            for pack, records in packs:
                index.add_pack(pack, records)
        except _DAMAGE as error:
            findings.append(_Finding(f"{FileKind.INDEX}/{info.name}", str(error)))
    index.fold()
    return index, names, findings


# --- repair -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RepairReport:
    """The blobs that a new index lists, and those of the packs that it could not or did not."""

    packs_listed: int
    blobs_listed: int
    damage: tuple[Damage, ...]


def repair_index(repository: Repository, *, read_data: bool = False, wait_ms: int = 0) -> RepairReport:
    """Make the index anew from the packs, under an exclusive lock; packs themselves are not touched.

    With `read_data` every blob is read, and those that are damaged are left out: the next backup that still
    has them stores them again. A pack whose own list is damaged is listed as the old index has it.
    Raises: RepositoryLocked.
    """
    with repository.lock(exclusive=True, purpose="repair", wait_ms=wait_ms) as lock:
        old, old_names, _ = _read_index_leniently(repository)
        repair = _Repair(repository, old, read_data)
        names = write_index(repository.backend, repository.sealer, repair.packs(lock))
        lock.renew()
        for name in set(old_names).difference(names):
            repository.backend.delete(FileKind.INDEX, name)
        repository.reload_index()
        return RepairReport(repair.packs_listed, repair.blobs_listed, tuple(repair.damage))


class _Repair:
    def __init__(self, repository: Repository, old: Index, read_data: bool) -> None:
        self._repository = repository
        self._backend = repository.backend
        self._old_packs = {pack.name: pack for pack in old.packs}
        self._old_records = old.records_by_pack()
        self._read_data = read_data
        self.packs_listed = self.blobs_listed = 0
        self.damage: list[Damage] = []

    def packs(self, lock: RepositoryLock) -> Iterator[tuple[PackEntry, bytes]]:
        """Every pack that can be listed, with its records."""
        for name, size_bytes in list(self._backend.list(FileKind.PACK)):
            lock.renew_if_due()
            try:
                pack, records = self._list_pack(name, size_bytes)
                if self._read_data:
                    records = self._whole_blobs(pack, records)
            except _DAMAGE as error:
                self.damage.append(Damage(f"{FileKind.PACK}/{name}", str(error)))
                continue
            if records:
                self.packs_listed += 1
                self.blobs_listed += len(records) // RECORD_BYTES
                yield pack, records

    def _list_pack(self, name: str, size_bytes: int) -> tuple[PackEntry, bytes]:
        """A pack with its records, from its footer or else from the old index. Raises: Corrupt."""
        try:
            return self._read_footer(name, size_bytes)
        except _DAMAGE as error:
            old = self._old_packs.get(name)
            if old is None or old.size_bytes != size_bytes:
                raise
            self.damage.append(Damage(old.file, f"{error}; it is listed as the old index has it"))
            return old, self._old_records[name]

    def _read_footer(self, name: str, size_bytes: int) -> tuple[PackEntry, bytes]:
        file = f"{FileKind.PACK}/{name}"
        if size_bytes < HEADER_BYTES + TRAILER_BYTES:
            raise damaged_file(f"{file} is too small for a pack", file=file)
        header = self._backend.get(FileKind.PACK, name, 0, HEADER_BYTES)
        end = size_bytes - TRAILER_BYTES
        offset = locate_footer(self._backend.get(FileKind.PACK, name, end, TRAILER_BYTES), size_bytes, file)
        if end - offset > SEALED_FILE_BYTES_MAX:
            raise damaged_file(f"{file} has a larger footer than any pack of ours", file=file, offset=offset)
        sealed = self._backend.get(FileKind.PACK, name, offset, end - offset)
        cipher = self._repository.sealer.cipher(header, PACK_LETTER, file)
        pack = PackEntry(name, header, size_bytes)
        records = check_records(open_footer(cipher, offset, sealed, file), file)
        decode_records(records, pack)
        return pack, records

    def _whole_blobs(self, pack: PackEntry, records: bytes) -> bytes:
        """The records of the blobs that are whole."""
        if pack.size_bytes > PACK_FILE_BYTES_MAX:
            raise damaged_file(f"{pack.file} is larger than any pack of ours", file=pack.file)
        data = self._backend.get(FileKind.PACK, pack.name)
        whole = []
        for at in range(0, len(records), RECORD_BYTES):
            packed = records[at : at + RECORD_BYTES]
            record = decode_record(packed, pack.size_bytes, pack.file)
            try:
                location = Location(pack, record)
                self._repository.open_at(location, data[record.offset : record.offset + record.length])
                whole.append(packed)
            except Corrupt as error:
                self.damage.append(Damage(pack.file, f"blob {record.blob_id.hex()} is left out: {error}"))
        return b"".join(whole)
