"""The third part of a repair: make the tables agree with one another and with the stream.

Everything that follows from something else is computed again. What a record names and nobody has is made
anew, in a place of its own. Memory grows with the number of messages, by some 200 bytes each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from pillarbox.store.disk.tables import (
    ARRIVING,
    IDENTITY_KEY,
    LAYOUT_VERSION_MIN,
    LET_GO_KEY,
    PRIMARY,
    STATE_KEY,
    FolderRecord,
    IdentityRecord,
    ItemRecord,
    ItemRole,
    MailboxRecord,
    Record,
    SegmentRecord,
    StateRecord,
    Table,
    derived_entries,
    id_key,
    is_in_tree,
    segment_key,
    split_pair_key,
    split_replica_key,
)
from pillarbox.store.engine.change_feed import bury_message
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import ReadTransaction
from pillarbox.store.ids import LOCAL_BASE, guid_text, id_text, local_counter
from pillarbox.store.mail.counters import FolderSums, MailboxSums
from pillarbox.store.mail.folders import DEPTH_MAX, new_record
from pillarbox.store.mail.mailboxes import CONNECTED, STANDARD_FOLDERS
from pillarbox.store.names import name_key
from pillarbox.store.upkeep.let_go import record_of
from pillarbox.store.upkeep.repair_content import ProvedContent
from pillarbox.store.upkeep.repair_draft import Draft
from pillarbox.store.upkeep.repair_gather import Gathered
from pillarbox.store.upkeep.repair_numbers import leave_numbers_out

RECOVERED: Final = "Recovered"


class LostMessage(NamedTuple):
    """A message whose content is damaged, and which is therefore gone."""

    folder: str
    uid: int
    subject: str
    sender: str
    internet_message_id: str
    reason: str


class Rebuild:
    """One rebuilding. `kept` counts messages, `unaccounted` are digests of whole content without one."""

    def __init__(self, database: Database, draft: Draft, gathered: Gathered) -> None:
        self._database = database
        self._draft = draft
        self._gathered = gathered
        self._content = ProvedContent(draft, gathered)
        self.now_ms = database.clock.now_ms()
        self._counter = 0
        self._references: Counter[bytes] = Counter()
        self._sums: dict[int, FolderSums] = {}
        self._totals = [0, 0]  # content bytes, live bytes
        self.kept = 0
        self.unaccounted: list[bytes] = []
        self.lost: list[LostMessage] = []
        self.dropped: list[str] = []
        self._lost_content: set[bytes] = set()
        self.restored: list[str] = []

    def run(self) -> None:
        """Put everything right, in an order in which later steps use what earlier ones found."""
        self._find_counter()
        self._check_identity()
        self._content.prove()
        self.dropped += self._content.dropped
        self._sum_items()
        self._restore_standard_folders()
        self._restore_folders()
        self._restore_mailboxes()
        self._untie_folders()
        self._tell_names_apart()
        self._count_folders_and_mailboxes()
        self._count_references()
        self._count_segments()
        self._remember_let_go()
        if self._has_lost_transactions():
            self._counter = leave_numbers_out(self._draft, self._counter)
        self._write_state()
        self._derive()

    def next_cn(self) -> int:
        """A change number above all that the tables and the stream tell of."""
        self._counter += 1
        return LOCAL_BASE | self._counter

    def insert(self, table: Table, key: bytes, record: Record) -> None:
        """Put a record that the stream does not tell of, under a key that was never used."""
        self._draft.put(table, key, record)

    def _find_counter(self) -> None:
        """No number may be given out a second time."""
        with self._draft.reading() as reader:
            state: StateRecord | None = reader.record(Table.META, STATE_KEY)
            highest = state.counter if state else 0
            for _, item in reader.records(Table.ITEM, b"", None):
                highest = max(highest, *map(local_counter, (item.modseq, item.message_id)))
            for _, found in reader.records(Table.FOLDER, b"", None):
                highest = max(
                    highest, *map(local_counter, (found.highest_cn, found.change_cn, found.folder_id))
                )
            for _, box in reader.records(Table.MAILBOX, b"", None):
                highest = max(highest, local_counter(box.change_cn))
            for key, _ in reader.records(Table.TOMBSTONE, b"", None):
                highest = max(highest, local_counter(split_pair_key(key)[1]))
        self._counter = highest

    def _check_identity(self) -> None:
        with self._draft.reading() as reader:
            if reader.record(Table.META, IDENTITY_KEY) is None:
                made = IdentityRecord(
                    layout_version=LAYOUT_VERSION_MIN,  # every upgrade step is taken at the next mount
                    guid=self._database.guid,
                    kind=self._database.kind,
                    created_ms=self.now_ms,
                    roots={},
                )
                self._draft.put(Table.META, IDENTITY_KEY, made)
                self.restored.append("the identity of the database")

    # -- messages

    def _sum_items(self) -> None:
        with self._draft.reading() as reader:
            for key, item in reader.records(Table.ITEM, b"", None):
                if item.digest not in self._content.whole:
                    self._remove(reader, key, item)
                    continue
                self._references[item.digest] += 1
                self.kept += item.role != ItemRole.VERSION
                self._sums.setdefault(item.folder_id, FolderSums()).add(item)
        for subject, sender, problem in self._content.fragments:
            self.lost.append(LostMessage("", 0, subject, sender, "", problem))

    def _remove(self, reader: ReadTransaction, key: bytes, item: ItemRecord) -> None:
        """Take a message out whose content is lost; who follows the folder is told as of any deletion."""
        reason = self._content.problems.get(item.digest, "the record of its content is lost")
        found: FolderRecord | None = reader.record(Table.FOLDER, id_key(item.folder_id))
        name = id_text(item.folder_id)
        if found is not None:
            box: MailboxRecord | None = reader.record(Table.MAILBOX, found.mailbox) if found.mailbox else None
            name = f"{box.name}: {found.name}" if box else found.name
        self.lost.append(
            LostMessage(name, item.uid, item.subject, item.sender, item.internet_message_id, reason)
        )
        self._lost_content.add(item.digest)
        self._draft.put(Table.ITEM, key, None)
        cn = bury_message(self, item)
        self._sums.setdefault(item.folder_id, FolderSums()).note(item.uid, cn)

    # -- folders and mailboxes

    def _folder(self, folder_id: int, mailbox: bytes, parent_id: int, name: str) -> FolderRecord:
        record = new_record(folder_id, folder_id, self.now_ms)
        record = record._replace(mailbox=mailbox, parent_id=parent_id, name=name, change_cn=self.next_cn())
        self._draft.put(Table.FOLDER, id_key(folder_id), record)
        return record

    def _restore_standard_folders(self) -> None:
        """Lost folders that a mailbox's record names have their place and their name."""
        with self._draft.reading() as reader:
            folders = {record.folder_id for _, record in reader.records(Table.FOLDER, b"", None)}
            for guid, box in reader.records(Table.MAILBOX, b"", None):
                if box.root_id not in folders:
                    self._folder(box.root_id, guid, 0, guid_text(guid))
                    self.restored.append(f"the root folder of mailbox {box.name}")
                for role, folder_id in box.roles.items():
                    if folder_id not in folders:
                        name = STANDARD_FOLDERS.get(role, role)
                        self._folder(folder_id, guid, box.root_id, name)
                        self.restored.append(f"folder {name} of mailbox {box.name}")

    def _restore_folders(self) -> None:
        """Folders that messages name and that are lost get a record again, in a place of their own."""
        with self._draft.reading() as reader:
            lost = [
                folder_id
                for folder_id, sums in self._sums.items()
                if sums.messages and reader.view.get(Table.FOLDER, id_key(folder_id)) is None
            ]
            if not lost:
                return
            identity: Any = reader.record(Table.META, IDENTITY_KEY)
            is_public = identity is not None and not any(reader.records(Table.MAILBOX, b"", None))
            mailbox, root_id = b"", 0
            if is_public and identity.roots:
                root_id = next(iter(identity.roots.values()))
            elif not is_public:
                mailbox = self._draft.files.rng.getrandbits(128).to_bytes(16, "big")
                root_id = self._folder(self.next_cn(), mailbox, 0, guid_text(mailbox)).folder_id
            for folder_id in lost:
                name = f"{RECOVERED} {id_text(folder_id)}"
                self._folder(folder_id, mailbox, root_id, name)
                self.restored.append(f"folder {name}")

    def _restore_mailboxes(self) -> None:
        """A mailbox is known by its root folder too; a folder whose parent is lost goes to the root."""
        with self._draft.reading() as reader:
            folders = {record.folder_id: record for record in _folders_in_use(reader)}
            roots = {each.mailbox: each for each in folders.values() if each.mailbox and not each.parent_id}
            titles = {(each.parent_id, each.name): each.folder_id for each in folders.values()}
            for guid in sorted({each.mailbox for each in folders.values() if each.mailbox}):
                root = roots.get(guid) or self._folder(self.next_cn(), guid, 0, guid_text(guid))
                roots[guid] = folders[root.folder_id] = root
                if reader.view.get(Table.MAILBOX, guid) is None:
                    self._restore_mailbox(guid, root, titles)
            for record in list(folders.values()):
                parent = folders.get(record.parent_id)
                if record.parent_id and (parent is None or parent.mailbox != record.mailbox):
                    self._move_to_root(record, roots)

    def _move_to_root(self, record: FolderRecord, roots: Mapping[bytes, FolderRecord]) -> None:
        parent_id = roots[record.mailbox].folder_id if record.mailbox else 0
        name = f"{RECOVERED} {id_text(record.folder_id)}"
        moved = record._replace(parent_id=parent_id, name=name, change_cn=self.next_cn())
        self._draft.put(Table.FOLDER, id_key(record.folder_id), moved)
        self.restored.append(f"folder {record.name} as {name}")

    def _restore_mailbox(
        self, guid: bytes, root: FolderRecord, titles: Mapping[tuple[int, str], int]
    ) -> None:
        """Its name is lost, and the standard folders are known by theirs."""
        roles = {
            role: titles.get((root.folder_id, title))
            or self._folder(self.next_cn(), guid, root.folder_id, title).folder_id
            for role, title in STANDARD_FOLDERS.items()
        }
        name = f"{RECOVERED} {guid_text(guid)}"
        record = MailboxRecord(
            guid=guid,
            name=name,
            user=b"",
            state=CONNECTED,
            disconnected_ms=0,
            root_id=root.folder_id,
            roles=roles,
            size=0,
            messages_count=0,
            change_cn=self.next_cn(),
            properties={},
        )
        self._draft.put(Table.MAILBOX, guid, record)
        self.restored.append(f"mailbox {name}")

    def _untie_folders(self) -> None:
        """Folders that moves, some of them lost, have put into one another in a circle go to the root."""
        with self._draft.reading() as reader:
            folders = {record.folder_id: record for record in _folders_in_use(reader)}
            roots = {each.mailbox: each for each in folders.values() if each.mailbox and not each.parent_id}
            safe: set[int] = set()
            for record in folders.values():
                way: list[FolderRecord] = []
                at: FolderRecord | None = record
                while at is not None and at.folder_id not in safe and len(way) <= 2 * DEPTH_MAX:
                    way.append(at)
                    at = folders.get(at.parent_id) if at.parent_id else None
                if len(way) > 2 * DEPTH_MAX:
                    self._move_to_root(way[0], roots)
                    folders[way[0].folder_id] = way[0]._replace(parent_id=0)
                    way = way[:1]
                safe.update(each.folder_id for each in way)

    def _tell_names_apart(self) -> None:
        """Of two folders, or mailboxes, of one name the later one gets another: a rename may be lost."""
        with self._draft.reading() as reader:
            names: set[tuple[int, bytes]] = set()
            for record in sorted(_folders_in_use(reader), key=attrgetter("change_cn")):
                place = record.parent_id, name_key(record.name)
                if record.parent_id and place in names:
                    name = f"{RECOVERED} {id_text(record.folder_id)}"
                    renamed = record._replace(name=name, change_cn=self.next_cn())
                    self._draft.put(Table.FOLDER, id_key(record.folder_id), renamed)
                    self.restored.append(f"folder {record.name} as {name}")
                names.add(place)
            boxes: set[bytes] = set()
            for key, box in sorted(
                reader.records(Table.MAILBOX, b"", None), key=lambda row: row[1].change_cn
            ):
                if box.state == ARRIVING:
                    continue  # it has no name until its move shows it
                if name_key(box.name) in boxes:
                    name = f"{RECOVERED} {guid_text(box.guid)}"
                    self._draft.put(Table.MAILBOX, key, box._replace(name=name, change_cn=self.next_cn()))
                    self.restored.append(f"mailbox {box.name} as {name}")
                boxes.add(name_key(box.name))

    def _count_folders_and_mailboxes(self) -> None:
        mailboxes: dict[bytes, MailboxSums] = {}
        with self._draft.reading() as reader:
            for key, _ in reader.records(Table.TOMBSTONE, b"", None):
                folder_id, cn = split_pair_key(key)
                self._sums.setdefault(folder_id, FolderSums()).note(0, cn)
            for record in _folders_in_use(reader):
                sums = self._sums.get(record.folder_id, FolderSums())
                mailboxes.setdefault(record.mailbox, MailboxSums()).add(sums.counts)
                self._name_surplus(reader, record, sums.messages - record.messages_count)
                if (counted := sums.corrected(record)) != record:
                    self._draft.put(Table.FOLDER, id_key(record.folder_id), counted)
            for key, record in reader.records(Table.MAILBOX, b"", None):
                if (right := mailboxes.get(key, MailboxSums()).corrected(record)) != record:
                    self._draft.put(Table.MAILBOX, key, right)
            for key, _ in reader.records(Table.SEEN, b"", None):
                if reader.view.get(Table.FOLDER, key[:8]) is None:
                    self._draft.put(Table.SEEN, key, None)

    def _name_surplus(self, reader: ReadTransaction, record: FolderRecord, count: int) -> None:
        """Name a folder of which the last record that is whole counts fewer messages than are found."""
        if count > 0 and self._has_lost_transactions():
            box: Any = reader.record(Table.MAILBOX, record.mailbox) if record.mailbox else None
            name = f"{box.name}: {record.name}" if box else record.name
            self.restored.append(f"{count} more in {name} than it had: deleted mail may be back")

    # -- content

    def _count_references(self) -> None:
        blocks: Counter[bytes] = Counter()
        with self._draft.reading() as reader:
            for key, record in reader.records(Table.CONTENT, b"", None):
                held = self._references[key]
                if not held and not self._is_to_come_back(key, record):
                    self._name_lost_content(key)
                    self._draft.put(Table.CONTENT, key, None)
                    continue
                if not held:
                    self.unaccounted.append(key)
                blocks.update(digest for part in record.parts for digest in part[4])
                if record.references != held:
                    self._draft.put(Table.CONTENT, key, record._replace(references=held))
            for key, record in reader.records(Table.BLOCK, b"", None):
                held = blocks[key]
                if not held:
                    self._draft.put(Table.BLOCK, key, None)
                elif record.references != held:
                    self._draft.put(Table.BLOCK, key, record._replace(references=held))

    def _is_to_come_back(self, digest: bytes, record: Any) -> bool:
        """True for whole content without a message, unless all messages that held it are known as deleted.

        A damaged redo record may be that of their deletion: tombstones in the old tables tell of it.
        """
        is_deleted = 0 < record.references <= self._gathered.deleted[digest]
        return self._content.is_unaccounted(digest) and not is_deleted

    def _name_lost_content(self, key: bytes) -> None:
        """Content that is damaged, that no message holds, and that the stream does not say was deleted."""
        problem = self._content.problems.get(key)
        from_tables = (Table.CONTENT, key) in self._gathered.from_tables
        if problem is not None and key not in self._lost_content and not from_tables:
            self.lost.append(LostMessage("", 0, "", "", "", f"content[{key.hex()}]: {problem}"))

    def _count_segments(self) -> None:
        live: Counter[int] = Counter()
        with self._draft.reading() as reader:
            for table in (Table.CONTENT, Table.BLOCK, Table.DICTIONARY):
                for _, record in reader.records(table, b"", None):
                    live[record.segment] += record.length
            before = dict(reader.records(Table.SEGMENT, b"", None))
        counted = self._gathered.content_bytes
        for number in sorted({*counted, *live, *(int.from_bytes(key, "big") for key in before)}):
            content_bytes, key = counted[number], segment_key(number)
            record = None
            if content_bytes or live[number]:
                record = SegmentRecord(content_bytes=content_bytes, live_bytes=live[number])
            if record != before.get(key):
                self._draft.put(Table.SEGMENT, key, record)
            self._totals[0] += content_bytes
            self._totals[1] += live[number]

    def _remember_let_go(self) -> None:
        with self._draft.reading() as reader:
            record = record_of(self._gathered.stretches)
            if record != reader.record(Table.META, LET_GO_KEY):
                self._draft.put(Table.META, LET_GO_KEY, record)

    def _write_state(self) -> None:
        with self._draft.reading() as reader:
            old: StateRecord | None = reader.record(Table.META, STATE_KEY)
            state = StateRecord(
                sequence=self._gathered.sequence,
                counter=self._counter,
                content_bytes=self._totals[0],
                live_bytes=self._totals[1],
                checked_ms=old.checked_ms if old else 0,
                restored=self._has_lost_records() or old is None or old.restored,
                above_limit_ms=old.above_limit_ms if old else 0,
                numbering=old.numbering if old else _own_numbering(reader),
                clock_ms=old.clock_ms if old else 0,
                clock_counter=old.clock_counter if old else 0,
            )
            if state != old:
                self._draft.put(Table.META, STATE_KEY, state)

    def _has_lost_records(self) -> bool:
        return self._has_lost_transactions() or bool(self._gathered.unreadable)

    def _has_lost_transactions(self) -> bool:
        """Tell whether there may have been transactions of which nothing is left."""
        gathered = self._gathered
        return bool(gathered.dropped or gathered.unread or self.lost) or not gathered.is_end_known

    def _derive(self) -> None:
        with self._draft.reading() as reader:
            for table in PRIMARY:
                for key, record in reader.records(table, b"", None):
                    for (index, index_key), value in derived_entries(table, key, record).items():
                        self._draft.put_value(index, index_key, value)


def _own_numbering(reader: ReadTransaction) -> int:
    """The replica number of the database's last numbering that is known of; 0 where it has none."""
    own = [
        (replica.incarnation, split_replica_key(key)[0])
        for key, replica in reader.records(Table.REPLICA, b"", None)
        if replica.database == reader.files.guid
    ]
    return max(own, default=(0, 0))[1]


def _folders_in_use(reader: ReadTransaction) -> Iterator[FolderRecord]:
    """Every folder but deleted ones and incomplete copies, which the next mount removes."""
    for _, record in reader.records(Table.FOLDER, b"", None):
        if is_in_tree(record):
            yield record
