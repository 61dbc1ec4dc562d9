"""Where recovered mail goes: a mailbox or the public folders of a live store, or mail files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol

from pillarbox.backup.merge.folders import RECOVERED_FROM, FolderMap, Origin
from pillarbox.backup.merge.match import HeldMessages, is_there
from pillarbox.backup.merge.source import FolderPath, SourceFolder, tree_of
from pillarbox.store.access import Actor
from pillarbox.store.arguments import PathLike
from pillarbox.store.content.blocks import PreparedContent, digest_of
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine import content_store, content_transfer
from pillarbox.store.engine.content_transfer import FetchedContent
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader, ReadTransaction, WriteTransaction
from pillarbox.store.errors import Corrupt
from pillarbox.store.files.exporting import AddMessage, ExportFormat, read_mail_files
from pillarbox.store.files.mail_item import MailItem
from pillarbox.store.files.mbox import Dialect
from pillarbox.store.ids import id_text
from pillarbox.store.mail import messages, public_folders
from pillarbox.store.mail.folders import get as get_folder


class MailboxTarget(NamedTuple):
    """A mailbox (GUID), or with an empty GUID the public folders, of a mounted, writable database."""

    database: Database
    guid: bytes


class FileTarget(NamedTuple):
    """Mail files in a directory that is empty or not there yet. `dialect` is that of mbox files."""

    out: PathLike
    format: ExportFormat
    dialect: Dialect = "mboxrd"


class Prepared(NamedTuple):
    """A message's bytes, and its content ready to be stored."""

    raw: bytes
    content: PreparedContent


class Recovered(NamedTuple):
    """A message of the source on its way; `content` is None when the target holds the message already.

    `read_by` are the accounts that have read it, in a public folder.
    """

    folder: SourceFolder
    item: ItemRecord
    content: FetchedContent | Prepared | bytes | None
    read_by: tuple[str, ...] = ()


class Destination(Protocol):
    """The target of a merge, of either kind."""

    def reading(self) -> AbstractContextManager[None]:
        """Look at the target's present state in a `with` block: all but `write` and what follows it."""
        ...

    def learn(self, source: Reader, folders: Sequence[SourceFolder]) -> None:
        """Look at what the target holds; before anything else. Raises NotFound."""
        ...

    def holds(self, item: ItemRecord) -> bool:
        """True when the target holds a message of the source."""
        ...

    def fetch(self, source: Reader, item: ItemRecord, raw: bytes | None) -> FetchedContent | Prepared | bytes:
        """Read what the target needs of a message; `raw` are its bytes when they were read already.

        Raises Corrupt when the source is damaged there.
        """
        ...

    def path(self, folder: SourceFolder) -> FolderPath:
        """Where a folder's messages go."""
        ...

    def has_folder(self, folder: SourceFolder) -> bool:
        """True when that folder is there."""
        ...

    def write(self, source: Reader, batch: Sequence[Recovered]) -> list[Recovered]:
        """Add those of the messages that have content, all or none; those that were added."""
        ...

    def make_folders(self, folders: Sequence[SourceFolder]) -> None:
        """Make those of the folders that are missing."""
        ...

    def made(self) -> tuple[FolderPath, ...]:
        """The folders that were made, as paths in the target."""
        ...

    def proven(self, batch: Sequence[Recovered]) -> list[Recovered] | None:
        """The part of a batch whose bytes were read again from where they now are, and are the same; None
        when that cannot be known before all is written.
        """
        ...


def _raw(source: Reader, item: ItemRecord) -> bytes:
    raw = messages.content(source, item)
    if len(raw) != item.size:
        raise Corrupt(
            f"message {id_text(item.message_id)} has {len(raw)} bytes where {item.size} were stored"
        )
    return raw


class MailboxDestination:
    """A live mailbox, or the public folders of a live store, while mail is merged into it."""

    def __init__(
        self, target: MailboxTarget, actor: Actor, origin: Origin, folders: Sequence[SourceFolder]
    ) -> None:
        self._target = target
        self._actor = actor
        self._origin = origin
        self._is_lineage = target.database.guid == origin.database
        self._folders = FolderMap(origin, folders, target.guid, self._is_lineage)
        self._held = HeldMessages(origin, target.guid, self._is_lineage, self._folders)
        self._read: ReadTransaction | None = None
        self._added: dict[int, int] = {}  # of the last batch: id in the source to that in the target
        self._fetched: content_transfer.Fetched = {}

    @contextmanager
    def reading(self) -> Iterator[None]:
        self._fetched = {}
        with self._target.database.read(self._actor) as self._read:
            yield
        self._read = None

    @property
    def _present(self) -> ReadTransaction:
        assert self._read is not None, "called within `reading`"
        return self._read

    def learn(self, source: Reader, folders: Sequence[SourceFolder]) -> None:
        tree_of(self._present, self._target.guid)
        self._folders.learn(self._present)
        self._held.learn(source, folders, self._present)

    def holds(self, item: ItemRecord) -> bool:
        return self._held.holds(self._present, item)

    def fetch(self, source: Reader, item: ItemRecord, raw: bytes | None) -> FetchedContent | Prepared:
        if raw is None:
            return content_transfer.fetch(source, self._present, item.digest, self._fetched)
        content = content_store.prepare(self._target.database.files, raw)
        if content.digest != item.digest:
            raise Corrupt(f"message {id_text(item.message_id)} is of other bytes than were stored")
        return Prepared(raw, content)

    def path(self, folder: SourceFolder) -> FolderPath:
        now_ms = self._target.database.clock.now_ms()
        return self._folders.path(self._present, folder.record.folder_id, now_ms)

    def has_folder(self, folder: SourceFolder) -> bool:
        return self._folders.find(self._present, folder.record.folder_id) is not None

    def write(self, source: Reader, batch: Sequence[Recovered]) -> list[Recovered]:
        self._target.database.refuse_below_disk_floor()
        with self._target.database.transaction(self._actor) as txn:
            self._held.catch_up(txn)
            added = [
                each for each in batch if each.content is not None and not self._held.has_added(each.item)
            ]
            places: dict[int, int] = {}
            placed = [self._add(txn, source, each, places) for each in added]
            self._added = {
                each.item.message_id: item.message_id for each, item in zip(added, placed, strict=True)
            }
            _mark_read(txn, added, placed)
            self._held.seen(txn)
        return added

    def _add(
        self, txn: WriteTransaction, source: Reader, each: Recovered, places: dict[int, int]
    ) -> ItemRecord:
        source_id = each.folder.record.folder_id
        if source_id not in places:
            places[source_id] = self._folders.ensure(txn, source_id).folder_id
        if isinstance(each.content, FetchedContent):
            content_transfer.hold(txn, source, each.content)
        elif isinstance(each.content, Prepared):
            content_store.hold(txn, *each.content)
        target = get_folder(txn, places[source_id])
        item = each.item._replace(properties=self._properties(each.item))
        return messages.place_as_new(txn, target, item)

    def _properties(self, item: ItemRecord) -> dict[str, object]:
        properties = {**item.properties, RECOVERED_FROM: self._origin.mark(item.message_id)}
        if not self._is_lineage:
            properties.pop(messages.FORMER_FOLDER, None)  # an id of the other database
        return properties

    def make_folders(self, folders: Sequence[SourceFolder]) -> None:
        ids = [each.record.folder_id for each in folders]
        with self.reading():
            missing = [each for each in ids if not self._folders.is_settled(self._present, each)]
        if missing:
            with self._target.database.transaction(self._actor) as txn:
                for each in missing:
                    self._folders.ensure(txn, each)

    def made(self) -> tuple[FolderPath, ...]:
        return tuple(self._folders.made)

    def proven(self, batch: Sequence[Recovered]) -> list[Recovered]:
        with self._target.database.read(self._actor) as read:
            return [each for each in batch if self._is_proven(read, each.item)]

    def _is_proven(self, read: Reader, item: ItemRecord) -> bool:
        """True when the mailbox has the message now (its user may have deleted it), its bytes right."""
        target_id = self._added.get(item.message_id) or self._held.id_of(item)
        try:
            if not is_there(read, item._replace(message_id=target_id), self._target.guid):
                return False
            return digest_of(content_store.read(read, item.digest)) == item.digest
        except Corrupt:
            return False


def _mark_read(txn: WriteTransaction, added: Sequence[Recovered], placed: Sequence[ItemRecord]) -> None:
    """Let who had read the messages have read them where they are now; all at once for each account."""
    uids: dict[tuple[int, str], list[int]] = {}
    for each, item in zip(added, placed, strict=True):
        for account in each.read_by:
            uids.setdefault((item.folder_id, account), []).append(item.uid)
    for (folder_id, account), read in uids.items():
        public_folders.mark_read_for(txn, folder_id, account, read)


class FileDestination:
    """Mail files while they are written. Nothing is there before; folders without messages leave nothing."""

    def __init__(self, target: FileTarget, add: AddMessage) -> None:
        self.written: list[Recovered] = []
        self._target = target
        self._add = add

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def learn(self, source: Reader, folders: Sequence[SourceFolder]) -> None:
        """A new directory holds nothing."""

    def holds(self, item: ItemRecord) -> bool:
        return False

    def fetch(self, source: Reader, item: ItemRecord, raw: bytes | None) -> bytes:
        return _raw(source, item) if raw is None else raw

    def path(self, folder: SourceFolder) -> FolderPath:
        return folder.path

    def has_folder(self, folder: SourceFolder) -> bool:
        return True

    def write(self, source: Reader, batch: Sequence[Recovered]) -> list[Recovered]:
        added = []
        for each in batch:
            if isinstance(each.content, bytes):
                item, flags = each.item, messages.flag_names(each.item)
                written = MailItem(each.content, flags, item.received_ms, id_text(item.message_id))
                self._add(each.folder.path, written, item.subject)
                added.append(each._replace(content=None))
        self.written += added
        return added

    def make_folders(self, folders: Sequence[SourceFolder]) -> None:
        """Folders without messages leave nothing."""

    def made(self) -> tuple[FolderPath, ...]:
        return ()

    def proven(self, batch: Sequence[Recovered]) -> None:
        """Files are read again when they are finished: `proven_files`."""

    def proven_files(self) -> list[Recovered]:
        """The messages whose bytes are in the finished files, and `written` tells of."""
        target = self._target
        found = Counter(
            digest_of(each.raw) for each in read_mail_files(target.out, target.format, target.dialect)
        )
        proven = []
        for each in self.written:
            if found[each.item.digest] > 0:
                found[each.item.digest] -= 1
                proven.append(each)
        return proven
