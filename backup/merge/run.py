"""One mailbox, or a public folder tree, on its way from a source to a destination, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pillarbox.backup.merge.folders import Origin
from pillarbox.backup.merge.report import MailboxMerge, MergeMode, MergeOptions, MergeProgress, Tally
from pillarbox.backup.merge.source import (
    Damage,
    FolderPath,
    MergeSource,
    SourceFolder,
    folders_of,
    messages_of,
    tree_of,
)
from pillarbox.backup.merge.target import Destination, Recovered
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord, Table, item_key
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt
from pillarbox.store.mail import folders, messages, public_folders

BATCH_MESSAGES: Final = 256
BATCH_BYTES: Final = 16 << 20
# A read that stays open keeps a live database from using its freed pages again.
_LOOKED_AT_MAX: Final = 10_000

Place = tuple[int, int]  # number of the folder, UID


class MergeRun:
    """The merge of one mailbox (GUID), or with an empty GUID of the public folders, of `source`."""

    def __init__(
        self,
        source: MergeSource,
        source_guid: bytes,
        actor: Actor,
        options: MergeOptions,
        progress: Callable[[MergeProgress], None] | None,
    ) -> None:
        """Reads the folders. Raises NotFound, Refused, Dismounted, Corrupt."""
        self._source = source
        self._actor = actor
        self._options = options
        self._progress = progress
        self._tally = Tally()
        self._targets: dict[FolderPath, FolderPath] = {}
        self._made: tuple[FolderPath, ...] = ()
        with source.read(actor) as read:
            tree = tree_of(read, source_guid)
            sequence = read.state().sequence if options.mode is MergeMode.COPY else 0
            self.origin = Origin(read.files.guid, tree, sequence)
            self.folders = list(folders_of(read, tree.root_id, self._tally.damaged))
        self._messages_total = sum(each.record.messages_count for each in self.folders)
        self._readers_of = 0  # id of the folder that `_readers` are of
        self._readers: list[tuple[str, public_folders.ReadUids]] = []

    def run(self, destination: Destination) -> None:
        """Do it, or find out what would come. Raises what keeps it from going on; what was added stays."""
        with self._source.read(self._actor) as read, destination.reading():
            destination.learn(read, self.folders)
        taken = self._taken()
        place: Place | None = (0, 0)
        while place is not None:
            place = self._batch(destination, taken, place)
        would_make = self._make_folders(destination, taken)
        with destination.reading():
            paths = {each.path: destination.path(each) for each in taken}
        self._targets = {each.path: paths.get(each.path, ()) for each in self.folders}
        self._made = tuple(sorted({*destination.made(), *would_make}))

    def report(self) -> MailboxMerge:
        """The report of what was done."""
        return self._tally.report(self.origin.tree.name, self._targets, self._made)

    def _taken(self) -> list[SourceFolder]:
        taken = []
        for each in self.folders:
            if self._options.filter.takes_folder(each.path):
                taken.append(each)
            elif each.record.messages_count:
                self._tally.filtered(each.path, each.record.messages_count)
        return taken

    def _batch(self, destination: Destination, taken: list[SourceFolder], place: Place) -> Place | None:
        with self._source.read(self._actor) as read:
            with destination.reading():
                batch, following = self._collect(read, destination, taken, place)
            if not self._options.dry_run:
                self._count(batch, destination.write(read, batch))
        if self._options.archive and not self._options.dry_run:
            proven = destination.proven(batch)
            if proven is not None:
                self.remove(batch, proven)
        if self._progress:
            at = taken[following[0]].path if following else ()
            name, tally = self.origin.tree.name, self._tally
            self._progress(MergeProgress(name, at, tally.looked_at, self._messages_total, tally.merged_bytes))
        return following

    def _collect(
        self, read: Reader, destination: Destination, taken: list[SourceFolder], place: Place
    ) -> tuple[list[Recovered], Place | None]:
        """The messages to work on next, and where it goes on after them."""
        batch: list[Recovered] = []
        size_bytes = 0
        looked_at_max = self._tally.looked_at + _LOOKED_AT_MAX
        for number in range(place[0], len(taken)):
            after_uid = place[1] if number == place[0] else 0
            for item in messages_of(read, taken[number], after_uid, self._tally.damaged):
                self._tally.looked_at += 1
                found = self._judge(read, destination, taken[number], item)
                if found is not None:
                    batch.append(found)
                    size_bytes += item.size
                full = len(batch) >= BATCH_MESSAGES or size_bytes >= BATCH_BYTES
                if full or self._tally.looked_at >= looked_at_max:
                    return batch, (number, item.uid)
        return batch, None

    def _judge(
        self, read: Reader, destination: Destination, source: SourceFolder, item: ItemRecord
    ) -> Recovered | None:
        """A message that is to be added, or that is there and to be removed; None for all others."""
        options = self._options
        if not options.filter.takes(item):
            self._tally.filtered(source.path)
            return None
        is_held = destination.holds(item)
        if is_held and not options.archive:
            self._tally.duplicate(source.path)
            return None
        try:
            raw = messages.content(read, item) if options.filter.reads_content else None
            if raw is not None and not options.filter.takes_content(raw):
                self._tally.filtered(source.path)
                return None
            if is_held:
                self._tally.duplicate(source.path)
                return Recovered(source, item, None)
            if options.dry_run:
                self._tally.merged(source.path, item.size)
                return None
            fetched = destination.fetch(read, item, raw)
            return Recovered(source, item, fetched, self._read_by(read, source, item))
        except Corrupt as error:
            self._tally.damaged(Damage(source.path, item.message_id, str(error)))
            return None

    def _read_by(self, read: Reader, source: SourceFolder, item: ItemRecord) -> tuple[str, ...]:
        """The accounts that have read a message of a public folder; in a mailbox that is one of its flags."""
        if not self.origin.tree.is_public:
            return ()
        if self._readers_of != source.record.folder_id:
            self._readers_of, self._readers = source.record.folder_id, []
            try:
                for reader in public_folders.readers(read, source.record.folder_id):
                    self._readers.append(reader)
            except Corrupt as error:
                self._tally.damaged(Damage(source.path, 0, f"who has read what of it is damaged: {error}"))
        return tuple(account for account, uids in self._readers if item.uid in uids)

    def _count(self, batch: Sequence[Recovered], added: Sequence[Recovered]) -> None:
        """Counted only once it is durable."""
        ids = {each.item.message_id for each in added}
        for each in batch:
            if each.item.message_id in ids:
                self._tally.merged(each.folder.path, each.item.size)
            elif each.content is not None:
                self._tally.duplicate(each.folder.path)

    def _make_folders(self, destination: Destination, taken: Sequence[SourceFolder]) -> list[FolderPath]:
        """Make the folders that no message made; the paths of those that a dry run would make."""
        keeps_empty = not self._options.filter.chooses_messages
        wanted = [each for each in taken if keeps_empty or self._tally.merged_in(each.path)]
        if not self._options.dry_run:
            destination.make_folders(wanted)
            return []
        outer = {each.path[:depth] for each in wanted for depth in range(len(each.path) + 1)}
        made = [each for each in self.folders if each.path in outer]
        with destination.reading():
            return [destination.path(each) for each in made if not destination.has_folder(each)]

    def remove(self, batch: Sequence[Recovered], proven: Sequence[Recovered]) -> None:
        """Remove what is proven of a batch from the source, if it is where it was when it was copied."""
        self._tally.unproven += len(batch) - len(proven)
        assert isinstance(self._source, Database), "checked before anything was copied"
        for first in range(0, len(proven), BATCH_MESSAGES):
            with self._source.transaction(self._actor) as txn:
                removed = [_remove(txn, each.item) for each in proven[first : first + BATCH_MESSAGES]]
            self._tally.removed += sum(removed)


def _remove(txn: WriteTransaction, item: ItemRecord) -> bool:
    found: ItemRecord | None = txn.record(Table.ITEM, item_key(item.folder_id, item.uid))
    if found is None or found.message_id != item.message_id or not folders.is_there(txn, item.folder_id):
        return False
    messages.delete(txn, found.message_id)
    return True
