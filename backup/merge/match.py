"""The messages that a tree holds already, wherever they were moved and however they were flagged since.

A message is the same one when it has the same id in the same database; else when what is there is marked as
made from it; else when one of the same bytes is there that no other message of the source is. A message's
bytes never change, so all three compare digests as well, from the records alone. By its bytes a message of
a mailbox is found in any folder, one of a public folder only there: posted to two folders it is two messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pillarbox.backup.merge.folders import FolderMap, Origin, target_folders
from pillarbox.backup.merge.source import Damage, SourceFolder, messages_of, tree_of
from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.tables import ItemRecord, Table, id_key
from pillarbox.store.engine import change_feed
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Corrupt
from pillarbox.store.mail import folders

# Messages that are compared at once, a few hundred bytes each; more are compared in parts, by their digests.
PART_MESSAGES: Final = 250_000
_NO_FOLDER: Final = -1


class _Content(NamedTuple):
    """Bytes of a message, and the folder of the target in which they count: 0 for any."""

    folder_id: int
    digest: bytes


class HeldMessages:
    """The messages of a source tree that a target tree holds, as far as one merge needs to know them.

    Kept in memory are the ids of messages that the target holds under other ids.
    """

    def __init__(self, origin: Origin, target_guid: bytes, is_lineage: bool, folder_map: FolderMap) -> None:
        """`is_lineage`: source and target are states of one database."""
        self._origin = origin
        self._folder_map = folder_map
        self._target_guid = target_guid
        # A copy is complete by itself: only what the same copy brought before counts.
        self._by_id = is_lineage and not origin.copy
        self._present: dict[int, int] = {}  # to the id in the target
        self._seen_counter = 0

    def learn(self, source: Reader, source_folders: Sequence[SourceFolder], target: Reader) -> None:
        """Compare two states, when the folder map has learned. Reads records only: every one of the source
        tree, and those of the target tree when its database has content of the source that is not found by
        id. Raises Corrupt for damage in the target; what is damaged in the source is passed over.
        """
        self._seen_counter = target.state().counter
        parts = 1 + sum(each.record.messages_count for each in source_folders) // PART_MESSAGES
        for part in range(parts):
            wanted = self._wanted(source, source_folders, target, (part, parts))
            if wanted:
                self._match(wanted, source, target)

    def _match(self, wanted: dict[int, _Content], source: Reader, target: Reader) -> None:
        digests = {content.digest for content in wanted.values()}
        free: dict[_Content, list[int]] = {}
        root = folders.get(target, tree_of(target, self._target_guid).root_id)
        for record, is_copy in target_folders(target, root):
            counts_in = record.folder_id if self._origin.tree.is_public else 0
            for item in folders.messages(target, record.folder_id):
                if item.digest in digests and not self._is_of_source(source, item):
                    marked = self._origin.marked_id(item.properties)
                    is_marked = marked in wanted and wanted[marked].digest == item.digest
                    if is_marked and marked not in self._present:
                        self._present[marked] = item.message_id
                    elif not is_copy:
                        free.setdefault(_Content(counts_in, item.digest), []).append(item.message_id)
        if not self._origin.copy:
            self._match_by_content(wanted, free)

    def _wanted(
        self, source: Reader, source_folders: Sequence[SourceFolder], target: Reader, part: tuple[int, int]
    ) -> dict[int, _Content]:
        """The source's messages, by id, that may be there under another id, in part n of m."""
        wanted: dict[int, _Content] = {}
        for each in source_folders:
            counts_in = self._counts_in(target, each)
            for item in messages_of(source, each, 0, _pass_over):
                if int.from_bytes(item.digest[:4], "big") % part[1] != part[0]:
                    continue
                if target.view.get(Table.CONTENT, item.digest) is not None and not self._found(target, item):
                    wanted[item.message_id] = _Content(counts_in, item.digest)
        return wanted

    def _counts_in(self, target: Reader, source_folder: SourceFolder) -> int:
        """The folder of the target in which messages of a source folder are known by their bytes; 0: any."""
        if not self._origin.tree.is_public:
            return 0
        found = self._folder_map.find(target, source_folder.record.folder_id)
        return found.folder_id if found else _NO_FOLDER

    def _match_by_content(self, wanted: dict[int, _Content], free: dict[_Content, list[int]]) -> None:
        for message_id, content in wanted.items():
            if message_id not in self._present and free.get(content):
                self._present[message_id] = free[content].pop()

    def holds(self, target: Reader, item: ItemRecord) -> bool:
        """True when the target holds a message of the source."""
        return item.message_id in self._present or self._found(target, item)

    def _found(self, target: Reader, item: ItemRecord) -> bool:
        return self._by_id and is_there(target, item, self._target_guid)

    def _is_of_source(self, source: Reader, item: ItemRecord) -> bool:
        """True when a message of the target is one that the source has under the same id."""
        try:
            return self._by_id and is_there(source, item, self._origin.tree.guid)
        except Corrupt:
            return False

    def catch_up(self, txn: WriteTransaction) -> None:
        """Take notice of what another merge has added meanwhile. Call first in each transaction."""
        if txn.counter == self._seen_counter:
            return
        since = CNSet.full(txn.files.guid, self._seen_counter)
        for change in change_feed.changes(txn, since):
            marked = self._origin.marked_id(change.item.properties) if change.item is not None else 0
            if not marked or not folders.is_there(txn, change.folder_id):
                continue
            if folders.get(txn, change.folder_id).mailbox == self._target_guid:
                self._present[marked] = change.object_id

    def id_of(self, item: ItemRecord) -> int:
        """The id in the target of a message that it held."""
        return self._present.get(item.message_id, item.message_id)

    def has_added(self, item: ItemRecord) -> bool:
        """True when a message that was not there is there now, as `catch_up` saw it."""
        return item.message_id in self._present

    def seen(self, txn: WriteTransaction) -> None:
        """The changes of this transaction need no second look. Call last in each transaction."""
        self._seen_counter = txn.counter


def is_there(reader: Reader, item: ItemRecord, mailbox_guid: bytes) -> bool:
    """True when a mailbox, or with an empty GUID the public folders, has a message of the same id and bytes,
    as its record says. Raises Corrupt.
    """
    place = reader.index(Table.LOCATION, id_key(item.message_id))
    found: ItemRecord | None = None if place is None else reader.record(Table.ITEM, place)
    # A database that was restored gave ids out again: the same id alone proves nothing.
    if found is None or found.digest != item.digest:
        return False
    if not folders.is_there(reader, found.folder_id):
        return False
    return folders.get(reader, found.folder_id).mailbox == mailbox_guid


def _pass_over(damage: Damage) -> None:
    """It is told when the message's turn comes."""
