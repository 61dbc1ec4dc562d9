"""Where every blob lies: the index, in memory and as files.

An index file lists whole packs, each with the records of its footer; the index is the union of all index
files, so a new file only ever adds. In memory the entries are one sorted run of bytes, 49 a blob, searched by
halving: a dictionary of objects would take ten times that.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgpack
from blake3 import blake3

from pillarbox.backup.repository.backend import Backend, FileKind
from pillarbox.backup.repository.crypto import HEADER_BYTES, Sealer
from pillarbox.backup.repository.damage import damaged_file
from pillarbox.backup.repository.pack import (
    BLOB_ID_BYTES,
    RECORD_BYTES,
    BlobId,
    Record,
    check_records,
    decode_record,
)
from pillarbox.backup.repository.sealed_files import read_sealed_file
from pillarbox.store.errors import NotFound

INDEX_LETTER: Final = b"I"
_RECORDS_PER_FILE: Final = 300_000
_ENTRY_BYTES: Final = 49
_FOLD_FROM: Final = 100_000
_READ_TRIES: Final = 5
_RUN_BYTES_MAX: Final = 8 << 20
_RUN_GAP_BYTES_MAX: Final = 64 << 10


class PackEntry(NamedTuple):
    """One pack as the index knows it. The header is kept here to read a blob without reading it first."""

    name: str
    header: bytes
    size_bytes: int

    @property
    def file(self) -> str:
        return f"{FileKind.PACK}/{self.name}"


class Location(NamedTuple):
    """One copy of a blob."""

    pack: PackEntry
    record: Record


# An entry is a record with the id in front, so that entries sort by it, and the pack's number put in.
def _to_entry(record: bytes, pack_number: int) -> bytes:
    return record[1:33] + record[:1] + pack_number.to_bytes(4, "big") + record[33:]


def _to_record(entry: bytes) -> bytes:
    return entry[32:33] + entry[:32] + entry[37:]


def _pack_number(entry: bytes) -> int:
    return int.from_bytes(entry[33:37], "big")


class Index:
    """Every blob of a repository, as far as its index files tell. Threads may look up while one adds."""

    def __init__(self) -> None:
        self.packs: list[PackEntry] = []
        self._numbers: dict[str, int] = {}
        self._table = b""
        self._added: dict[bytes, list[bytes]] = {}
        self._lock = threading.RLock()

    def add_pack(self, pack: PackEntry, records: bytes) -> None:
        """Take in a pack. What is known already is not taken twice. Raises: Corrupt on contradiction."""
        check_records(records, pack.file)
        with self._lock:
            number = self._numbers.setdefault(pack.name, len(self.packs))
            if number == len(self.packs):
                self.packs.append(pack)
            elif self.packs[number] != pack:
                raise damaged_file(f"two index files tell different things of {pack.file}", file=pack.file)
            for at in range(0, len(records), RECORD_BYTES):
                entry = _to_entry(records[at : at + RECORD_BYTES], number)
                self._added.setdefault(entry[:BLOB_ID_BYTES], []).append(entry)
            if len(self._added) >= _FOLD_FROM:
                self.fold()

    def fold(self) -> None:
        """Sort what was added into the table; positions hold until the next `add_pack`."""
        with self._lock:
            if self._added:
                entries = {each for entries in self._added.values() for each in entries}
                entries.update(self._raw_entries())
                self._table = b"".join(sorted(entries))
                self._added = {}

    def __len__(self) -> int:
        """The number of entries: copies of one blob count each."""
        return len(self._table) // _ENTRY_BYTES + sum(map(len, self._added.values()))

    def __contains__(self, blob_id: BlobId) -> bool:
        with self._lock:
            return blob_id in self._added or self.position(blob_id) >= 0

    def position(self, blob_id: BlobId) -> int:
        """The place of a blob's first copy in the folded table, -1 when it is not there."""
        count = len(self._table) // _ENTRY_BYTES
        found = bisect_left(range(count), bytes(blob_id), key=self.id_at)
        return found if found < count and self.id_at(found) == blob_id else -1

    def find(self, blob_id: BlobId) -> list[Location]:
        """All copies of a blob, mostly one; none when it is unknown. Raises: Corrupt on an absurd entry."""
        with self._lock:
            entries = list(self._added.get(blob_id, ()))
            at = self.position(blob_id)
            while at >= 0 and self.id_at(at) == blob_id:
                entries.append(self._entry_at(at))
                at += 1
        return [self._locate(entry) for entry in entries]

    def locations(self) -> Iterator[tuple[int, Location]]:
        """Every entry with the position of its blob's first copy, in order of ids. Folds what was added."""
        self.fold()
        first, first_id = -1, b""
        for at, entry in enumerate(self._raw_entries()):
            if entry[:BLOB_ID_BYTES] != first_id:
                first, first_id = at, entry[:BLOB_ID_BYTES]
            yield first, self._locate(entry)

    def records_by_pack(self) -> Mapping[str, bytes]:
        """For each pack by name the records of its blobs."""
        found: defaultdict[str, bytearray] = defaultdict(bytearray)
        for pack in self.packs:
            found[pack.name] = bytearray()
        for entry in self._raw_entries():
            found[self.packs[_pack_number(entry)].name] += _to_record(entry)
        for entries in self._added.values():
            for entry in entries:
                found[self.packs[_pack_number(entry)].name] += _to_record(entry)
        return {name: bytes(records) for name, records in found.items()}

    def id_at(self, position: int) -> bytes:
        """The blob id at a position of the folded table."""
        return self._table[position * _ENTRY_BYTES : position * _ENTRY_BYTES + BLOB_ID_BYTES]

    def _entry_at(self, position: int) -> bytes:
        return self._table[position * _ENTRY_BYTES : (position + 1) * _ENTRY_BYTES]

    def _raw_entries(self) -> Iterator[bytes]:
        return map(self._entry_at, range(len(self._table) // _ENTRY_BYTES))

    def _locate(self, entry: bytes) -> Location:
        pack = self.packs[_pack_number(entry)]
        return Location(pack, decode_record(_to_record(entry), pack.size_bytes, pack.file))


def find_absent_packs(backend: Backend, index: Index) -> frozenset[str]:
    """The names of packs that the index lists but that are not there, or not of the size it says."""
    sizes = dict(backend.list(FileKind.PACK))
    return frozenset(pack.name for pack in index.packs if sizes.get(pack.name) != pack.size_bytes)


def plan_runs(index: Index, blob_ids: Iterable[BlobId]) -> Iterator[list[Location]]:
    """The first copies of the blobs as runs of near neighbours in one pack. Raises: NotFound."""
    locations = []
    for blob_id in dict.fromkeys(blob_ids):
        copies = index.find(blob_id)
        if not copies:
            raise NotFound(f"the repository has no blob {blob_id.hex()}")
        locations.append(copies[0])
    locations.sort(key=lambda each: (each.pack.name, each.record.offset))
    run: list[Location] = []
    for location in locations:
        if run:
            start, end = run[0].record.offset, run[-1].record.offset + run[-1].record.length
            near = location.record.offset - end <= _RUN_GAP_BYTES_MAX
            small = location.record.offset + location.record.length - start <= _RUN_BYTES_MAX
            if location.pack != run[0].pack or not (near and small):
                yield run
                run = []
        run.append(location)
    if run:
        yield run


# --- files --------------------------------------------------------------------------------------------------


def write_index(backend: Backend, sealer: Sealer, packs: Iterable[tuple[PackEntry, bytes]]) -> list[str]:
    """Store index files that list `packs` with their records; the names of the files."""
    names = []
    batch: list[Any] = []
    count = 0
    for pack, records in packs:
        batch.append([bytes.fromhex(pack.name), pack.header, pack.size_bytes, records])
        count += len(records) // RECORD_BYTES
        if count >= _RECORDS_PER_FILE:
            names.append(_write_one(backend, sealer, batch))
            batch, count = [], 0
    if batch:
        names.append(_write_one(backend, sealer, batch))
    return names


def _write_one(backend: Backend, sealer: Sealer, batch: list[Any]) -> str:
    data = sealer.seal(INDEX_LETTER, msgpack.packb(batch))
    name: str = blake3(data).hexdigest()
    backend.put(FileKind.INDEX, name, data)
    return name


def read_index(backend: Backend, sealer: Sealer) -> tuple[Index, list[str]]:
    """The index of a repository, folded, and the names of the files it was read from.

    Files may be merged meanwhile: what was listed and is gone is in a newer file, so they are listed again.
    Raises: Corrupt, UnsupportedVersion.
    """
    for _ in range(_READ_TRIES):
        index, names = Index(), [info.name for info in backend.list(FileKind.INDEX)]
        try:
            for name in names:
                for pack, records in read_index_file(backend, sealer, name):
                    index.add_pack(pack, records)
        except NotFound:
            continue
        index.fold()
        return index, names
    raise NotFound("index files of the repository went away faster than they could be read")


def read_index_file(backend: Backend, sealer: Sealer, name: str) -> list[tuple[PackEntry, bytes]]:
    """The packs of one index file with their records. Raises: Corrupt, UnsupportedVersion, NotFound."""
    file = f"{FileKind.INDEX}/{name}"
    try:
        body, found = read_sealed_file(backend, sealer, FileKind.INDEX, name, INDEX_LETTER), []
        for pack_name, header, size_bytes, records in msgpack.unpackb(body):
            if len(pack_name) != BLOB_ID_BYTES or len(header) != HEADER_BYTES or type(size_bytes) is not int:
                raise ValueError("an entry is no pack")
            found.append((PackEntry(pack_name.hex(), header, size_bytes), check_records(records, file)))
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise damaged_file(f"{file}: {error}", file=file) from error
    return found
