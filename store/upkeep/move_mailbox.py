"""Moves of mailboxes between the databases of a server, while they are used (DOMAIN.md "Moving mailboxes").

The mailbox is copied into the other database, hidden: only this module finds it there. What changed meanwhile
is asked of the change feed and carried over, round by round, until little is left, and the rest in a
transaction that keeps all others from changing the source. Two databases share no transaction, so the end
takes three, each durable before the next:

    1. the copy, complete, is shown, with a mark that says which database it comes from
    2. the source mailbox is taken out, by the transaction in which the last changes were carried over; its
       tombstone says where it went, and its rows are removed after the move (`removal`)
    3. the mark goes

A marked copy counts once its source went there (`move_copies`): before 2 the old mailbox is found, after it
the new one. What is left by a move that was interrupted before 2 is thrown away at the next mount, or when it
is made again, since only the source was used meanwhile; after 2 only the mark is left to be removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.tables import (
    ARRIVING,
    DatabaseKind,
    FolderRecord,
    Hidden,
    ItemRecord,
    MailboxRecord,
    ObjectKind,
    Table,
    id_key,
    item_key,
)
from pillarbox.store.engine import content_transfer
from pillarbox.store.engine.change_feed import Change, changes
from pillarbox.store.engine.content_transfer import FetchedContent
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.engine.turns import Turn, TurnBlock
from pillarbox.store.errors import AlreadyExists, Corrupt, NotFound, PillarboxError, Refused
from pillarbox.store.ids import guid_text, id_text, parse_id
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.mail.counters import Counts, unread_of
from pillarbox.store.names import name_key
from pillarbox.store.upkeep.move_copies import discard_copy, is_incomplete, why_it_does_not_count

BATCH_MESSAGES: Final = 256
BATCH_BYTES: Final = 16 << 20
# So many changes are carried over in a moment: nobody notices that the source takes no others meanwhile.
_FEW_CHANGES: Final = 64
# The source may give out so many until a move has ended; UIDVALIDITY has 32 bits, enough for 4,000 moves.
_NUMBERS_MEANWHILE: Final = 1 << 20
# On a mailbox that changes faster than it can be followed, the last transaction takes longer instead.
_CATCH_UPS_MAX: Final = 8
_SEPARATOR: Final = "/"  # no mailbox or folder can be given a name with it (`check_name`)

# Whoever ends a move changes one database within a transaction of another: two at a time, in opposite
# directions, would wait for each other. A database is written by one process only, so this is enough.
_ending = threading.Lock()
_moves: dict[bytes, Turn] = {}  # by GUID of the mailbox; some have ended
_moving_lock = threading.Lock()


class DamagedMessage(NamedTuple):
    """A message whose content cannot be read, which was left behind. `folder` is its path."""

    folder: str
    message_id: int
    reason: str


class MailboxMove(NamedTuple):
    """A mailbox as it is in its new database, and what could not be moved; `size_bytes` of its messages."""

    mailbox: str
    guid: bytes
    folders_count: int
    messages_count: int
    size_bytes: int
    damaged: tuple[DamagedMessage, ...] = ()


class MoveProgress(NamedTuple):
    """The progress of a move: messages copied, of those there were when it began, and their bytes."""

    mailbox: str
    messages_count: int
    messages_total: int
    size_bytes: int


Progress = Callable[[MoveProgress], None]


class _NotAppliedYet(Exception):
    """Content is committed in the source, but its bytes may not be in the stream yet."""


def move_mailbox(
    source: Database,
    guid: bytes,
    target: Database,
    actor: Actor,
    *,
    skip_damaged_max: int = 0,
    progress: Progress | None = None,
) -> MailboxMove:
    """Move a mailbox (GUID) to another mounted mailbox store, durably; the old one goes only at the end.

    Everything stays as it is, but ids, UIDs and UIDVALIDITY are the new database's. Ids and UIDVALIDITY are
    higher than before: no client takes one message for another. It may be used meanwhile. Made again
    after an interruption, it begins anew or ends what was left to do. Up to `skip_damaged_max` messages whose
    content is damaged are left behind, and listed. `progress` is called between transactions.

    Raises NotFound, Dismounted, ReadOnly, DiskFull; AlreadyExists when the target has another mailbox of that
    name; Corrupt when more is damaged; Refused while it is being moved already, to where it is, or to a
    public folder store. Then the source is as it was.
    """
    if source.guid == target.guid:
        raise Refused(f"the mailbox is in {target.name} already", hint="name another database")
    if target.kind != DatabaseKind.MAILBOX_STORE:
        raise Refused("a public folder store holds no mailboxes", hint="name a mailbox store")
    with Alone(guid) as is_alone:
        if not is_alone:
            raise Refused(f"mailbox {guid_text(guid)} is being moved", hint="wait until that has ended")
        box = _present(source, guid, actor)
        if box is None:
            return _finish_from(source, guid, target, actor)
        discard_copy(target, guid, source, actor)
        move = _Move(source, box, target, actor, skip_damaged_max, progress)
        try:
            move.run()
        except Exception:
            if not move.is_named:  # else the source may be gone: the next move looks
                with suppress(PillarboxError):
                    discard_copy(target, guid, source, actor)
            raise
        moved = finish_move(target, guid, actor)._replace(damaged=tuple(move.damaged.values()))
    with suppress(PillarboxError):  # it is moved; what is left of it is removed after the next mount
        source.finish_removals()
    return moved


class Alone(TurnBlock[bool]):
    """Keeps other threads from moving a mailbox in a `with` block; gives False while one does."""

    def __init__(self, guid: bytes) -> None:
        super().__init__(Turn(SimpleQueue()))  # it ends when the block is gone
        self._guid = guid

    def enter(self) -> bool:
        with _moving_lock:
            for guid in [guid for guid, turn in _moves.items() if not turn.is_held]:
                del _moves[guid]
            return _moves.setdefault(self._guid, self.turn) is self.turn


def _present(source: Database, guid: bytes, actor: Actor) -> MailboxRecord | None:
    """The source mailbox, if it is there. By a transaction: after a failed write a read shows what may be no
    more, and a copy that is complete must not be thrown away for it."""
    with source.transaction(actor) as txn:
        box: MailboxRecord | None = txn.record(Table.MAILBOX, guid)
    if box is not None:
        _refuse_hidden(box)
    return box


def _refuse_hidden(box: MailboxRecord) -> None:
    if is_incomplete(box):
        raise Refused("this is what an interrupted move left", hint="move the mailbox itself again")


def finish_move(target: Database, guid: bytes, actor: Actor) -> MailboxMove:
    """End the move of a mailbox that is complete in its new database, and no more in the old one.

    Raises NotFound, also for an incomplete copy, Dismounted, ReadOnly, DiskFull.
    """
    with target.transaction(actor) as txn:
        box = mailboxes.get(txn, guid)._replace(
            change_cn=txn.next_cn(), moved_from=b"", moved_root_id=0, moved_counter=0, arrived_cn=0
        )
        txn.put(Table.MAILBOX, guid, box)
        folders_count = sum(1 for _ in folders.walk(txn, box.root_id))
    return MailboxMove(box.name, guid, folders_count, box.messages_count, box.size)


def _finish_from(source: Database, guid: bytes, target: Database, actor: Actor) -> MailboxMove:
    with target.read(actor) as read, source.read(actor) as at_source:
        box: MailboxRecord | None = read.record(Table.MAILBOX, guid)
        is_moved = (
            box is not None
            and not is_incomplete(box)
            and box.moved_from == source.guid
            and not why_it_does_not_count(read, box, at_source)
        )
    if not is_moved:
        raise NotFound(f"there is no mailbox {guid_text(guid)} in {source.name}")
    return finish_move(target, guid, actor)


class _Copied(NamedTuple):
    """A message's id in the target; its folder and the number of its last change in the source then."""

    target_id: int
    folder_id: int
    modseq: int


class _Fetched(NamedTuple):
    """A message of the source that the copy lacks; `content` is None when only its record changed."""

    item: ItemRecord
    content: FetchedContent | None


class _Move:
    """One mailbox on its way. `is_named` once its copy may be complete; `damaged` by id in the source."""

    def __init__(
        self,
        source: Database,
        box: MailboxRecord,
        target: Database,
        actor: Actor,
        skip_damaged_max: int,
        progress: Progress | None,
    ) -> None:
        self.is_named = False
        self.damaged: dict[int, DamagedMessage] = {}
        self._source = source
        self._box = box
        self._target = target
        self._actor = actor
        self._skip_damaged_max = skip_damaged_max
        self._progress = progress
        self._folders: dict[int, int] = {}  # ids in the source to those in the target
        self._paths: dict[int, str] = {}  # of the folders that the source has now
        self._since = CNSet()  # what of the source the copy has
        self._messages: dict[int, _Copied] = {}
        self._were_in: dict[int, set[int]] = {}  # ids of messages by that of the folder they were in before
        self._damaged_in: dict[int, int] = {}  # ids of damaged messages to those of their folders
        self._bytes = 0
        self._counter = 0  # of the source: up to it all was flushed there before the copy was complete

    def run(self) -> None:
        """Copy, catch up, and end the move but for the mark. Raises as `move_mailbox`."""
        self._begin()
        self._copy()
        for _ in range(_CATCH_UPS_MAX):
            if self._catch_up_beside_others() <= _FEW_CHANGES:
                break
        while not self._end():
            self._catch_up_beside_others()

    # -- the copy

    def _begin(self) -> None:
        guid = self._box.guid
        with self._source.read(self._actor) as read:
            counter = read.state().counter
        with self._target.transaction(self._actor) as txn:
            _refuse_taken(txn, self._box)
            txn.leave_out_numbers(counter + _NUMBERS_MEANWHILE)
            root = folders.insert(txn, guid, 0, guid_text(guid), Hidden.ARRIVING)
            copy = MailboxRecord(
                guid=guid,
                name=self._box.name,
                user=b"",
                state=ARRIVING,
                disconnected_ms=0,
                root_id=root.folder_id,
                roles={},
                size=0,
                messages_count=0,
                change_cn=txn.next_cn(),
                properties={},
                moved_from=self._source.guid,
                moved_root_id=self._box.root_id,
            )
            txn.insert(Table.MAILBOX, guid, copy)
        self._folders[self._box.root_id] = root.folder_id

    def _copy(self) -> None:
        """Batch by batch, each as it is then: a read that stayed open would pin all space freed meanwhile."""
        with self._source.read(self._actor) as read:
            matched = self._match_folders(read)
            self._since = changes(read, CNSet()).cnset
        for each in matched:
            after_uid: int | None = 0
            while after_uid is not None:
                after_uid = self._copy_batch(each, after_uid)

    def _copy_batch(self, source: FolderRecord, after_uid: int) -> int | None:
        """Copy some of the messages that a folder had; the UID of the last, None when there are no more.

        What has come since is for later: in pursuit of it the copy might never end.
        """
        with self._source.read(self._actor) as read:
            items, at = _up_to_full(
                each
                for each in folders.messages(read, source.folder_id, after_uid)
                if each.uid < source.uid_next
            )
            self._write(read, [each for each in items if self._is_news(each)])
        if items:
            self._tell()
        return at

    def _tell(self) -> None:
        if self._progress:
            box = self._box
            self._progress(MoveProgress(box.name, len(self._messages), box.messages_count, self._bytes))

    # -- what changed since

    def _catch_up_beside_others(self) -> int:
        """Bring the copy to what the source is now; how much there was to do. The source may be changed."""
        with self._source.read(self._actor) as read:
            counter = read.state().counter
        with self._source.paused():
            pass  # what is committed in the source is in its stream and tables after that
        self._counter = counter
        with self._source.read(self._actor) as read:
            done = self._catch_up(read, read)
        self._tell()
        return done

    def _catch_up(self, records: Reader, contents: Reader) -> int:
        """Make the copy what `records` show, with content read by way of `contents`; how much was to do."""
        found = changes(records, self._since)
        since = list(found)
        gone_folders: set[int] = set()
        had = set(self._folders)
        if any(self._is_of_tree(records, change) for change in since):
            present = {each.folder_id for each in self._match_folders(records)}
            gone_folders = self._folders.keys() - present
        news, gone = self._sort(since)
        news += self._naming(records, self._folders.keys() - had, news, gone)
        at = iter(news)
        while batch := _up_to_full(at)[0]:
            self._write(contents, batch, must_be_applied=records is not contents)
        self._remove_messages(gone)
        self._remove_folders(gone_folders)
        self._since = found.cnset
        return len(news) + len(gone) + len(gone_folders)

    def _is_of_tree(self, records: Reader, change: Change) -> bool:
        """True when a change is one of the mailbox or of a folder that it has or had."""
        if change.object_kind is ObjectKind.MAILBOX:
            return change.object_id == self._box.root_id
        if change.object_id in self._folders:
            return change.object_kind in (ObjectKind.FOLDER, ObjectKind.FOLDER_GONE)
        if change.object_kind is not ObjectKind.FOLDER:
            return False
        return folders.get_or_hidden(records, change.object_id).mailbox == self._box.guid

    def _sort(self, since: Iterable[Change]) -> tuple[list[ItemRecord], list[int]]:
        """Messages that the copy lacks or that changed, and ids of those that the mailbox has no more."""
        news: list[ItemRecord] = []
        gone: list[int] = []
        for change in since:
            item = change.item
            if item is not None and item.folder_id in self._paths:
                if item.message_id in self.damaged:
                    self._damaged_in[item.message_id] = item.folder_id
                elif self._is_news(item):
                    news.append(item)
            elif change.object_kind in (ObjectKind.MESSAGE, ObjectKind.MESSAGE_GONE):
                self.damaged.pop(change.object_id, None)
                if change.object_id in self._messages:
                    gone.append(change.object_id)
        return news, gone

    def _naming(
        self, records: Reader, came: set[int], news: Sequence[ItemRecord], gone: Sequence[int]
    ) -> list[ItemRecord]:
        """Other messages of the copy that were in one of the folders that came, before they were moved."""
        named = {each for folder_id in came for each in self._were_in.get(folder_id, ())}
        named -= {item.message_id for item in news} | set(gone)
        return [messages.get_or_hidden(records, each) for each in sorted(named & self._messages.keys())]

    def _is_news(self, item: ItemRecord) -> bool:
        if item.message_id in self.damaged:
            return False
        copied = self._messages.get(item.message_id)
        return copied is None or copied.modseq != item.modseq

    def _remove_messages(self, gone: Sequence[int]) -> None:
        for first in range(0, len(gone), BATCH_MESSAGES):
            with self._target.transaction(self._actor) as txn:
                for each in gone[first : first + BATCH_MESSAGES]:
                    target_id = self._messages.pop(each).target_id
                    messages.take_out(txn, messages.get_or_hidden(txn, target_id))

    # -- folders

    def _match_folders(self, records: Reader) -> list[FolderRecord]:
        """Give the copy the folders of the source as they are now; those of the source, the root first.

        Those that are no more stay, out of the way, until their messages went where they are now.
        """
        box = mailboxes.get(records, self._box.guid)
        walked = [((), mailboxes.root(records, box)), *folders.walk(records, box.root_id)]
        self._paths = {found.folder_id: "/".join(path) for path, found in walked}
        present = [found for _, found in walked]
        gone = self._folders.keys() - {each.folder_id for each in present}
        # Nothing here reads an index: while one folder waits for the name another has, there is no right one.
        with self._target.transaction(self._actor) as txn:
            for source_id in gone:
                self._put_aside(txn, self._folders[source_id])
            for each in present:
                self._match_folder(txn, each)
            copy = _copy_of(txn, box.guid)
            roles = {role: self._folders[source_id] for role, source_id in box.roles.items()}
            if copy.roles != roles:
                txn.put(Table.MAILBOX, box.guid, copy._replace(roles=roles, change_cn=txn.next_cn()))
        return present

    def _match_folder(self, txn: WriteTransaction, source: FolderRecord) -> None:
        parent_id = self._folders[source.parent_id] if source.parent_id else 0
        if source.folder_id not in self._folders:
            made = folders.insert(txn, source.mailbox, parent_id, source.name, Hidden.ARRIVING)
            self._folders[source.folder_id] = made.folder_id
        held = folders.get_or_hidden(txn, self._folders[source.folder_id])
        wanted = held._replace(
            parent_id=parent_id,
            name=source.name,
            kind=source.kind,
            created_ms=source.created_ms,
            properties=source.properties,
        )
        _put_changed(txn, held, wanted)

    def _put_aside(self, txn: WriteTransaction, target_id: int) -> None:
        held = folders.get_or_hidden(txn, target_id)
        name = f"{id_text(target_id)}{_SEPARATOR}gone"
        _put_changed(txn, held, held._replace(parent_id=self._folders[self._box.root_id], name=name))

    def _remove_folders(self, gone: set[int]) -> None:
        """Remove folders of the copy with what is left in them: it went from the source with its folder."""
        for each in gone:
            with self._target.transaction(self._actor) as txn:
                folders.hide(txn, folders.get_or_hidden(txn, self._folders[each]))
            del self._folders[each]
        if gone:
            self._messages = {
                each: copied for each, copied in self._messages.items() if copied.folder_id not in gone
            }
            self.damaged = {
                each: found for each, found in self.damaged.items() if self._damaged_in[each] not in gone
            }

    # -- messages

    def _write(self, contents: Reader, items: Sequence[ItemRecord], *, must_be_applied: bool = False) -> None:
        """Bring messages of the source into the copy, or what is new of them, all or none."""
        fetched = self._fetch(contents, items, must_be_applied)
        if not fetched:
            return
        self._target.refuse_below_disk_floor()
        copied: dict[int, _Copied] = {}
        with self._target.transaction(self._actor) as txn:
            for item, content in fetched:
                if content is None:
                    target_id = self._update(txn, item)
                else:
                    content_transfer.hold(txn, contents, content)
                    target_id = self._add(txn, item)
                copied[item.message_id] = _Copied(target_id, item.folder_id, item.modseq)
        self._messages.update(copied)
        self._bytes += sum(item.size for item, content in fetched if content is not None)

    def _fetch(self, contents: Reader, items: Sequence[ItemRecord], must_be_applied: bool) -> list[_Fetched]:
        fetched: content_transfer.Fetched = {}
        found = []
        with self._target.read(self._actor) as held:
            for item in items:
                if item.message_id in self._messages:
                    found.append(_Fetched(item, None))
                    continue
                if must_be_applied and contents.view.get(Table.CONTENT, item.digest) is None:
                    raise _NotAppliedYet
                try:
                    content = content_transfer.fetch(contents, held, item.digest, fetched)
                except Corrupt as error:
                    self._leave_behind(item, error)
                else:
                    found.append(_Fetched(item, content))
        return found

    def _leave_behind(self, item: ItemRecord, error: Corrupt) -> None:
        """Raises Corrupt when that is too much. Without sound records the source could not be purged."""
        if error.table:
            raise error
        path = self._paths[item.folder_id]
        self.damaged[item.message_id] = DamagedMessage(path, item.message_id, str(error))
        self._damaged_in[item.message_id] = item.folder_id
        if len(self.damaged) > self._skip_damaged_max:
            raise Corrupt(
                f"message {id_text(item.message_id)} in {path} is damaged: {error}",
                file=error.file,
                offset=error.offset,
                hint="repair the database, or let the move leave damaged messages behind",
            ) from error

    def _add(self, txn: WriteTransaction, item: ItemRecord) -> int:
        target = folders.get_or_hidden(txn, self._folders[item.folder_id])
        added = item._replace(properties=self._properties(item))
        return messages.place_as_new(txn, target, added).message_id

    def _update(self, txn: WriteTransaction, item: ItemRecord) -> int:
        target_id = self._messages[item.message_id].target_id
        target = folders.get_or_hidden(txn, self._folders[item.folder_id])
        held = messages.put_into(txn, messages.get_or_hidden(txn, target_id), target)
        cn = txn.next_cn()
        changed = held._replace(
            flags=item.flags,
            keywords=item.keywords,
            categories=item.categories,
            change_cn=cn,
            read_cn=cn,
            properties=self._properties(item),
        )
        txn.put(Table.ITEM, item_key(held.folder_id, held.uid), changed)
        unread = unread_of(changed) - unread_of(held)
        folders.count(txn, folders.get_or_hidden(txn, held.folder_id), Counts(unread=unread), cn)
        return target_id

    def _properties(self, item: ItemRecord) -> dict[str, Any]:
        """A message's properties; the folder it was in before is named by its id in the target."""
        former = item.properties.get(messages.FORMER_FOLDER)
        if former is None:
            return item.properties
        former_id = parse_id(former) or 0
        self._were_in.setdefault(former_id, set()).add(item.message_id)
        target_id = self._folders.get(former_id)
        text = None if target_id is None else id_text(target_id)
        return folders.with_property(item.properties, messages.FORMER_FOLDER, text)

    # -- the end

    def _end(self) -> bool:
        """Carry over the last changes, name the copy, purge the source; False when it must catch up first."""
        source, actor = self._source, self._actor
        try:
            with _ending, source.transaction(actor) as txn:
                box = mailboxes.get(txn, self._box.guid)
                with source.read(actor) as contents:
                    self._catch_up(txn, contents)
                # What cannot be removed shows before the copy says that it is complete.
                mailboxes.remove(txn, box, went_to=self._target.guid)
                self._name_copy(box)
        except _NotAppliedYet:
            return False
        return True

    def _name_copy(self, box: MailboxRecord) -> None:
        with self._target.transaction(self._actor) as txn:
            _refuse_taken(txn, box)
            for folder_id in self._folders.values():
                arrived = folders.get_or_hidden(txn, folder_id)._replace(hidden=int(Hidden.NO))
                txn.put(Table.FOLDER, id_key(folder_id), arrived)
            arrived_cn = txn.next_cn()  # the last number: whatever has a higher one came after it
            named = _copy_of(txn, box.guid)._replace(
                name=box.name,
                user=box.user,
                state=box.state,
                disconnected_ms=box.disconnected_ms,
                change_cn=arrived_cn,
                properties=box.properties,
                moved_counter=self._counter,
                arrived_cn=arrived_cn,
            )
            txn.put(Table.MAILBOX, box.guid, named)
        self.is_named = True


def _copy_of(txn: WriteTransaction, guid: bytes) -> MailboxRecord:
    copy: MailboxRecord | None = txn.record(Table.MAILBOX, guid)
    if copy is None:
        raise NotFound(f"the copy of mailbox {guid_text(guid)} is gone: another move has thrown it away")
    return copy


def _refuse_taken(txn: WriteTransaction, box: MailboxRecord) -> None:
    """Raises AlreadyExists when another mailbox of the target has the name, or another copy the GUID."""
    present: MailboxRecord | None = txn.record(Table.MAILBOX, box.guid)
    if present is not None and not is_incomplete(present):
        raise AlreadyExists(
            f"the database has a mailbox {guid_text(box.guid)} already", hint=f"it is called {present.name!r}"
        )
    if txn.index(Table.MAILBOX_NAME, name_key(box.name)) is not None:
        raise AlreadyExists(f"the database has a mailbox {box.name!r} already", hint="rename one of them")


def _put_changed(txn: WriteTransaction, held: FolderRecord, wanted: FolderRecord) -> None:
    if wanted != held:
        txn.put(Table.FOLDER, id_key(held.folder_id), wanted._replace(change_cn=txn.next_cn()))


def _up_to_full(items: Iterator[ItemRecord]) -> tuple[list[ItemRecord], int | None]:
    """The next messages, as many as go into one transaction; the UID of the last, None when they ended."""
    batch: list[ItemRecord] = []
    size_bytes = 0
    for item in items:
        batch.append(item)
        size_bytes += item.size
        if len(batch) >= BATCH_MESSAGES or size_bytes >= BATCH_BYTES:
            return batch, item.uid
    return batch, None
