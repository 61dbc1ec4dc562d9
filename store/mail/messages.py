"""Messages: deliver, read, flag, move, copy, delete.

A message's content never changes; what changes (flags, categories, folder) is in its record. It keeps its id
for life; its UID is that of its place in a folder (DOMAIN.md "Store", RFC 9051 section 2.3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from pillarbox.store.arguments import check_id, check_kind, check_several
from pillarbox.store.content.blocks import PreparedContent
from pillarbox.store.content.envelope import Envelope, parse_envelope
from pillarbox.store.content.header import header_end
from pillarbox.store.content.line_ends import size_with_crlf
from pillarbox.store.disk.tables import (
    UID_END,
    FolderRecord,
    ItemRecord,
    ItemRole,
    MailboxRecord,
    Table,
    id_key,
    is_id,
    item_key,
)
from pillarbox.store.engine import content_store
from pillarbox.store.engine.change_feed import bury_message, bury_version
from pillarbox.store.engine.transaction import DatabaseFiles, Reader, WriteTransaction
from pillarbox.store.errors import Corrupt, InvalidSetting, NotFound, Refused, TooManyMessages
from pillarbox.store.ids import id_text
from pillarbox.store.mail import folders, replicas, versions
from pillarbox.store.mail.counters import Counts, counts_of
from pillarbox.store.mail.flags import (
    FLAG_BITS,
    KEYWORD_RULE,
    SEEN_BIT,
    keywords,
)
from pillarbox.store.mail.mailboxes import DISCONNECTED, INBOX, MailboxName, named
from pillarbox.store.mail.mailboxes import find as find_mailbox
from pillarbox.store.mail.mailboxes import get as get_mailbox
from pillarbox.store.mail.rights import Right, require, require_change

_BITS: Final = {name.lower(): bit for name, bit in FLAG_BITS.items()}
CATEGORIES_MAX: Final = 64
COPIES_MAX: Final = 1000
"""How many messages one transaction copies."""
FORMER_FOLDER: Final = versions.FORMER_FOLDER
RAW_WANTED: Final = "the message as bytes, as it goes over the wire"


class PreparedMessage(NamedTuple):
    """A message ready to be delivered: its bytes, its content taken apart, its envelope read."""

    raw: bytes
    content: PreparedContent
    envelope: Envelope


def prepare(files: DatabaseFiles, raw: bytes) -> PreparedMessage:
    """Make a message ready; this is most of the work, and needs no transaction and no lock.

    Takes any bytes. Raises Dismounted.
    """
    check_kind(files, "files", DatabaseFiles, "`files` of a database")
    check_kind(raw, "raw", bytes, RAW_WANTED)
    header_bytes = header_end(raw)
    content = content_store.prepare(files, raw, header_bytes)
    return PreparedMessage(raw, content, parse_envelope(raw, header_bytes))


def flag_names(item: ItemRecord) -> tuple[str, ...]:
    """A message's IMAP flags (`\\Seen`) and keywords."""
    return (*(name for name, bit in FLAG_BITS.items() if item.flags & bit), *item.keywords)


def has_flag(item: ItemRecord, flag: str) -> bool:
    """True when a message has an IMAP flag or keyword, whatever its case."""
    lower = flag.lower()
    bit = _BITS.get(lower)
    return bool(item.flags & bit) if bit else any(word.lower() == lower for word in item.keywords)


# -- delivering


def deliver(
    txn: WriteTransaction,
    mailboxes: MailboxName | Iterable[MailboxName],
    prepared: PreparedMessage,
    *,
    received_ms: int = 0,
) -> list[ItemRecord]:
    """Put a message into the Inbox of one mailbox or many: all or none. Its content is stored once.

    A mailbox is named by its GUID or its name, and gets the message once however often it is named. Gives the
    messages in the order of the mailboxes. `received_ms` is ms UTC, now when 0. Raises NotFound; Refused for
    a mailbox that is disconnected.
    """
    inboxes: dict[int, None] = {}
    for mailbox in named(mailboxes):
        require_change(txn, Right.CREATE_ITEMS, mailbox)
        record = get_mailbox(txn, mailbox) if isinstance(mailbox, bytes) else find_mailbox(txn, mailbox)
        inboxes[_inbox_of(record)] = None
    if not inboxes:
        raise NotFound("a message is delivered to at least one mailbox", hint="name a mailbox")
    check_kind(prepared, "prepared", PreparedMessage, "what `messages.prepare(database.files, raw)` gives")
    content_store.hold(txn, prepared.raw, prepared.content, len(inboxes))
    return [_insert(txn, folders.get(txn, each), prepared, received_ms=received_ms) for each in inboxes]


def _inbox_of(record: MailboxRecord) -> int:
    if record.state == DISCONNECTED:
        raise Refused(
            f"mailbox {record.name} is disconnected: nobody reads it",
            hint="reconnect it to a user first: `pillarbox mailbox reconnect`",
        )
    inbox = record.roles.get(INBOX)
    if inbox is None:
        raise NotFound(f"mailbox {record.name} has no Inbox")
    return inbox


def append(
    txn: WriteTransaction,
    folder_id: int,
    prepared: PreparedMessage,
    *,
    flags: Iterable[str] = (),
    received_ms: int = 0,
    properties: dict[str, Any] | None = None,
) -> ItemRecord:
    """Put a message into a folder, with IMAP flags and keywords.

    Raises NotFound, InvalidSetting; NoReplica for a public folder that other stores hold and this one does
    not.
    """
    require_change(txn, Right.CREATE_ITEMS, folder_id)
    check_kind(prepared, "prepared", PreparedMessage, "what `messages.prepare(database.files, raw)` gives")
    target = folders.get(txn, folder_id)
    replicas.refuse_posts(txn, target)
    bits, words = parse_flags(flags)
    content_store.hold(txn, prepared.raw, prepared.content)
    return _insert(
        txn, target, prepared, received_ms=received_ms, bits=bits, words=words, properties=properties
    )


def parse_flags(flags: Iterable[str]) -> tuple[int, tuple[str, ...]]:
    """IMAP flags as bits, and keywords, each once: neither has its case (RFC 9051 section 9, note 1).

    Of a keyword the first spelling counts. Raises InvalidSetting for what is neither.
    """
    check_several(flags, "flags", "a list of flags, such as `[SEEN]`")
    bits = 0
    words: dict[str, str] = {}
    for flag in flags:
        check_kind(flag, "flags", str, "flags and keywords as str")
        if bit := _BITS.get(flag.lower()):
            bits |= bit
        elif f"\\{flag.lower()}" in _BITS:
            raise InvalidSetting(f"{flag!r} cannot be a keyword", hint=f"the flag is written \\{flag}")
        elif flag.startswith("\\") or not keywords([flag]):
            raise InvalidSetting(
                f"{flag[:80]!r} is no flag and cannot be a keyword",
                hint=f"a flag is one of {', '.join(FLAG_BITS)}; a keyword is {KEYWORD_RULE}",
            )
        else:
            words.setdefault(flag.lower(), flag)
    return bits, tuple(words.values())


def _by_lower(words: Iterable[str]) -> dict[str, str]:
    return {word.lower(): word for word in words}


def _insert(
    txn: WriteTransaction,
    target: FolderRecord,
    prepared: PreparedMessage,
    *,
    received_ms: int = 0,
    bits: int = 0,
    words: tuple[str, ...] = (),
    properties: dict[str, Any] | None = None,
) -> ItemRecord:
    check_kind(received_ms, "received_ms", int, "ms UTC, 0 for now")
    item = new_record(txn.next_cn(), prepared, received_ms or txn.now_ms, bits, words, properties)
    return place(txn, target, item)


def new_record(
    cn: int,
    prepared: PreparedMessage,
    received_ms: int,
    bits: int = 0,
    words: tuple[str, ...] = (),
    properties: dict[str, Any] | None = None,
) -> ItemRecord:
    """The record of a message that is made by the change `cn`, before it has a place."""
    envelope = prepared.envelope
    return ItemRecord(
        folder_id=0,  # `place` gives it, and the UID
        uid=0,
        message_id=cn,
        digest=prepared.content.digest,
        size=prepared.content.size,
        received_ms=received_ms,
        flags=bits,
        keywords=words,
        categories=(),
        arrived_cn=cn,
        change_cn=cn,
        read_cn=cn,
        subject=envelope.subject,
        sender=envelope.sender,
        to=envelope.to,
        cc=envelope.cc,
        date_ms=envelope.date_ms or None,
        internet_message_id=envelope.message_id,
        in_reply_to=envelope.in_reply_to,
        importance=envelope.importance,
        has_attachment=envelope.has_attachment,
        conversation=envelope.conversation,
        properties=properties or {},
        size_crlf=prepared.content.size_crlf,
    )


def place(txn: WriteTransaction, target: FolderRecord, item: ItemRecord, **changes: Any) -> ItemRecord:
    """Store a message's record, with `changes`, in a folder that gives it its next UID; as it is there.

    Its content is held already. Where changes are numbered for other stores the message is a new one.
    """
    placed = _enter(txn, target, item, **changes)
    folders.count_in_mailbox(txn, target.mailbox, counts_of(placed))
    return placed


def _enter(txn: WriteTransaction, target: FolderRecord, item: ItemRecord, **changes: Any) -> ItemRecord:
    """The mailbox counts nothing yet."""
    if txn.numbering:
        item, changes = versions.as_new(txn, item._replace(**changes)), {}
    return give_uid(txn, target, item, **changes)


def give_uid(txn: WriteTransaction, target: FolderRecord, item: ItemRecord, **changes: Any) -> ItemRecord:
    """Store a message's record as it is, with `changes`, under the next UID of a folder; as it is there.

    The only place that gives UIDs. The mailbox counts nothing yet.
    """
    placed = item._replace(folder_id=target.folder_id, uid=target.uid_next, **changes)
    txn.insert(Table.ITEM, item_key(placed.folder_id, placed.uid), placed)
    folders.count(txn, target, counts_of(placed), placed.modseq, uids=1)
    return placed


def place_as_new(txn: WriteTransaction, target: FolderRecord, item: ItemRecord) -> ItemRecord:
    """`place` what is said of a message of any folder or database under an id of its own; as it is there."""
    cn = txn.next_cn()
    return place(
        txn, target, item, message_id=cn, arrived_cn=cn, change_cn=cn, read_cn=cn, **versions.UNVERSIONED
    )


def place_hidden(txn: WriteTransaction, target: FolderRecord, item: ItemRecord, cn: int) -> None:
    """`place` a copy of a message, of the id `cn`, a change number, in a folder that counts nowhere yet."""
    _enter(txn, target, item, message_id=cn, arrived_cn=cn, change_cn=cn, read_cn=cn, **versions.UNVERSIONED)


# -- reading


def get(reader: Reader, message_id: int) -> ItemRecord:
    """The message of that id. Raises NotFound."""
    require(reader, Right.READ_ITEMS, message_id)
    return _get(reader, message_id)


def _get(reader: Reader, message_id: int) -> ItemRecord:
    check_id(message_id, "message_id")
    item = get_or_hidden(reader, message_id)
    if not folders.is_there(reader, item.folder_id):
        raise _no_message(message_id)
    return item


def get_or_hidden(reader: Reader, message_id: int) -> ItemRecord:
    """The message of that id, in a hidden folder too, for the task that it is hidden by. Raises NotFound."""
    found = reader.index(Table.LOCATION, id_key(message_id)) if is_id(message_id) else None
    item: ItemRecord | None = None if found is None else reader.record(Table.ITEM, found)
    if item is None:
        raise _no_message(message_id)
    return item


def _no_message(message_id: int) -> NotFound:
    return NotFound(f"there is no message {id_text(message_id)}")


def get_by_uid(reader: Reader, folder_id: int, uid: int) -> ItemRecord:
    """The message of that UID in a folder. Raises NotFound."""
    require(reader, Right.READ_ITEMS, folder_id)
    return _get_by_uid(reader, folder_id, uid)


def _get_by_uid(reader: Reader, folder_id: int, uid: int) -> ItemRecord:
    check_id(folder_id, "folder_id")
    check_kind(uid, "uid", int, "a UID")
    item: ItemRecord | None = None
    if folders.is_there(reader, folder_id) and 0 <= uid < UID_END:
        item = reader.record(Table.ITEM, item_key(folder_id, uid))
    if item is None or item.role == ItemRole.VERSION:
        raise NotFound(f"folder {id_text(folder_id)} has no message of UID {uid}")
    return item


def content(reader: Reader, item: ItemRecord) -> bytes:
    """A message's bytes, exactly as they came in.

    Raises Corrupt, naming what is damaged; NotFound when the message is gone from what `reader` sees, which
    may be later than what `item` was read from.
    """
    check_kind(item, "item", ItemRecord, "the record of a message: `messages.get(reader, message_id)`")
    require(reader, Right.READ_ITEMS, item.folder_id)
    return _read(content_store.read, reader, item)


def size_crlf(reader: Reader, item: ItemRecord) -> int:
    """Bytes of a message with CRLF line ends, as IMAP and POP3 tell its size.

    Its content is read where the record, of an earlier layout, does not say it yet. Raises as `content`.
    """
    require(reader, Right.READ_ITEMS, item.folder_id)
    if item.size_crlf is not None:
        return item.size_crlf
    return size_with_crlf(_read(content_store.read, reader, item))


def header(reader: Reader, item: ItemRecord) -> bytes:
    """A message's header with the blank line behind it; large parts of its body are not read for it.

    Raises as `content`.
    """
    check_kind(item, "item", ItemRecord, "the record of a message: `messages.get(reader, message_id)`")
    require(reader, Right.READ_ITEMS, item.folder_id)
    return _read(content_store.read_header, reader, item)


def _read(read: Callable[[Reader, bytes], bytes], reader: Reader, item: ItemRecord) -> bytes:
    try:
        return read(reader, item.digest)
    except Corrupt:
        # The content of a message that was deleted is missing, and nothing is damaged.
        if reader.record(Table.ITEM, item_key(item.folder_id, item.uid)) is None:
            _get(reader, item.message_id)
        raise


# -- changing


def set_flags(
    txn: WriteTransaction, message_id: int, *, add: Iterable[str] = (), remove: Iterable[str] = ()
) -> ItemRecord:
    """Add and remove IMAP flags and keywords; a keyword that it has stays as it is spelled.

    Raises NotFound; InvalidSetting for what is neither, and for one that is to be both added and removed.
    """
    require_change(txn, Right.EDIT_ALL, message_id)
    item = _get(txn, message_id)
    add_bits, add_words = parse_flags(add)
    remove_bits, remove_words = parse_flags(remove)
    both = [flag for flag, bit in FLAG_BITS.items() if add_bits & remove_bits & bit]
    adds, removes = _by_lower(add_words), _by_lower(remove_words)
    both += [word for lower, word in adds.items() if lower in removes]
    if both:
        raise InvalidSetting(f"{', '.join(both)} cannot be both set and taken off", hint="say one of them")
    bits = item.flags & ~remove_bits | add_bits
    has = _by_lower(item.keywords)
    held = has | adds | has
    words = tuple(word for lower, word in held.items() if lower not in removes)
    if bits == item.flags and words == item.keywords:
        return item
    cn = txn.next_cn()
    read_changed = (bits ^ item.flags) & SEEN_BIT
    other_changed = (bits ^ item.flags) & ~SEEN_BIT or words != item.keywords
    changed = item._replace(
        flags=bits,
        keywords=words,
        read_cn=cn if read_changed else item.read_cn,
        change_cn=cn if other_changed else item.change_cn,
    )
    unread = 0
    if read_changed:
        unread = -1 if bits & SEEN_BIT else 1
    return _store(txn, item, changed, unread, cn)


def set_categories(txn: WriteTransaction, message_id: int, categories: Sequence[str]) -> ItemRecord:
    """Put a message into categories, in the place of those it is in. Raises NotFound, InvalidSetting."""
    require_change(txn, Right.EDIT_ALL, message_id)
    check_several(categories, "categories", "a list of categories, each a str")
    names = tuple(dict.fromkeys(categories))
    if len(names) > CATEGORIES_MAX or not all(
        isinstance(name, str) and 0 < len(name) <= 255 for name in names
    ):
        raise InvalidSetting(
            "these are no categories", hint=f"at most {CATEGORIES_MAX}, of 1 to 255 characters each"
        )
    item = _get(txn, message_id)
    if names == item.categories:
        return item
    cn = txn.next_cn()
    return _store(txn, item, item._replace(categories=names, change_cn=cn), 0, cn)


def set_property(txn: WriteTransaction, message_id: int, key: str, value: Any) -> ItemRecord:
    """Set one of a message's properties, or remove it with None. Raises NotFound."""
    require_change(txn, Right.EDIT_ALL, message_id)
    item = _get(txn, message_id)
    cn = txn.next_cn()
    properties = folders.with_property(item.properties, key, value)
    return _store(txn, item, item._replace(properties=properties, change_cn=cn), 0, cn)


def _store(txn: WriteTransaction, before: ItemRecord, item: ItemRecord, unread: int, cn: int) -> ItemRecord:
    if before.role == ItemRole.VERSION:
        versions.refuse_conflict(txn, before)
    if txn.numbering and before.versions:
        item = versions.as_changed(txn, before, item, cn)
        if item.versions != before.versions:
            _replace_siblings(txn, before)
    txn.put(Table.ITEM, item_key(item.folder_id, item.uid), item)
    folders.count(txn, folders.get(txn, item.folder_id), Counts(unread=unread), cn)
    return item


def move(txn: WriteTransaction, message_id: int, folder_id: int) -> ItemRecord:
    """Put a message into another folder: it keeps its id and gets a new UID.

    In a database that has joined an organisation it gets another id, too, as a message of another folder.
    Raises NotFound, Refused for one in conflict, NoReplica as `append`.
    """
    require_change(txn, Right.DELETE_ALL, message_id)
    require_change(txn, Right.CREATE_ITEMS, folder_id)
    item, target = _get(txn, message_id), folders.get(txn, folder_id)
    replicas.refuse_posts(txn, target)
    return put_into(txn, item, target)


def put_into(txn: WriteTransaction, item: ItemRecord, target: FolderRecord) -> ItemRecord:
    """`move` of a message to a folder, both of which may be hidden."""
    folder_id = target.folder_id
    if item.folder_id == folder_id:
        return item
    source = folders.get_or_hidden(txn, item.folder_id)
    versions.refuse_conflict(txn, item)
    _replace_siblings(txn, item)
    _leave(txn, source, item, moved_to=folder_id)
    properties = {**item.properties, FORMER_FOLDER: id_text(item.folder_id)}
    moved = _enter(txn, target, item, arrived_cn=txn.next_cn(), properties=properties)
    if source.mailbox != target.mailbox:
        folders.count_in_mailbox(txn, source.mailbox, -counts_of(item))
        folders.count_in_mailbox(txn, target.mailbox, counts_of(item))
    return moved


def copy(txn: WriteTransaction, message_id: int, folder_id: int) -> ItemRecord:
    """Put a copy of a message into a folder, with an id of its own.

    Raises NotFound; TooManyMessages from the 1,001st copy in one transaction on; NoReplica as `append`.
    """
    require_change(txn, Right.CREATE_ITEMS, folder_id)
    require(txn, Right.READ_ITEMS, message_id)
    item = _get(txn, message_id)
    target = folders.get(txn, folder_id)
    replicas.refuse_posts(txn, target)
    _count_copies(txn, 1)
    content_store.hold_again(txn, item.digest)
    return place_as_new(txn, target, item)


def copy_folder(txn: WriteTransaction, folder_id: int, parent_id: int, name: str = "") -> FolderRecord:
    """Copy a folder with all in it into another, under `name` or its own.

    Raises as `folders.create`, and TooManyMessages for more than 1,000 of them, which `copying.copy_folder`
    copies in many transactions.
    """
    require_change(txn, Right.CREATE_SUBFOLDERS, parent_id)
    require(txn, Right.READ_ITEMS, folder_id)
    source = folders.get(txn, folder_id)
    inner = list(folders.walk(txn, folder_id))
    replicas.refuse_posts(txn, folders.get(txn, parent_id))
    _count_copies(txn, source.messages_count + sum(found.messages_count for _, found in inner))
    target = folders.create(txn, parent_id, name or source.name)
    _copy_messages(txn, folder_id, target)
    for path, found in inner:
        _copy_messages(txn, found.folder_id, folders.ensure(txn, target.folder_id, path))
    return folders.get(txn, target.folder_id)


def _copy_messages(txn: WriteTransaction, source_id: int, target: FolderRecord) -> None:
    for item in list(folders.messages(txn, source_id)):
        content_store.hold_again(txn, item.digest)
        place_as_new(txn, folders.get(txn, target.folder_id), item)


def _count_copies(txn: WriteTransaction, count: int) -> None:
    """Raises TooManyMessages when others would wait too long for the transaction."""
    if txn.copies_count + count > COPIES_MAX:
        raise TooManyMessages(
            f"one transaction copies at most {COPIES_MAX:,} messages",
            hint="copy the folder with `pillarbox.copy_folder(database, actor, folder_id, parent_id)`, or "
            "messages in several transactions",
        )
    txn.copies_count += count


def delete(txn: WriteTransaction, message_id: int) -> None:
    """Delete a message for good; a tombstone tells those who follow the folder.

    Raises NotFound; Refused for one in conflict, of which a version is to be kept first (`keep_version`).
    """
    require_change(txn, Right.DELETE_ALL, message_id)
    item = _get(txn, message_id)
    versions.refuse_conflict(txn, item)
    _replace_siblings(txn, item)
    take_out(txn, item, is_replicated=True)


def keep_version(txn: WriteTransaction, message_id: int) -> ItemRecord:
    """Resolve a conflict: one version of a message is kept, by its id, and the others go, in all stores.

    Raises NotFound; Refused for the id of a conflict message, which is no version. A message that is in no
    conflict stays as it is.
    """
    require_change(txn, Right.EDIT_ALL, message_id)
    item = _get(txn, message_id)
    if not versions.is_in_conflict(txn, item):
        return item
    if item.is_conflict:
        raise Refused(
            f"message {id_text(message_id)} holds several versions, and is none of them",
            hint="name the version to keep: `versions.live_versions` of the message, or `keep_all_versions`",
        )
    return _keep(txn, item)


def keep_all_versions(txn: WriteTransaction, message_id: int) -> list[ItemRecord]:
    """Resolve a conflict, by the id of the message: each version becomes a message of its own, in all stores.

    The first keeps the message's id. Raises NotFound, NoReplica as `copy`. A message that is in no conflict
    stays as it is.
    """
    require_change(txn, Right.EDIT_ALL, message_id)
    item = _get(txn, message_id)
    if not versions.is_in_conflict(txn, item):
        return [item]
    first, *rest = versions.live_versions(txn, item)
    copies = [copy(txn, version.message_id, version.folder_id) for version in rest]
    return [_keep(txn, first), *copies]


def _keep(txn: WriteTransaction, version: ItemRecord) -> ItemRecord:
    content_store.hold_again(txn, version.digest)
    shown = versions.shown_of(txn, version)
    return _put_in_place(txn, shown, version._replace(flags=version.flags | shown.flags & SEEN_BIT))


def replace_content(txn: WriteTransaction, message_id: int, prepared: PreparedMessage) -> ItemRecord:
    """Edit a message of a public folder: other content takes the place of its own, in all stores.

    It keeps its id, flags, categories and properties, and gets a new UID. Two edits at two stores that know
    nothing of each other are a conflict. Raises NotFound; Refused for one in a mailbox, whose content never
    changes, and for one in conflict.
    """
    require_change(txn, Right.EDIT_ALL, message_id)
    check_kind(prepared, "prepared", PreparedMessage, "what `messages.prepare(database.files, raw)` gives")
    item = _get(txn, message_id)
    if folders.get(txn, item.folder_id).mailbox:
        raise Refused(
            f"message {id_text(message_id)} is in a mailbox, where content never changes",
            hint="append another message and delete this one",
        )
    versions.refuse_conflict(txn, item)
    content_store.hold(txn, prepared.raw, prepared.content)
    made = new_record(item.message_id, prepared, item.received_ms, item.flags, item.keywords, item.properties)
    kept = {name: getattr(item, name) for name in ("folder_id", "categories", *versions.UNVERSIONED)}
    return _put_in_place(txn, item, made._replace(**kept))


def _put_in_place(txn: WriteTransaction, shown: ItemRecord, version: ItemRecord) -> ItemRecord:
    """Put a message's record, whose content is held, in the place of that which is shown and of all versions.

    It has another UID, since the content of a record never changes.
    """
    _replace_siblings(txn, shown)
    take_out(txn, shown)
    cn = txn.next_cn()
    if txn.numbering and version.versions:
        version = versions.as_resolved(txn, version, cn)
    target = folders.get(txn, shown.folder_id)
    places = {"message_id": shown.message_id, "arrived_cn": cn, "change_cn": cn, "read_cn": cn}
    return give_uid(txn, target, version, **places)


def _replace_siblings(txn: WriteTransaction, item: ItemRecord) -> None:
    """Take away every other version of a message, tombstones too, which a change made here replaces."""
    if not item.versions:
        return
    own = (Table.ITEM, item_key(item.folder_id, item.uid))
    for table, key in versions.records_of(txn, item.folder_id, item.versions):
        if (table, key) == own:
            continue
        record = txn.record(table, key)
        if isinstance(record, ItemRecord):
            take_out(txn, record)
        else:
            versions.drop_tombstone(txn, key, record)


def take_out(txn: WriteTransaction, item: ItemRecord, *, is_replicated: bool = False) -> None:
    """Delete a message whose folder may be hidden, in this database alone unless `is_replicated`."""
    if item.role == ItemRole.VERSION:
        txn.delete(Table.ITEM, item_key(item.folder_id, item.uid))
    else:
        folder = folders.get_or_hidden(txn, item.folder_id)
        _leave(txn, folder, item, is_replicated=is_replicated)
        folders.count_in_mailbox(txn, folder.mailbox, -counts_of(item))
    content_store.release(txn, item.digest)


def _leave(
    txn: WriteTransaction,
    folder: FolderRecord,
    item: ItemRecord,
    *,
    moved_to: int = 0,
    is_replicated: bool = False,
) -> None:
    """Take a message out of a folder. The mailbox counts it still."""
    txn.delete(Table.ITEM, item_key(item.folder_id, item.uid))
    bury = bury_version if is_replicated or moved_to else bury_message
    cn = bury(txn, item, moved_to)
    folders.count(txn, folder, -counts_of(item), cn)
