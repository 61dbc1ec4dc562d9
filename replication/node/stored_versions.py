"""Versions of messages and folders as the core knows them, and as a store keeps them; each from the other.

To the core a property is an entry with a stamp. In the store flags, keywords and categories of a message are
what mail clients see, and the entry of one that is off, or of a property that was removed, has its stamp
alone. To the core they are named as in
`store.mail.versions`, and all other properties by their own names. A property that is no text, which only a
program at this store can have set, travels as text that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from pillarbox.replication.ground.records import (
    REMOVED,
    Entry,
    Folder,
    FolderVersion,
    MessageVersion,
    MessageView,
    ReplicaState,
)
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.node.identifiers import Identifiers, KnownIdentifiers
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.disk.records import pack, unpack
from pillarbox.store.ids import COUNTER_BITS
from pillarbox.store.mail import apply_folders, apply_messages, versions
from pillarbox.store.mail.flags import FLAG_BITS, SEEN

_ON: Final = "1"
_OFF: Final = ""
_PACKED: Final = "\0"  # before the hexadecimal digits of a value that is no text
_RIGHTS: Final = "rights "
_FLAGS: Final = {name: bit for name, bit in FLAG_BITS.items() if name != SEEN}
_PREFIXES: Final = (versions.KEYWORD, versions.CATEGORY, versions.PROPERTY, _RIGHTS)

Entries = Mapping[str, Entry[str]]
Row = tuple[str, int, int, int]


def _is_special(name: str) -> bool:
    """True when a property of that name would be taken for another thing by the core."""
    return name in _FLAGS or name.startswith(_PREFIXES)


def _named_as_stored(entries: Entries) -> dict[str, Entry[str]]:
    """Entries by the names that the store has for them."""
    return {name if _is_special(name) else versions.PROPERTY + name: entry for name, entry in entries.items()}


def _named_as_known(entries: Entries) -> dict[str, Entry[str]]:
    """Entries of the store by the names that the core has for them."""
    named = {}
    for name, entry in entries.items():
        own = name.removeprefix(versions.PROPERTY)
        named[name if _is_special(own) else own] = entry
    return named


# -- messages


def stored_message(
    ids: Identifiers, number: ChangeNumber | None, version: MessageVersion
) -> apply_messages.MessageVersion:
    """A version of a message as a store keeps it; without a number what several are read as."""
    changed = version.changed
    made = apply_messages.MessageVersion(
        0 if number is None else ids.number(number), (changed.time_ms, changed.counter), version.actor
    )
    if version.gone:
        return made
    if not version.properties:
        return made._replace(digest=version.content)
    entries = _named_as_stored(version.properties)
    on = {name: entry.value for name, entry in entries.items()}
    return made._replace(
        digest=version.content,
        flags=sum(bit for name, bit in _FLAGS.items() if on.get(name)),
        keywords=tuple(on[name] for name in sorted(on) if name.startswith(versions.KEYWORD) and on[name]),
        categories=tuple(
            name.removeprefix(versions.CATEGORY)
            for name in sorted(on)
            if name.startswith(versions.CATEGORY) and on[name]
        ),
        properties={
            name.removeprefix(versions.PROPERTY): _value(on[name])
            for name in sorted(on)
            if name.startswith(versions.PROPERTY) and on[name] != REMOVED
        },
        stamps=_rows(ids, entries, _own_row(made)),
    )


def shown_message(
    ids: Identifiers, held: Versions[MessageVersion], now_ms: int
) -> apply_messages.MessageVersion | None:
    """Several live versions of a message read as one; None for one alone. A conflict has no content yet: the
    store makes the conflict message.
    """
    live = held.live()
    if len(live) < 2:
        return None
    view = MessageView.read(held, now_ms)
    last = max(live, key=lambda version: version.changed.weight(now_ms))
    content = b"" if view.is_conflict else view.contents[0]
    return stored_message(ids, None, replace(last, content=content, properties=view.properties))


def message_of(
    ids: KnownIdentifiers, stored: apply_messages.MessageVersion, size_bytes: int
) -> MessageVersion:
    """A version of a message as the core knows it."""
    changed = ids.stamp(*_own_row(stored))
    if not stored.digest:
        return MessageVersion(changed, stored.actor, gone=True)
    values = {name: _ON for name, bit in _FLAGS.items() if stored.flags & bit}
    values |= {versions.KEYWORD + word.lower(): word for word in stored.keywords}
    values |= {versions.CATEGORY + name: _ON for name in stored.categories}
    values |= {versions.PROPERTY + name: _text(value) for name, value in stored.properties.items()}
    entries = _entries(ids, values, stored.stamps, _own_row(stored))
    return MessageVersion(changed, stored.actor, stored.digest, size_bytes, _named_as_known(entries))


def _own_row(stored: apply_messages.MessageVersion | apply_folders.FolderVersion) -> tuple[int, int, int]:
    """The stamp of a version as a store keeps it, with the replica that made it."""
    return (*stored.changed, stored.number >> COUNTER_BITS)


def _rows(ids: Identifiers, entries: Mapping[str, Entry[Any]], own: tuple[int, int, int]) -> tuple[Row, ...]:
    """Stamps of entries, but for those that are there and were set by the version itself."""
    found: list[Row] = []
    for name, entry in sorted(entries.items()):
        stamp = (entry.stamp.time_ms, entry.stamp.counter, ids.replica(entry.stamp.origin))
        if stamp != own or entry.value == _absent(name):
            found.append((name, *stamp))
    return tuple(found)


def _entries(
    ids: KnownIdentifiers, values: Mapping[str, str], stamps: Iterable[Row], own: tuple[int, int, int]
) -> dict[str, Entry[str]]:
    """Entries of values that are on, and of those that are off and have a stamp."""
    stamped = {name: (time_ms, counter, replica) for name, time_ms, counter, replica in stamps}
    return {
        name: Entry(ids.stamp(*stamped.get(name, own)), values.get(name, _absent(name)))
        for name in sorted({**values, **stamped})
    }


def _absent(name: str) -> str:
    """The value of an entry, by its name in the store, of which the store has the stamp alone."""
    return REMOVED if name.startswith(versions.PROPERTY) else _OFF


def _value(text: str) -> Any:
    return unpack(bytes.fromhex(text[1:])) if text.startswith(_PACKED) else text


def _text(value: Any) -> str:
    is_text = isinstance(value, str) and not value.startswith(_PACKED)
    return value if is_text else _PACKED + pack(value).hex()


# -- folders


def stored_folder(
    ids: Identifiers, number: ChangeNumber | None, version: FolderVersion
) -> apply_folders.FolderVersion:
    """A version of a folder as a store keeps it; without a number what several are read as."""
    changed = version.changed
    rights = {name: entry for name, entry in version.properties.items() if name.startswith(_RIGHTS)}
    properties = _named_as_stored(
        {name: entry for name, entry in version.properties.items() if name not in rights}
    )
    made = apply_folders.FolderVersion(
        number=0 if number is None else ids.number(number),
        changed=(changed.time_ms, changed.counter),
        actor=version.actor,
        gone=version.gone,
        name=version.name.value,
        parent_id=ids.id(version.parent.value),
        properties={
            name.removeprefix(versions.PROPERTY): _value(entry.value)
            for name, entry in sorted(properties.items())
            if entry.value != REMOVED
        },
        stamps=(),
        replicas=tuple(
            (database, int(entry.value), *_row(ids, entry))
            for database, entry in sorted(version.replicas.items())
        ),
        rights=tuple(
            (name.removeprefix(_RIGHTS), int(entry.value), *_row(ids, entry))
            for name, entry in sorted(rights.items())
        ),
        cleared=version.cleared.encode() if version.cleared else None,
    )
    named: dict[str, Entry[Any]] = {
        **properties,
        versions.NAME: version.name,
        versions.PARENT: version.parent,
    }
    return made._replace(stamps=_rows(ids, named, _own_row(made)))


def shown_folder(
    ids: Identifiers, held: Versions[FolderVersion], now_ms: int
) -> apply_folders.FolderVersion | None:
    """Several versions of a folder read as one, as a store shows it; None for one alone, or if none lives."""
    if len(held.siblings) < 2 or not held.live():
        return None
    read = Folder.read(held, now_ms)
    last = max(held.live(), key=lambda version: version.changed.weight(now_ms))
    one = replace(
        last,
        name=read.name,
        parent=read.parent,
        replicas=read.replicas,
        properties=read.properties,
        cleared=read.cleared,
    )
    return stored_folder(ids, None, one)


def _row(ids: Identifiers, entry: Entry[Any]) -> tuple[int, int, int]:
    stamp = entry.stamp
    return stamp.time_ms, stamp.counter, ids.replica(stamp.origin)


def folder_of(ids: KnownIdentifiers, stored: apply_folders.FolderVersion) -> FolderVersion:
    """A version of a folder as the core knows it."""
    own = _own_row(stored)
    stamped = {row[0]: ids.stamp(*row[1:]) for row in stored.stamps}
    first = ids.stamp(*own)
    properties = {
        versions.PROPERTY + name: Entry(stamped.get(versions.PROPERTY + name, first), _text(value))
        for name, value in stored.properties.items()
    }
    properties |= {
        name: Entry(stamp, REMOVED)
        for name, stamp in stamped.items()
        if name.startswith(versions.PROPERTY) and name not in properties
    }
    rights = {
        _RIGHTS + subject: Entry(ids.stamp(*stamp), str(rights)) for subject, rights, *stamp in stored.rights
    }
    return FolderVersion(
        changed=first,
        actor=stored.actor,
        name=Entry(stamped.get(versions.NAME, first), stored.name),
        parent=Entry(stamped.get(versions.PARENT, first), ids.object_id(stored.parent_id)),
        replicas={
            database: Entry(ids.stamp(*stamp), ReplicaState(state))
            for database, state, *stamp in stored.replicas
        },
        properties={**_named_as_known(properties), **rights},
        cleared=CNSet.decode(stored.cleared) if stored.cleared is not None else CNSet(),
        gone=stored.gone,
    )
