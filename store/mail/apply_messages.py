"""Messages that other stores changed, put into a public folder as a replicator has merged them.

The whole state of a message is put at once, under its own id and its own numbers: the versions that live
beside each other, and the context. To this database each record that changes is a change as any other, with a
change number; the feed, UIDs and counters know no difference. What is there already is no change.

Content never changes in a record: a version with other content is a message with another UID. Of several live
versions each has a record that nobody meets, and a record with the message's id shows them as one: what they
are read as where they have one content, and else the conflict message (`conflict_message`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from struct import Struct
from typing import Any, Final, NamedTuple

from pillarbox.store.arguments import check_id
from pillarbox.store.disk.tables import (
    FolderRecord,
    ItemRecord,
    ItemRole,
    ObjectKind,
    Table,
    TombstoneRecord,
    id_key,
    item_key,
    pair_key,
    split_triple_key,
    triple_key,
)
from pillarbox.store.engine import content_store, numbering
from pillarbox.store.engine.change_feed import bury_message
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import InvalidArgument, Refused
from pillarbox.store.mail import conflict_message, folders, messages, versions
from pillarbox.store.mail.conflict_message import HeldVersion
from pillarbox.store.mail.counters import Counts, counts_of
from pillarbox.store.mail.flags import SEEN_BIT
from pillarbox.store.mail.messages import PreparedMessage
from pillarbox.store.mail.rights import Right, require, require_change
from pillarbox.store.mail.views import Sort

Context = Mapping[int, int]
"""By replica number the highest counter that went into an object."""

_SIZE_AND_UID: Final = Struct(">QI")
_VIEW_ROWS_A_RECORD: Final = 5  # rows of a view that are read in the time of one record (measured)
_REPLICATED: Final = ("flags", "keywords", "categories", "properties", "changed", "actor", "stamps")


class MessageVersion(NamedTuple):
    """A version of a message under its number. Without a digest it is a tombstone, and has no properties.

    `changed` is its stamp, (ms, counter). `flags` are bits, without `\\\\Seen`. `stamps` has a row (property,
    ms, counter, replica number) for each property with a stamp of its own, ascending (`versions`).
    """

    number: int
    changed: tuple[int, int]
    actor: str
    digest: bytes = b""
    flags: int = 0
    keywords: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    properties: Mapping[str, Any] = {}
    stamps: versions.Stamps = ()


class MessageState(NamedTuple):
    """A message as it is in this database: its context, and its versions by ascending number.

    `shown` is how several live versions are read as one; its own number is 0. It has a digest where they have
    one content, and none where the conflict message is shown.
    """

    context: Context
    versions: tuple[MessageVersion, ...]
    shown: MessageVersion | None = None


# -- reading


def state_of(reader: Reader, folder_id: int, message_id: int) -> MessageState | None:
    """The state of a message that has numbers, tombstones too; None when nothing is known of it."""
    require(reader, Right.READ_ITEMS, folder_id)
    return _held(reader, folder_id, message_id).state


def _version_of(record: ItemRecord | TombstoneRecord) -> MessageVersion:
    time_ms, counter = record.changed or (0, 0)
    made = MessageVersion(record.versions[0], (time_ms, counter), record.actor)
    if isinstance(record, TombstoneRecord):
        return made
    return made._replace(
        digest=record.digest,
        flags=record.flags & ~SEEN_BIT,
        keywords=record.keywords,
        categories=record.categories,
        properties=_replicated_properties(record),
        stamps=record.stamps,
    )


def _replicated_properties(item: ItemRecord) -> dict[str, Any]:
    return {name: value for name, value in item.properties.items() if name != versions.FORMER_FOLDER}


class _Held(NamedTuple):
    """The records of one message, by (table, key)."""

    records: dict[tuple[Table, bytes], ItemRecord | TombstoneRecord]

    @property
    def state(self) -> MessageState | None:
        if not self.records:
            return None
        found = [_version_of(record) for record in self.records.values() if record.versions[0]]
        context = numbering.context_of(next(iter(self.records.values())).versions)
        return MessageState(context, tuple(sorted(found)))

    @property
    def live(self) -> list[ItemRecord]:
        return [record for record in self.records.values() if isinstance(record, ItemRecord)]

    def main(self, message_id: int) -> ItemRecord | None:
        """The record that has the message's id."""
        return next((item for item in self.live if item.message_id == message_id), None)

    def siblings(self, message_id: int) -> list[ItemRecord]:
        """The records of versions beside it."""
        return [item for item in self.live if item.message_id != message_id]

    @property
    def gone(self) -> dict[bytes, TombstoneRecord]:
        return {
            key: record for (_, key), record in self.records.items() if isinstance(record, TombstoneRecord)
        }


def _held(reader: Reader, folder_id: int, message_id: int) -> _Held:
    found = _one_of(reader, folder_id, message_id)
    if found is None:
        return _Held({})
    places = versions.records_of(reader, folder_id, found.versions)
    return _Held({place: reader.record(*place) for place in places})


def _one_of(reader: Reader, folder_id: int, message_id: int) -> ItemRecord | TombstoneRecord | None:
    """A record of a message that tells its context."""
    place = reader.index(Table.LOCATION, id_key(message_id))
    if place is not None:
        item: ItemRecord = reader.record(Table.ITEM, place)
        if item.folder_id == folder_id and item.versions:
            return item
    start = triple_key(message_id, folder_id, 0)
    for key, _ in reader.indexes(Table.GONE, start, triple_key(message_id, folder_id + 1, 0)):
        _, folder, cn = split_triple_key(key)
        tombstone: TombstoneRecord = reader.record(Table.TOMBSTONE, pair_key(folder, cn))
        return tombstone
    return None


def ids_in(reader: Reader, folder_id: int) -> set[int]:
    """The ids of all messages of a folder that have numbers, those that are deleted too."""
    require(reader, Right.READ_ITEMS, folder_id)
    return versions.object_ids(reader, folder_id)


def size_of(reader: Reader, folder_id: int, uids: Collection[int]) -> int:
    """The bytes of some messages of a folder that are shown, together. Where they are many no record is read,
    but the folder's view by size."""
    require(reader, Right.READ_ITEMS, folder_id)
    folder = folders.get_or_hidden(reader, folder_id)
    if len(uids) == folder.messages_count:
        return folder.size
    if len(uids) * _VIEW_ROWS_A_RECORD < folder.messages_count:
        return sum(reader.record(Table.ITEM, item_key(folder_id, uid)).size for uid in uids)
    prefix = id_key(folder_id) + Sort.SIZE.value
    rows = reader.indexes(Table.VIEW, prefix, prefix[:-1] + bytes([prefix[-1] + 1]))
    places = (_SIZE_AND_UID.unpack(key[len(prefix) :]) for key, _ in rows)
    return sum(size for size, uid in places if uid in uids)


# -- applying


def apply(
    txn: WriteTransaction,
    folder_id: int,
    message_id: int,
    state: MessageState,
    contents: Mapping[bytes, PreparedMessage] = {},
    *,
    is_new: bool = False,
) -> bool:
    """Put a message into this state, whatever it is in; False when it is in it already.

    `contents` are the messages by digest that the database may not have. `is_new` says that `state_of` has
    just found nothing of it, and spares looking again. A state without versions keeps the context alone.
    Raises NotFound for a folder that is not here; Refused in a database that has joined no
    organisation; Corrupt for content that is neither given nor here.
    """
    require_change(txn, Right.EDIT_ALL, folder_id)
    refuse_unjoined(txn)
    check_id(message_id, "message_id")
    held = _Held({}) if is_new else _held(txn, folder_id, message_id)
    if held.records and held.state == _ordered(state):
        return False
    for version in state.versions:
        numbering.witness(txn, version.changed)
    _Applying(txn, folder_id, message_id, state, contents, held).run()
    return True


def _ordered(state: MessageState) -> MessageState:
    return MessageState(dict(state.context), tuple(sorted(state.versions)))


def refuse_unjoined(txn: WriteTransaction) -> None:
    """Raise Refused in a database that numbers nothing for other stores, as a mailbox store never does."""
    if not txn.numbering:
        raise Refused(
            "the database has joined no organisation, and takes no changes of other stores",
            hint="join it to the tree first: `joining.join`; mailbox stores never do",
        )


class _Applying:
    """One message on its way into a state."""

    def __init__(
        self,
        txn: WriteTransaction,
        folder_id: int,
        message_id: int,
        state: MessageState,
        contents: Mapping[bytes, PreparedMessage],
        held: _Held,
    ) -> None:
        self._txn = txn
        self._folder_id = folder_id
        self._message_id = message_id
        self._context = dict(state.context)
        self._live = [version for version in sorted(state.versions) if version.digest]
        self._gone = [version for version in sorted(state.versions) if not version.digest]
        self._state_shown = state.shown
        self._contents = contents
        self._held = held
        self._conflict: PreparedMessage | None = None  # the conflict message, once it is made

    def run(self) -> None:
        if not self._held.records and len(self._live) == 1 and not self._gone:  # as nearly always
            self._add(self._live[0])
            return
        shown, main = self._shown(), self._held.main(self._message_id)
        if main is not None and (shown is None or shown.digest != main.digest):
            self._bury(main)  # first, for one that comes has the id of one that leaves
            leaving = [main]
            main = None
        else:
            self._bury(None)
            leaving = []
        leaving += self._place_siblings()
        if shown is not None and main is None:
            self._add(shown)
        elif shown is not None and main is not None:
            self._change(shown, main)
        for item in leaving:  # last, for one that comes may have the same content
            content_store.release(self._txn, item.digest)

    def _shown(self) -> MessageVersion | None:
        """The version that is shown; of several the conflict message, or what they are read as."""
        if len(self._live) < 2:
            return self._live[0] if self._live else None
        shown = self._state_shown
        if shown is None:
            raise InvalidArgument("several live versions need `MessageState.shown`, what they are read as")
        digests = {version.digest for version in self._live}
        if len(digests) == 1:
            return shown._replace(digest=digests.pop())
        raw = conflict_message.render(self._held_versions())
        prepared = messages.prepare(self._txn.files, raw)
        self._conflict = prepared
        return shown._replace(digest=prepared.content.digest)

    def _held_versions(self) -> list[HeldVersion]:
        """Each content in the order in which all stores show them, as many as the conflict message holds."""
        found: dict[bytes, HeldVersion] = {}
        left_bytes = conflict_message.HELD_BYTES_MAX
        for version in versions.in_shown_order(self._txn, self._live, lambda version: version.number):
            if version.digest in found:
                continue
            raw: bytes | None = self._raw(version.digest)
            size_bytes = len(raw or b"")
            raw = raw if size_bytes <= left_bytes else None
            left_bytes -= size_bytes if raw is not None else 0
            found[version.digest] = HeldVersion(
                version.digest, raw, size_bytes, version.actor, version.changed[0]
            )
        return list(found.values())

    def _raw(self, digest: bytes) -> bytes:
        if digest in self._contents:
            return self._contents[digest].raw
        return content_store.read(self._txn, digest)

    def _place_siblings(self) -> list[ItemRecord]:
        """Keep a record of each version beside the one that is shown for several; the records that left."""
        wanted = {version.number: version for version in self._live} if len(self._live) > 1 else {}
        left: list[ItemRecord] = []
        for item in self._held.siblings(self._message_id):
            version = wanted.get(item.versions[0])
            if item.role == ItemRole.VERSION and version is not None and version.digest == item.digest:
                del wanted[version.number]
                changed = item._replace(**self._fields(version, ItemRole.VERSION))
                if changed != item:
                    self._txn.put(Table.ITEM, item_key(item.folder_id, item.uid), changed)
                continue
            if item.role == ItemRole.VERSION:
                self._txn.delete(Table.ITEM, item_key(item.folder_id, item.uid))
            else:
                self._leave(item, None)
            left.append(item)
        for version in wanted.values():
            self._add(version, ItemRole.VERSION)
        return left

    def _fields(self, version: MessageVersion, role: ItemRole) -> dict[str, Any]:
        return {
            "flags": version.flags,
            "keywords": version.keywords,
            "categories": version.categories,
            "properties": dict(version.properties),
            "versions": numbering.with_context(version.number, self._context),
            "conflict_of": self._message_id if role is ItemRole.VERSION else 0,
            "changed": version.changed,
            "actor": version.actor,
            "stamps": version.stamps,
            "role": int(role),
        }

    def _main_role(self) -> ItemRole:
        return ItemRole.MESSAGE if self._conflict is None else ItemRole.CONFLICT

    def _change(self, version: MessageVersion, item: ItemRecord) -> None:
        fields = self._fields(version, self._main_role())
        local = {name: value for name, value in item.properties.items() if name == versions.FORMER_FOLDER}
        fields["flags"] |= item.flags & SEEN_BIT
        fields["properties"] |= local
        changed = item._replace(**fields)
        if changed != item:
            cn = self._txn.next_cn()
            self._txn.put(Table.ITEM, item_key(item.folder_id, item.uid), changed._replace(change_cn=cn))
            folders.count(self._txn, self._folder(), Counts(), cn)

    def _add(self, version: MessageVersion, role: ItemRole | None = None) -> None:
        """Put a version under a new UID: as the message itself, or as one of several beside it."""
        role = self._main_role() if role is None else role
        prepared = self._prepared(version.digest)
        content_store.hold(self._txn, prepared.raw, prepared.content)
        cn = self._txn.next_cn()
        received_ms = max(min(version.changed[0], self._txn.now_ms), 0)
        item = messages.new_record(cn, prepared, received_ms)
        message_id = cn if role is ItemRole.VERSION else self._message_id
        fields = self._fields(version, role)
        messages.give_uid(self._txn, self._folder(), item, message_id=message_id, **fields)

    def _prepared(self, digest: bytes) -> PreparedMessage:
        if self._conflict is not None and digest == self._conflict.content.digest:
            return self._conflict
        if digest in self._contents:
            return self._contents[digest]
        return messages.prepare(self._txn.files, content_store.read(self._txn, digest))

    def _folder(self) -> FolderRecord:
        return folders.get_or_hidden(self._txn, self._folder_id)

    # -- tombstones

    def _bury(self, main: ItemRecord | None) -> None:
        """Leave tombstones for what goes: `main`, if the message leaves, is of a version that is new here."""
        held = {record.versions[0]: (key, record) for key, record in self._held.gone.items()}
        wanted = {version.number: version for version in self._gone}
        if not self._live and not self._gone:
            wanted[0] = MessageVersion(0, (0, 0), "")
        for number, (key, record) in held.items():
            if number in wanted:
                context = numbering.with_context(number, self._context)
                self._txn.put(Table.TOMBSTONE, key, record._replace(versions=context))
            else:
                versions.drop_tombstone(self._txn, key, record)
        new = [version for number, version in wanted.items() if number not in held]
        if main is not None:
            self._leave(main, new.pop(0) if new and not self._live else None)
        for version in new:
            self._put_tombstone(version, None)

    def _leave(self, item: ItemRecord, version: MessageVersion | None) -> None:
        """Take a record out, as what its readers take for a deletion."""
        self._txn.delete(Table.ITEM, item_key(item.folder_id, item.uid))
        cn = bury_message(self._txn, item) if version is None else self._put_tombstone(version, item)
        folders.count(self._txn, self._folder(), -counts_of(item), cn)

    def _put_tombstone(self, version: MessageVersion, item: ItemRecord | None) -> int:
        cn = self._txn.next_cn()
        tombstone = TombstoneRecord(
            kind=ObjectKind.MESSAGE_GONE,
            object_id=self._message_id,
            uid=item.uid if item else 0,
            deleted_ms=self._txn.now_ms,
            moved_to=0,
            arrived_cn=item.arrived_cn if item else 0,
            versions=numbering.with_context(version.number, self._context),
            changed=version.changed,
            actor=version.actor,
        )
        self._txn.insert(Table.TOMBSTONE, pair_key(self._folder_id, cn), tombstone)
        if item is None:
            folders.count(self._txn, self._folder(), Counts(), cn)
        return cn


# -- letting go


def forget(txn: WriteTransaction, folder_id: int, message_ids: Iterable[int]) -> None:
    """Let messages and their tombstones go here alone: purged, expired, or of a replica that ends.

    Other stores are told nothing; readers of the feed are told of what was still there. Idempotent.
    """
    require_change(txn, Right.DELETE_ALL, folder_id)
    for message_id in message_ids:
        held = _held(txn, folder_id, message_id)
        for item in held.live:
            messages.take_out(txn, item)
        for key, tombstone in held.gone.items():
            versions.drop_tombstone(txn, key, tombstone)
