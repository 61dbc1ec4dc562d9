"""The inside of a bundle as msgpack, version 2 (docs/replication.md, "Messages on the wire").

Nothing that is read is believed: `decode_body` gives what `encode_body` writes, or raises InvalidContent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgpack

from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import (
    Entry,
    FolderVersion,
    MessageVersion,
    ObjectId,
    ReplicaState,
    Tree,
)
from pillarbox.replication.ground.versions import Sight, Versions
from pillarbox.replication.wire.frame import Flag
from pillarbox.replication.wire.messages import (
    Acknowledgement,
    AnswerTo,
    BackfillRequest,
    Body,
    Changes,
    Fetching,
    Hello,
    HelloAnswer,
    Life,
    LinkReport,
    Message,
    MessageType,
    Numberings,
    Objects,
    ReconcileAnswer,
    ReconcileQuestion,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.errors import InvalidContent
from pillarbox.store.hybrid_clock import Stamp
from pillarbox.store.ids import COUNTER_MAX, GUID_BYTES

TEXT_BYTES_MAX: Final = 1 << 16
DIGEST_BYTES: Final = 24
LINK_STATE_MAX: Final = 2
_U32_MAX: Final = (1 << 32) - 1
_U64_MAX: Final = (1 << 64) - 1

T = TypeVar("T")
Part: TypeAlias = tuple[ObjectId, Statement, Body]
Reader = Callable[[Any], T]


def kind_of(is_hierarchy: bool, body: Body) -> tuple[MessageType, Flag]:
    """The type and the flags of a message with this body."""
    changes = MessageType.HIERARCHY if is_hierarchy else MessageType.CONTENT
    match body:
        case Changes(answer=None):
            return changes, Flag.NONE
        case Changes():
            return changes, Flag.BACKFILL
        case ReconcileAnswer():
            return changes, Flag.BACKFILL | Flag.RECONCILE
        case BackfillRequest():
            return MessageType.BACKFILL_REQUEST, Flag.NONE
        case ReconcileQuestion():
            return MessageType.BACKFILL_REQUEST, Flag.RECONCILE
        case Status(acknowledgement=None):
            return MessageType.STATUS, Flag.NONE
        case Status():
            return MessageType.STATUS, Flag.DELETE_PENDING | Flag.ACKNOWLEDGEMENT
        case StatusRequest(leaving=None):
            return MessageType.STATUS_REQUEST, Flag.NONE
        case StatusRequest():
            return MessageType.STATUS_REQUEST, Flag.DELETE_PENDING
        case Hello():
            return MessageType.HELLO, Flag.NONE
        case HelloAnswer():
            return MessageType.HELLO, Flag.ACKNOWLEDGEMENT
        case Fetching():
            return MessageType.BACKFILL_REQUEST, Flag.FETCHING
        case LinkReport():
            return MessageType.LINK_STATE, Flag.NONE


# --- writing ------------------------------------------------------------------------------------------------


def encode_body(messages: Iterable[Message], contents: Iterable[bytes]) -> bytes:
    """A body: of each message its folder, the sender's statement and the fields of its type; raw contents."""
    parts = [
        [*message.folder, _statement(message.statement), _fields(message.body, message.statement)]
        for message in messages
    ]
    return msgpack.packb([parts, list(contents)], use_bin_type=True)  # type: ignore[no-any-return]


def _statement(statement: Statement) -> list[Any]:
    return [*statement.life, statement.known.encode(), statement.expired.encode()]


def _fields(body: Body, statement: Statement) -> list[Any]:
    match body:
        case Changes(objects, pair, answer):
            fields = [_objects(objects), pair.gaps.encode(), pair.required.encode()]
            return (
                fields if answer is None else [*fields, *answer.life, answer.purged.encode(), answer.is_last]
            )
        case BackfillRequest(needed, had):
            return [needed.encode(), had.encode()]
        case ReconcileQuestion(held, applied):
            return [
                [[*key, _context(sight.context), _numbers(sight.numbers)] for key, sight in held.items()],
                applied,
            ]
        case ReconcileAnswer(life, gone, objects, purged, required, applied):
            told = [[*key, _numbers(numbers)] for key, numbers in gone.items()]
            return [*life, told, _objects(objects), purged.encode(), required.encode(), applied]
        case Status(acknowledgement, numberings, mates):
            return [list(acknowledgement or ()), _numberings(numberings), _mates(mates, statement)]
        case StatusRequest(leaving):
            return [] if leaving is None else [leaving]
        case Hello(start, origin):
            return [start, origin]
        case HelloAnswer(start, highest, is_quarantined, numberings):
            return [start, highest, is_quarantined, *_numberings(numberings)]
        case Fetching(numbers, source):
            return [numbers.encode(), source]
        case LinkReport(connector, number, state):
            return [connector, number, state]


def _mates(mates: Mapping[bytes, Statement], mine: Statement) -> list[Any]:
    """The statements of others; of one that has just what the sender has, only whose it is, and of which
    life.
    """
    return [
        [store, *said.life] if said[1:] == mine[1:] else [store, *_statement(said)]
        for store, said in sorted(mates.items())
    ]


def _numberings(numberings: Numberings | None) -> list[Any]:
    if numberings is None:
        return []
    owners = [[origin, *owner] for origin, owner in sorted(numberings.owners.items())]
    return [owners, numberings.left_out.encode()]


def _numbers(numbers: Iterable[ChangeNumber]) -> list[Any]:
    return [list(number) for number in sorted(numbers)]


def _context(context: Mapping[bytes, int]) -> list[Any]:
    return [list(entry) for entry in sorted(context.items())]


def _objects(objects: Objects) -> list[Any]:
    return [
        [
            *object_id,
            _context(versions.context),
            [[*number, _version(versions.siblings[number])] for number in sorted(versions.siblings)],
        ]
        for object_id, versions in objects
    ]


def _version(version: MessageVersion | FolderVersion) -> list[Any]:
    properties = [[name, *_entry(entry)] for name, entry in sorted(version.properties.items())]
    shared = [version.gone, list(version.changed), version.actor, properties]
    if isinstance(version, MessageVersion):
        return [*shared, version.content, version.size_bytes]
    replicas = [
        [store, list(entry.stamp), int(entry.value)] for store, entry in sorted(version.replicas.items())
    ]
    parent = [list(version.parent.stamp), list(version.parent.value)]
    return [*shared, _entry(version.name), parent, replicas, version.cleared.encode()]


def _entry(entry: Entry[Any]) -> list[Any]:
    return [list(entry.stamp), entry.value]


# --- reading ------------------------------------------------------------------------------------------------


def decode_body(
    data: bytes, kind: MessageType, flags: Flag, tree: Tree
) -> tuple[tuple[Part, ...], tuple[bytes, ...]]:
    """Read the body that `encode_body` wrote: its messages, and raw contents. Raises InvalidContent."""
    try:
        read = msgpack.unpackb(data, use_list=False, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise invalid(f"its body is no msgpack: {error}") from error
    parts, contents = _exactly(read, 2)
    if not _list(parts):
        raise invalid("it holds no message")
    return (
        tuple(_read_part(part, kind, flags, tree) for part in parts),
        tuple(_bytes(content) for content in _list(contents)),
    )


def _read_part(value: Any, kind: MessageType, flags: Flag, tree: Tree) -> Part:
    origin, counter, statement, fields = _exactly(value, 4)
    is_hierarchy = origin == tree.guid and counter == 0
    folder = tree.hierarchy if is_hierarchy else _number((origin, counter))
    said = _read_statement(statement)
    return folder, said, _body_reader(kind, flags, is_hierarchy, said)(fields)


def _body_reader(kind: MessageType, flags: Flag, is_hierarchy: bool, said: Statement) -> Reader[Body]:
    readers: dict[tuple[MessageType, Flag], Reader[Body]] = {
        (MessageType.BACKFILL_REQUEST, Flag.NONE): _read_request,
        (MessageType.BACKFILL_REQUEST, Flag.RECONCILE): _read_question,
        (MessageType.BACKFILL_REQUEST, Flag.FETCHING): _read_fetching,
        (MessageType.STATUS, Flag.NONE): lambda fields: _read_status(fields, said),
        (MessageType.STATUS, Flag.DELETE_PENDING | Flag.ACKNOWLEDGEMENT): lambda fields: _read_status(
            fields, said
        ),
        (MessageType.LINK_STATE, Flag.NONE): _read_link_report,
        (MessageType.STATUS_REQUEST, Flag.NONE): lambda fields: StatusRequest(*_exactly(fields, 0)),
        (MessageType.STATUS_REQUEST, Flag.DELETE_PENDING): lambda fields: StatusRequest(
            _count(_exactly(fields, 1)[0], _U32_MAX)
        ),
    }
    if is_hierarchy:
        readers |= {
            (MessageType.HELLO, Flag.NONE): lambda fields: Hello(*map(_guid, _exactly(fields, 2))),
            (MessageType.HELLO, Flag.ACKNOWLEDGEMENT): _read_hello_answer,
        }
    if kind is (MessageType.HIERARCHY if is_hierarchy else MessageType.CONTENT):
        version = _read_folder if is_hierarchy else _read_message
        readers |= {
            (kind, Flag.NONE): lambda fields: _read_changes(fields, version),
            (kind, Flag.BACKFILL): lambda fields: _read_changes(fields, version),
            (kind, Flag.BACKFILL | Flag.RECONCILE): lambda fields: _read_reconcile(fields, version),
        }
    reader = readers.get((kind, flags))
    if reader is None:
        raise invalid(f"type {kind:#x} does not go with flags {flags:#x} here")

    def checked(fields: Any) -> Body:
        body = reader(fields)
        if kind_of(is_hierarchy, body) != (kind, flags):
            raise invalid("its fields are not those of its type")
        return body

    return checked


def _read_statement(value: Any) -> Statement:
    incarnation, life, known, expired = _exactly(value, 4)
    return Statement(_life(incarnation, life), _cnset(known), _cnset(expired))


def _read_changes(value: Any, version: Reader[Any]) -> Changes:
    fields = _list(value)
    objects, gaps, required, *rest = _exactly(value, 3 if len(fields) == 3 else 7)
    pair = Pair(_cnset(gaps), _cnset(required))
    if not rest:
        return Changes(_read_objects(objects, version), pair)
    incarnation, life, purged, is_last = rest
    answer = AnswerTo(_life(incarnation, life), _cnset(purged), _bool(is_last))
    return Changes(_read_objects(objects, version), pair, answer)


def _read_request(value: Any) -> BackfillRequest:
    needed, had = _exactly(value, 2)
    return BackfillRequest(_cnset(needed), _cnset(had))


def _read_question(value: Any) -> ReconcileQuestion:
    held, applied = _exactly(value, 2)
    sights = {}
    for item in _list(held):
        origin, counter, context, numbers = _exactly(item, 4)
        sights[_number((origin, counter))] = Sight(_read_context(context), _read_numbers(numbers))
    return ReconcileQuestion(sights, _count(applied))


def _read_reconcile(value: Any, version: Reader[Any]) -> ReconcileAnswer:
    incarnation, life, told, objects, purged, required, applied = _exactly(value, 7)
    gone = {}
    for item in _list(told):
        origin, counter, numbers = _exactly(item, 3)
        gone[_number((origin, counter))] = _read_numbers(numbers)
    return ReconcileAnswer(
        _life(incarnation, life),
        gone,
        _read_objects(objects, version),
        _cnset(purged),
        _cnset(required),
        _count(applied),
    )


def _read_fetching(value: Any) -> Fetching:
    numbers, source = _exactly(value, 2)
    return Fetching(_cnset(numbers), _guid(source))


def _read_link_report(value: Any) -> LinkReport:
    connector, number, state = _exactly(value, 3)
    return LinkReport(_text(connector), _count(number), _count(state, LINK_STATE_MAX))


def _read_mate(value: Any, said: Statement) -> tuple[bytes, Statement]:
    fields = _list(value)
    store, incarnation, life, *rest = _exactly(fields, 3 if len(fields) == 3 else 5)
    known, expired = map(_cnset, rest) if rest else said[1:]
    return _guid(store), Statement(_life(incarnation, life), known, expired)


def _read_status(value: Any, said: Statement) -> Status:
    given, told, others = _exactly(value, 3)
    mates = dict(_read_mate(mate, said) for mate in _list(others))
    acknowledgement = None
    if _list(given):
        incarnation, statement = _exactly(given, 2)
        acknowledgement = Acknowledgement(_count(incarnation, _U32_MAX), _count(statement, _U32_MAX))
    return Status(acknowledgement, _read_numberings(told) if _list(told) else None, mates)


def _read_numberings(value: Any) -> Numberings:
    listed, left_out = _exactly(value, 2)
    owners = {}
    for item in _list(listed):
        origin, database, incarnation = _exactly(item, 3)
        owners[_guid(origin)] = (_guid(database), _count(incarnation, _U32_MAX))
    return Numberings(owners, _cnset(left_out))


def _read_hello_answer(value: Any) -> HelloAnswer:
    start, highest, is_quarantined, *told = _exactly(value, 5)
    return HelloAnswer(
        _guid(start), _count(highest, COUNTER_MAX), _bool(is_quarantined), _read_numberings(tuple(told))
    )


def _read_objects(value: Any, version: Reader[Any]) -> Objects:
    objects = []
    for item in _list(value):
        origin, counter, context, siblings = _exactly(item, 4)
        read = {}
        for sibling in _list(siblings):
            sibling_origin, sibling_counter, fields = _exactly(sibling, 3)
            read[_number((sibling_origin, sibling_counter))] = version(fields)
        versions: Versions[Any] = Versions(_read_context(context), read)
        if not all(map(versions.has_seen, read)):
            raise invalid("a version is not covered by its object's context")
        object_id = _number((origin, counter))
        if version is _read_message and not versions.has_seen(object_id):
            raise invalid("a message is not covered by its own context")
        objects.append((object_id, versions))
    return tuple(objects)


def _read_message(value: Any) -> MessageVersion:
    gone, changed, actor, properties, content, size_bytes = _exactly(value, 6)
    digest = _bytes(content)
    if len(digest) != (0 if _bool(gone) else DIGEST_BYTES):
        raise invalid("a digest has the wrong length")
    return MessageVersion(
        _stamp(changed), _text(actor), digest, _count(size_bytes), _read_properties(properties), gone
    )


def _read_folder(value: Any) -> FolderVersion:
    gone, changed, actor, properties, name, parent, listed, cleared = _exactly(value, 8)
    replicas = {}
    for item in _list(listed):
        store, stamp, state = _exactly(item, 3)
        replicas[_guid(store)] = Entry(_stamp(stamp), ReplicaState(_count(state, max(ReplicaState))))
    name_stamp, name_text = _exactly(name, 2)
    parent_stamp, parent_id = _exactly(parent, 2)
    return FolderVersion(
        changed=_stamp(changed),
        actor=_text(actor),
        name=Entry(_stamp(name_stamp), _text(name_text)),
        parent=Entry(_stamp(parent_stamp), _number(parent_id)),
        replicas=replicas,
        properties=_read_properties(properties),
        cleared=_cnset(cleared),
        gone=_bool(gone),
    )


def _read_properties(value: Any) -> dict[str, Entry[str]]:
    properties = {}
    for item in _list(value):
        name, stamp, text = _exactly(item, 3)
        properties[_text(name)] = Entry(_stamp(stamp), _text(text))
    return properties


def _read_context(value: Any) -> dict[bytes, int]:
    return dict(_number(entry) for entry in _list(value))


def _read_numbers(value: Any) -> frozenset[ChangeNumber]:
    return frozenset(_number(number) for number in _list(value))


# --- single values ------------------------------------------------------------------------------------------


def _exactly(value: Any, count: int) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise invalid("a value is no array")
    if len(value) != count:
        raise invalid(f"{len(value)} fields stand where {count} belong")
    return value


def _list(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise invalid("a value is no array")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise invalid("a value is no bytes")
    return value


def _guid(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) != GUID_BYTES:
        raise invalid("a GUID has the wrong length")
    return value


def _count(value: Any, highest: int = _U64_MAX) -> int:
    if type(value) is not int or not 0 <= value <= highest:
        raise invalid("a number is out of its range")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid("a value is neither true nor false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value.encode()) > TEXT_BYTES_MAX:
        raise invalid("a text is none, or too long")
    return value


def _number(value: Any) -> ObjectId:
    origin, counter = _exactly(value, 2)
    if type(counter) is not int or not 1 <= counter <= COUNTER_MAX:
        raise invalid("a change number is out of its range")
    return ChangeNumber(_guid(origin), counter)


def _stamp(value: Any) -> Stamp:
    time_ms, counter, origin = _exactly(value, 3)
    return Stamp(_count(time_ms), _count(counter), _guid(origin))


def _life(incarnation: Any, life: Any) -> Life:
    return Life(_count(incarnation, _U32_MAX), _count(life, _U32_MAX))


def _cnset(value: Any) -> CNSet:
    return CNSet.decode(_bytes(value))


def invalid(reason: str) -> InvalidContent:
    """The error of a message that is not what it should be."""
    return InvalidContent(
        f"not a replication message: {reason}", hint="it is refused; its sender will be asked again"
    )
