"""Freeing the space of snapshots that are forgotten; which ones, retention decides (retention.py).

It may be killed anywhere: blobs that stay are written to new packs, and
these listed in a new index, before any old index file goes; packs go after every index file that lists them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.damage import damaged_file
from pillarbox.backup.repository.index import (
    Index,
    Location,
    PackEntry,
    find_absent_packs,
    read_index,
    write_index,
)
from pillarbox.backup.repository.lock import RepositoryLock
from pillarbox.backup.repository.pack import PACK_BYTES, BlobId, BlobKind, PackBuilder
from pillarbox.backup.repository.repository import Repository, Snapshot
from pillarbox.store.errors import Corrupt, InvalidContent, NotFound

UNUSED_SHARE_MAX: Final = 0.05
_SMALL_PACK_DIVISOR: Final = 4
_SMALL_PACKS_MIN: Final = 4


@dataclass(frozen=True)
class PackUse:
    """The bytes of a pack that are needed. Of a blob with several copies only one counts as needed, a whole
    one where there is one. `has_damage` is set when it has copies that are known to be damaged, and
    `needs_damage` when one of them is all that there is of a needed blob.
    """

    pack: PackEntry
    used_blobs: int
    used_bytes: int
    unused_bytes: int
    has_damage: bool = False
    needs_damage: bool = False


@dataclass(frozen=True)
class PrunePlan:
    """The fate of each pack."""

    keep: tuple[PackUse, ...]
    repack: tuple[PackUse, ...]
    delete: tuple[PackUse, ...]


@dataclass(frozen=True)
class PruneReport:
    """The outcome of a prune, done or tried out. Bytes are those of packs."""

    packs_kept: int
    packs_repacked: int
    packs_deleted: int
    packs_unlisted: int
    bytes_before: int
    bytes_after: int


def plan_prune(uses: Sequence[PackUse], unused_share_max: float, pack_bytes: int) -> PrunePlan:
    """Delete what nobody needs, then write anew the packs with the largest unused share, until what stays
    unused is at most `unused_share_max` of what is used; small packs, where several would become one; and
    those with damaged copies of blobs that are whole elsewhere. What is left of a blob that is damaged stays
    where it is.
    """
    needed = [use for use in uses if use.used_blobs]
    unused_bytes_max = sum(use.used_bytes for use in needed) * unused_share_max
    unused_bytes = sum(use.unused_bytes for use in needed)
    repack = set()
    for use in sorted(needed, key=lambda each: each.unused_bytes / each.pack.size_bytes, reverse=True):
        if unused_bytes <= unused_bytes_max:
            break
        repack.add(use)
        unused_bytes -= use.unused_bytes
    small = [use for use in needed if use.pack.size_bytes < pack_bytes // _SMALL_PACK_DIVISOR]
    if len(small) >= _SMALL_PACKS_MIN:
        repack.update(small)
    repack.update(use for use in needed if use.has_damage)
    repack.difference_update([use for use in needed if use.needs_damage])
    return PrunePlan(
        keep=tuple(use for use in needed if use not in repack),
        repack=tuple(use for use in needed if use in repack),
        delete=tuple(use for use in uses if not use.used_blobs),
    )


def prune(
    repository: Repository,
    *,
    unused_share_max: float = UNUSED_SHARE_MAX,
    dry_run: bool = False,
    as_if_forgotten: Collection[str] = (),
    forgotten: Collection[Snapshot] = (),
    pack_bytes: int = PACK_BYTES,
    wait_ms: int = 0,
) -> PruneReport:
    """Free what no snapshot needs any more, under an exclusive lock.

    A dry run says what would be freed, with the snapshots of ids `as_if_forgotten` gone; it changes nothing.
    While a snapshot is lost or damaged, nothing is freed that it may need, so that its file can be put back:
    only what those of `forgotten` needed, and data of interrupted backups.
    Up to `unused_share_max` of the used bytes may stay unused, which spares writing packs anew. A damaged
    tree of a kept snapshot, or damage that no check has found before, stops it before anything is removed.
    Holds about three packs of memory.
    Raises: RepositoryLocked, Corrupt, NotFound when a snapshot's blob is missing.
    """
    with repository.lock(exclusive=not dry_run, purpose="prune", wait_ms=wait_ms) as lock:
        repository.reload_index()
        repository.reports()
        work = _Prune(repository, lock, pack_bytes, as_if_forgotten if dry_run else (), forgotten)
        plan = plan_prune(work.measure(), unused_share_max, pack_bytes)
        return work.report(plan) if dry_run else work.run(plan)


class _Prune:
    """One prune: what is there at its beginning, and the steps."""

    def __init__(
        self,
        repository: Repository,
        lock: RepositoryLock,
        pack_bytes: int,
        as_if_forgotten: Collection[str],
        forgotten: Collection[Snapshot],
    ) -> None:
        self._repository = repository
        self._backend = repository.backend
        self._lock = lock
        self._pack_bytes = pack_bytes
        # An index of its own: positions in it must not move when the repository reads its index again.
        self._index, self._index_names = read_index(self._backend, repository.sealer)
        self._sizes = dict(self._backend.list(FileKind.PACK))
        self._absent = find_absent_packs(self._backend, self._index)
        self._needed = mark_needed(repository, self._index, as_if_forgotten)
        if repository.unreadable_snapshots():
            gone = [*forgotten, *(each for each in repository.snapshots() if each.id in as_if_forgotten)]
            roots = {root for snapshot in gone for root in snapshot.roots}
            mark_unclaimed(repository, self._index, self._needed, roots)
        self._new: list[tuple[PackEntry, bytes]] = []

    def measure(self) -> list[PackUse]:
        """The use of every pack that is there. Raises: Corrupt when a needed blob is in none of them."""
        used_blobs = dict.fromkeys((pack.name for pack in self._index.packs), 0)
        all_bytes, used_bytes = dict(used_blobs), dict(used_blobs)
        damaged = dict.fromkeys(used_blobs, 0)
        for _, location in self._index.locations():
            all_bytes[location.pack.name] += location.record.length
            damaged[location.pack.name] += self._repository.is_known_damaged(location)
        needs_damage = set()
        for location in self._needed_copies():
            used_blobs[location.pack.name] += 1
            used_bytes[location.pack.name] += location.record.length
            if self._repository.is_known_damaged(location):
                needs_damage.add(location.pack.name)
        return [
            PackUse(
                pack,
                used_blobs[name],
                used_bytes[name],
                all_bytes[name] - used_bytes[name],
                bool(damaged[name]),
                name in needs_damage,
            )
            for pack in self._index.packs
            if (name := pack.name) not in self._absent
        ]

    def _needed_copies(self) -> Iterator[Location]:
        """For each needed blob the first copy whose pack is there, one that is not known to be damaged where
        there is one. Raises: Corrupt when there is none.
        """
        missing = bytearray(self._needed)
        for is_damage_taken in (False, True):
            for position, location in self._index.locations() if any(missing) else ():
                is_wanted = missing[position] and location.pack.name not in self._absent
                if is_wanted and self._repository.is_known_damaged(location) is is_damage_taken:
                    missing[position] = 0
                    yield location
        if any(missing):
            blob_id = self._index.id_at(missing.index(1))
            raise damaged_file(f"blob {blob_id.hex()}, which a snapshot needs, is in no pack that is there")

    def run(self, plan: PrunePlan) -> PruneReport:
        """The steps, in the order in which each may be the last one."""
        # First what needs no space: on a full disk nothing else can be begun.
        self._backend.remove_leftovers()
        listed = {pack.name for pack in self._index.packs}
        self._delete(FileKind.PACK, set(self._sizes).difference(listed))
        self._repack(plan)
        if self._new or plan.delete or self._absent or len(self._index_names) > 1:
            records = self._index.records_by_pack()
            kept = [(use.pack, records[use.pack.name]) for use in plan.keep] + self._new
            names = write_index(self._backend, self._repository.sealer, kept)
            self._lock.renew()
            self._delete(FileKind.INDEX, set(self._index_names).difference(names))
        self._lock.renew()
        # What was there at the beginning, so that a pack which came since is safe even from a lost lock.
        gone = listed.intersection(self._sizes).difference(use.pack.name for use in plan.keep)
        self._delete(FileKind.PACK, gone)
        self._repository.mark_unmarked(self._lock)
        self._repository.reload_index()
        return self.report(plan)

    def _delete(self, kind: FileKind, names: Iterable[str]) -> None:
        for name in sorted(names):
            self._lock.renew_if_due()
            self._backend.delete(kind, name)

    def _repack(self, plan: PrunePlan) -> None:
        """Write the needed blobs of the packs to be repacked into new ones. Raises: Corrupt."""
        names = {use.pack.name for use in plan.repack}
        wanted: dict[str, list[Location]] = {}
        for location in self._needed_copies():
            if location.pack.name in names:
                wanted.setdefault(location.pack.name, []).append(location)
        builders: dict[BlobKind, PackBuilder] = {}
        for name in names:
            self._lock.renew_if_due()
            data = self._backend.get(FileKind.PACK, name)
            for location in sorted(wanted[name], key=lambda each: each.record.offset):
                record = location.record
                sealed = data[record.offset : record.offset + record.length]
                stored, _ = self._repository.open_whole_at(location, sealed)
                if record.kind not in builders:
                    builders[record.kind] = PackBuilder(self._repository.sealer)
                builders[record.kind].add(record.kind, record.blob_id, stored, record.content_bytes)
                if builders[record.kind].size_bytes >= self._pack_bytes:
                    self._store(builders.pop(record.kind))
        for builder in builders.values():
            self._store(builder)

    def _store(self, builder: PackBuilder) -> None:
        pack = builder.finish()
        self._backend.put(FileKind.PACK, pack.name, pack.data)
        self._new.append((PackEntry(pack.name, pack.header, len(pack.data)), pack.records))

    def report(self, plan: PrunePlan) -> PruneReport:
        """The figures of a prune that is done, or, for the size of new packs, those to be expected."""
        new_bytes = [pack.size_bytes for pack, _ in self._new] or [use.used_bytes for use in plan.repack]
        listed = {pack.name for pack in self._index.packs}
        return PruneReport(
            packs_kept=len(plan.keep),
            packs_repacked=len(plan.repack),
            packs_deleted=len(plan.delete),
            packs_unlisted=len(set(self._sizes) - listed),
            bytes_before=sum(self._sizes.values()),
            bytes_after=sum(use.pack.size_bytes for use in plan.keep) + sum(new_bytes),
        )


def mark_needed(repository: Repository, index: Index, forgotten: Collection[str] = ()) -> bytearray:
    """One byte for each position in `index`, 1 where a snapshot that is not `forgotten` needs the blob.

    Raises: Corrupt when a snapshot or a tree cannot be read, or a blob is not listed.
    """
    needed = bytearray(len(index))

    def mark(blob_id: BlobId) -> bool:
        position = index.position(blob_id)
        if position < 0:
            raise damaged_file(f"blob {blob_id.hex()}, which a snapshot needs, is in no index file")
        is_first = not needed[position]
        needed[position] = 1
        return is_first

    kept = [each for each in repository.snapshots() if each.id not in forgotten]
    stack = [root for snapshot in kept for root in snapshot.roots if mark(root)]
    while stack:
        children = repository.read_tree(stack.pop()).children
        stack += [child.blob_id for child in children if mark(child.blob_id) and child.kind is BlobKind.TREE]
    return needed


def mark_unclaimed(
    repository: Repository, index: Index, needed: bytearray, let_go: Collection[BlobId]
) -> None:
    """Mark as needed what hangs on trees that nothing else names: one may be the root of a lost snapshot.

    Trees of `let_go` are none of these. Reads every tree that is not needed.
    """
    children: dict[BlobId, list[BlobId]] = {}
    for position, location in index.locations():
        blob_id = location.record.blob_id
        if location.record.kind is BlobKind.TREE and not needed[position] and blob_id not in children:
            children[blob_id] = _children_of(repository, blob_id)
    named = {child for below in children.values() for child in below}
    stack = [blob_id for blob_id in children if blob_id not in named and blob_id not in let_go]
    while stack:
        blob_id = stack.pop()
        position = index.position(blob_id)
        if position >= 0 and not needed[position]:
            needed[position] = 1
            stack += children.get(blob_id, [])


def _children_of(repository: Repository, tree_id: BlobId) -> list[BlobId]:
    try:
        return [child.blob_id for child in repository.read_tree(tree_id).children]
    except (Corrupt, NotFound, InvalidContent):
        return []  # a damaged tree is no help to the snapshot that needs it
