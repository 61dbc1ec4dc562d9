"""Messages that other stores changed, put into a public folder as a replicator has merged them.

The whole state of a message is put at once, under its own id and its own numbers: the versions that live
beside each other, and the context. To this database each record that changes is a change as any other, with a
change number; the feed, UIDs and counters know no difference. What is there already is no change.

Content never changes in a record: a version with other content is a message with another UID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pillarbox.store.arguments import check_id
from pillarbox.store.disk.tables import (
    FolderRecord,
    ItemRecord,
    ObjectKind,
    Table,
    TombstoneRecord,
    id_key,
    is_silent,
    item_key,
    pair_key,
    split_triple_key,
    triple_key,
)
from pillarbox.store.engine import content_store, numbering
from pillarbox.store.engine.change_feed import bury_message
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import Refused
from pillarbox.store.mail import folders, messages, versions
from pillarbox.store.mail.counters import Counts, counts_of
from pillarbox.store.mail.flags import SEEN_BIT
from pillarbox.store.mail.messages import PreparedMessage
from pillarbox.store.mail.rights import Right, require, require_change

Context = Mapping[int, int]
"""By replica number the highest counter that went into an object."""

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
    """A message as it is in this database: its context, and its versions by ascending number."""

    context: Context
    versions: tuple[MessageVersion, ...]


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
        self._contents = contents
        self._held = held

    def run(self) -> None:
        if not self._held.records and self._live and not self._gone:  # as nearly always
            self._place({})
            return
        kept = self._matched()
        leaving = [item for item in self._held.live if item not in kept.values()]
        self._bury(leaving)  # first, for one that comes may have the id of one that leaves
        self._place(kept)
        for item in leaving:  # last, for one that comes may have the same content
            content_store.release(self._txn, item.digest)

    def _matched(self) -> dict[int, ItemRecord]:
        """The records that stay, by the number of the version that they are of from now on."""
        left = {item.versions[0]: item for item in self._held.live}
        kept: dict[int, ItemRecord] = {}
        for version in self._live:
            item = left.get(version.number)
            if item is not None and item.digest == version.digest:
                kept[version.number] = left.pop(version.number)
        for version in self._live:
            if version.number not in kept:
                same = [number for number, item in left.items() if item.digest == version.digest]
                if same:
                    kept[version.number] = left.pop(min(same))
        if self._live and not any(item.message_id == self._message_id for item in kept.values()):
            # A record keeps its id for life, so the first version is to have another, under the message's.
            kept.pop(self._live[0].number, None)
        return kept

    def _place(self, kept: dict[int, ItemRecord]) -> None:
        """Put the live versions. One has the message's id: that which has it already, or else the first."""
        has_id = [number for number, item in kept.items() if item.message_id == self._message_id]
        main = next(iter(has_id or [version.number for version in self._live]), 0)
        for version in self._live:
            if version.number in kept:
                self._change(version, kept[version.number], version.number == main)
            else:
                self._add(version, version.number == main)

    def _fields(self, version: MessageVersion, is_main: bool) -> dict[str, Any]:
        return {
            "keywords": version.keywords,
            "categories": version.categories,
            "versions": numbering.with_context(version.number, self._context),
            "conflict_of": 0 if is_main else self._message_id,
            "changed": version.changed,
            "actor": version.actor,
            "stamps": version.stamps,
        }

    def _change(self, version: MessageVersion, item: ItemRecord, is_main: bool) -> None:
        local = {name: value for name, value in item.properties.items() if name == versions.FORMER_FOLDER}
        changed = item._replace(
            flags=item.flags & SEEN_BIT | version.flags,
            properties={**version.properties, **local},
            **self._fields(version, is_main),
        )
        if changed != item:
            cn = self._txn.next_cn()
            self._txn.put(Table.ITEM, item_key(item.folder_id, item.uid), changed._replace(change_cn=cn))
            folders.count(self._txn, self._folder(), Counts(), cn)

    def _add(self, version: MessageVersion, is_main: bool) -> None:
        prepared = self._prepared(version.digest)
        content_store.hold(self._txn, prepared.raw, prepared.content)
        cn = self._txn.next_cn()
        received_ms = max(min(version.changed[0], self._txn.now_ms), 0)
        item = messages.new_record(cn, prepared, received_ms, version.flags)
        messages.give_uid(
            self._txn,
            self._folder(),
            item,
            message_id=self._message_id if is_main else cn,
            properties=dict(version.properties),
            **self._fields(version, is_main),
        )

    def _prepared(self, digest: bytes) -> PreparedMessage:
        if digest in self._contents:
            return self._contents[digest]
        return messages.prepare(self._txn.files, content_store.read(self._txn, digest))

    def _folder(self) -> FolderRecord:
        return folders.get_or_hidden(self._txn, self._folder_id)

    # -- tombstones

    def _bury(self, leaving: Sequence[ItemRecord]) -> None:
        """Leave tombstones for what goes; that of the message itself is of a version that is new here."""
        held = {record.versions[0]: (key, record) for key, record in self._held.gone.items()}
        wanted = {version.number: version for version in self._gone}
        if not self._live and not self._gone:
            wanted[0] = MessageVersion(0, (0, 0), "")
        for number, (key, record) in held.items():
            if number in wanted:
                context = numbering.with_context(number, self._context)
                self._txn.put(Table.TOMBSTONE, key, record._replace(versions=context))
            else:
                drop_tombstone(self._txn, key, record)
        new = [version for number, version in wanted.items() if number not in held]
        for item in leaving:
            is_message_gone = item.message_id == self._message_id and not self._live
            self._leave(item, new.pop(0) if new and is_message_gone else None)
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


def drop_tombstone(txn: WriteTransaction, key: bytes, tombstone: TombstoneRecord) -> None:
    """Forget the version that a tombstone is; who follows the feed still finds what it tells."""
    silent = is_silent(tombstone)
    txn.put(Table.TOMBSTONE, key, None if silent else tombstone._replace(versions=(), changed=(), actor=""))


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
            drop_tombstone(txn, key, tombstone)
