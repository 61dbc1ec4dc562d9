"""The check of records and counters: what each record says of itself, and what belongs to it."""

from __future__ import annotations

from pillarbox.store.disk.tables import (
    FolderRecord,
    ItemRecord,
    ItemRole,
    MailboxRecord,
    SeenRecord,
    Table,
    TombstoneRecord,
    id_key,
    is_in_tree,
    item_key,
    kept_folder,
    split_pair_key,
)
from pillarbox.store.engine import content_store
from pillarbox.store.errors import PillarboxError
from pillarbox.store.ids import id_text, local_counter
from pillarbox.store.mail.counters import FolderSums, MailboxSums
from pillarbox.store.mail.folders import DEPTH_MAX
from pillarbox.store.upkeep.check_findings import SHAPE_ERRORS, CheckedState


class RecordsCheck:
    """Goes through items before folders, and folders before mailboxes: each sums up what the next one counts.

    `highest_cn` is the highest counter in use among change numbers, `highest_id` among ids;
    `damaged_content` says why content cannot be told the size of; `versions_count` counts the versions of
    messages that nobody meets but by their ids.
    """

    def __init__(self, checked: CheckedState) -> None:
        self._checked = checked
        self._folders: dict[int, FolderSums] = {}
        self._mailboxes: dict[bytes, MailboxSums] = {}
        self.highest_cn = self.highest_id = self.versions_count = 0
        self.damaged_content: dict[bytes, str] = {}

    def _sums(self, folder_id: int) -> FolderSums:
        return self._folders.setdefault(folder_id, FolderSums())

    def _note_cn(self, cn: int) -> None:
        self.highest_cn = max(self.highest_cn, local_counter(cn))

    def _note_id(self, number: int) -> None:
        self.highest_id = max(self.highest_id, local_counter(number))

    def check_item(self, key: bytes, item: ItemRecord) -> None:
        """Look at a message: its place, its folder, its content and its size."""
        self.versions_count += item.role == ItemRole.VERSION
        if key != item_key(item.folder_id, item.uid):
            self._checked.found(
                Table.ITEM, key, "stands under the key of another message", self._checked.message_text(item)
            )
            return
        self._sums(item.folder_id).add(item)
        self._note_cn(item.modseq)
        self._note_id(item.message_id)
        if not self._checked.exists(Table.FOLDER, id_key(item.folder_id)):
            self._checked.found(
                Table.ITEM, key, "its folder does not exist", self._checked.message_text(item)
            )
        content = self._checked.view.get(Table.CONTENT, item.digest)
        if content is None:
            self._checked.found(
                Table.ITEM, key, "its content does not exist", self._checked.message_text(item)
            )
            return
        try:
            size = content_store.content_record(self._checked.reader, item.digest).size
        except SHAPE_ERRORS as error:
            self.damaged_content[item.digest] = str(error)
        else:
            if size != item.size:
                self._checked.found(
                    Table.ITEM,
                    key,
                    f"has size {item.size}, its content {size}",
                    self._checked.message_text(item),
                )

    def check_tombstone(self, key: bytes, tombstone: TombstoneRecord) -> None:
        """Take note of the change number of a deletion, and read the folder that it keeps."""
        if tombstone.folder:
            kept_folder(tombstone)
        folder_id, cn = split_pair_key(key)
        self._note_cn(cn)
        self._sums(folder_id).note(0, cn)

    def check_seen(self, key: bytes, _: SeenRecord) -> None:
        """Look for the folder of read state."""
        if not self._checked.exists(Table.FOLDER, key[:8]):
            self._checked.found(Table.SEEN, key, "read state of a folder that does not exist")

    def check_folder(self, key: bytes, record: FolderRecord) -> None:
        """Compare what a folder counts with its messages, and look at its place in the tree."""
        text = self._checked.folder_text(record.folder_id)
        if key != id_key(record.folder_id):
            self._checked.found(Table.FOLDER, key, "stands under the key of another folder", text)
            return
        self._note_cn(max(record.highest_cn, record.change_cn))
        self._note_id(record.folder_id)
        if not is_in_tree(record):
            return  # it counts nothing, and what it is in may have gone first
        self._check_folder_place(key, record, text)
        sums = self._sums(record.folder_id)
        for name, expected, stored in sums.problems(record):
            self._checked.found(Table.FOLDER, key, f"{name} is {stored} where {expected} is right", text)
        self._mailboxes.setdefault(record.mailbox, MailboxSums()).add(sums.counts)

    def _check_folder_place(self, key: bytes, record: FolderRecord, text: str) -> None:
        if record.mailbox and not self._checked.exists(Table.MAILBOX, record.mailbox):
            self._checked.found(Table.FOLDER, key, "its mailbox does not exist", text)
        at, depth = record, 0
        while at.parent_id:
            try:
                parent: FolderRecord | None = self._checked.reader.record(Table.FOLDER, id_key(at.parent_id))
            except PillarboxError:
                return  # that folder is named by itself
            if parent is None:
                if at is record:
                    self._checked.found(
                        Table.FOLDER, key, f"its parent {id_text(at.parent_id)} does not exist", text
                    )
                return
            if at is record and parent.mailbox != record.mailbox:
                self._checked.found(Table.FOLDER, key, "its parent is of another mailbox", text)
            at, depth = parent, depth + 1
            if depth > 2 * DEPTH_MAX:
                self._checked.found(Table.FOLDER, key, "it lies within itself", text)
                return

    def check_mailbox(self, key: bytes, record: MailboxRecord) -> None:
        """Compare what a mailbox counts with its folders, and look for those that it names."""
        text = self._checked.mailbox_text(record.guid)
        if key != record.guid:
            self._checked.found(Table.MAILBOX, key, "stands under the key of another mailbox", text)
            return
        for name, expected, stored in self._mailboxes.get(key, MailboxSums()).problems(record):
            self._checked.found(Table.MAILBOX, key, f"{name} is {stored} where {expected} is right", text)
        for role, folder_id in (("root", record.root_id), *record.roles.items()):
            if not self._checked.exists(Table.FOLDER, id_key(folder_id)):
                self._checked.found(Table.MAILBOX, key, f"its folder {role!r} does not exist", text)
        self._note_cn(record.change_cn)
