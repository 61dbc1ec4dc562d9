"""The inside of a bundle, read again. Nothing that is read is believed: `decode_body` gives what
`encoding.encode_body` writes, or raises InvalidContent.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgpack

from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.ground.versions import Sight
from pillarbox.replication.wire.frame import Flag
from pillarbox.replication.wire.kinds import kind_of
from pillarbox.replication.wire.messages import (
    BUCKETS_COUNT,
    SUM_BYTES,
    Acknowledgement,
    AnswerTo,
    BackfillRequest,
    Body,
    BucketDigests,
    BucketQuestion,
    Changes,
    Fetching,
    Hello,
    HelloAnswer,
    LinkReport,
    MessageType,
    Numberings,
    ReconcileAnswer,
    ReconcileQuestion,
    RestPoll,
    RestSums,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.replication.wire.object_reading import (
    read_context,
    read_folder,
    read_message,
    read_numbers,
    read_objects,
)
from pillarbox.replication.wire.values import (
    U32_MAX,
    Reader,
    invalid,
    read_array,
    read_bool,
    read_bytes,
    read_cnset,
    read_count,
    read_exactly,
    read_guid,
    read_life,
    read_number,
    read_text,
)
from pillarbox.store.ids import COUNTER_MAX

LINK_STATE_MAX: Final = 2

Part: TypeAlias = tuple[ObjectId, Statement, Body]


def decode_body(
    data: bytes, kind: MessageType, flags: Flag, tree: Tree
) -> tuple[tuple[Part, ...], tuple[bytes, ...]]:
    """Read the body that `encode_body` wrote: its messages, and raw contents. Raises InvalidContent."""
    try:
        read = msgpack.unpackb(data, use_list=False, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise invalid(f"its body is no msgpack: {error}") from error
    parts, contents = read_exactly(read, 2)
    if not read_array(parts):
        raise invalid("it holds no message")
    return (
        tuple(_read_part(part, kind, flags, tree) for part in parts),
        tuple(read_bytes(content) for content in read_array(contents)),
    )


def _read_part(value: Any, kind: MessageType, flags: Flag, tree: Tree) -> Part:
    origin, counter, statement, fields = read_exactly(value, 4)
    is_hierarchy = origin == tree.guid and counter == 0
    folder = tree.hierarchy if is_hierarchy else read_number((origin, counter))
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
        (MessageType.STATUS_REQUEST, Flag.NONE): lambda fields: StatusRequest(*read_exactly(fields, 0)),
        (MessageType.STATUS_REQUEST, Flag.DELETE_PENDING): lambda fields: StatusRequest(
            read_count(read_exactly(fields, 1)[0], U32_MAX)
        ),
    }
    if is_hierarchy:
        readers |= {
            (MessageType.HELLO, Flag.NONE): lambda fields: Hello(*map(read_guid, read_exactly(fields, 2))),
            (MessageType.HELLO, Flag.ACKNOWLEDGEMENT): _read_hello_answer,
            (MessageType.STATUS_REQUEST, Flag.REST): _read_rest_poll,
            (MessageType.STATUS, Flag.REST): _read_rest_sums,
            (MessageType.STATUS_REQUEST, Flag.REST | Flag.FOLDERS): _read_bucket_question,
            (MessageType.STATUS, Flag.REST | Flag.FOLDERS): _read_bucket_digests,
        }
    if kind is (MessageType.HIERARCHY if is_hierarchy else MessageType.CONTENT):
        version = read_folder if is_hierarchy else read_message
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
    incarnation, life, known, expired = read_exactly(value, 4)
    return Statement(read_life(incarnation, life), read_cnset(known), read_cnset(expired))


def _read_changes(value: Any, version: Reader[Any]) -> Changes:
    fields = read_array(value)
    objects, gaps, required, *rest = read_exactly(value, 3 if len(fields) == 3 else 7)
    pair = Pair(read_cnset(gaps), read_cnset(required))
    if not rest:
        return Changes(read_objects(objects, version), pair)
    incarnation, life, purged, is_last = rest
    answer = AnswerTo(read_life(incarnation, life), read_cnset(purged), read_bool(is_last))
    return Changes(read_objects(objects, version), pair, answer)


def _read_request(value: Any) -> BackfillRequest:
    needed, had = read_exactly(value, 2)
    return BackfillRequest(read_cnset(needed), read_cnset(had))


def _read_question(value: Any) -> ReconcileQuestion:
    held, applied = read_exactly(value, 2)
    sights = {}
    for item in read_array(held):
        origin, counter, context, numbers = read_exactly(item, 4)
        sights[read_number((origin, counter))] = Sight(read_context(context), read_numbers(numbers))
    return ReconcileQuestion(sights, read_count(applied))


def _read_reconcile(value: Any, version: Reader[Any]) -> ReconcileAnswer:
    incarnation, life, told, objects, purged, required, applied = read_exactly(value, 7)
    gone = {}
    for item in read_array(told):
        origin, counter, numbers = read_exactly(item, 3)
        gone[read_number((origin, counter))] = read_numbers(numbers)
    return ReconcileAnswer(
        read_life(incarnation, life),
        gone,
        read_objects(objects, version),
        read_cnset(purged),
        read_cnset(required),
        read_count(applied),
    )


def _read_fetching(value: Any) -> Fetching:
    numbers, source = read_exactly(value, 2)
    return Fetching(read_cnset(numbers), read_guid(source))


def _read_link_report(value: Any) -> LinkReport:
    connector, number, state = read_exactly(value, 3)
    return LinkReport(read_text(connector), read_count(number), read_count(state, LINK_STATE_MAX))


def _read_rest_poll(value: Any) -> RestPoll:
    listed, equal = read_exactly(value, 2)
    silent = {}
    for item in read_array(listed):
        site, stores = read_exactly(item, 2)
        silent[read_text(site)] = _read_stores(stores)
    return RestPoll(silent, frozenset(map(read_text, read_array(equal))))


def _read_rest_sums(value: Any) -> RestSums:
    hierarchy, listed, stores = read_exactly(value, 3)
    sums = {}
    for item in read_array(listed):
        site, of_site = read_exactly(item, 2)
        if len(read_bytes(of_site)) not in (SUM_BYTES, SUM_BYTES * BUCKETS_COUNT):
            raise invalid("the sums of a site have the wrong length")
        sums[read_text(site)] = of_site
    return RestSums(_read_digest(hierarchy), sums, _read_stores(stores))


def _read_bucket_question(value: Any) -> BucketQuestion:
    site, buckets, to = read_exactly(value, 3)
    return BucketQuestion(read_text(site), read_bytes(buckets), read_guid(to))


def _read_bucket_digests(value: Any) -> BucketDigests:
    source, listed = read_exactly(value, 2)
    digests = {}
    for item in read_array(listed):
        origin, counter, digest = read_exactly(item, 3)
        digests[read_number((origin, counter))] = _read_digest(digest)
    return BucketDigests(read_guid(source), digests)


def _read_stores(value: Any) -> frozenset[bytes]:
    return frozenset(map(read_guid, read_array(value)))


def _read_digest(value: Any) -> bytes:
    if len(read_bytes(value)) != SUM_BYTES:
        raise invalid("a digest has the wrong length")
    return read_bytes(value)


def _read_mate(value: Any, said: Statement) -> tuple[bytes, Statement]:
    fields = read_array(value)
    store, incarnation, life, *rest = read_exactly(fields, 3 if len(fields) == 3 else 5)
    known, expired = map(read_cnset, rest) if rest else said[1:]
    return read_guid(store), Statement(read_life(incarnation, life), known, expired)


def _read_status(value: Any, said: Statement) -> Status:
    given, told, others = read_exactly(value, 3)
    mates = dict(_read_mate(mate, said) for mate in read_array(others))
    acknowledgement = None
    if read_array(given):
        incarnation, statement = read_exactly(given, 2)
        acknowledgement = Acknowledgement(read_count(incarnation, U32_MAX), read_count(statement, U32_MAX))
    return Status(acknowledgement, _read_numberings(told) if read_array(told) else None, mates)


def _read_numberings(value: Any) -> Numberings:
    listed, left_out = read_exactly(value, 2)
    owners = {}
    for item in read_array(listed):
        origin, database, incarnation = read_exactly(item, 3)
        owners[read_guid(origin)] = (read_guid(database), read_count(incarnation, U32_MAX))
    return Numberings(owners, read_cnset(left_out))


def _read_hello_answer(value: Any) -> HelloAnswer:
    start, highest, is_quarantined, *told = read_exactly(value, 5)
    return HelloAnswer(
        read_guid(start),
        read_count(highest, COUNTER_MAX),
        read_bool(is_quarantined),
        _read_numberings(tuple(told)),
    )
