"""The inside of a bundle, written as msgpack, version 2 (docs/replication.md, "Messages on the wire")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack

from pillarbox.replication.ground.records import Entry, FolderVersion, MessageVersion
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    Body,
    BucketDigests,
    BucketQuestion,
    Changes,
    Fetching,
    Hello,
    HelloAnswer,
    LinkReport,
    Message,
    Numberings,
    Objects,
    ReconcileAnswer,
    ReconcileQuestion,
    RestPoll,
    RestSums,
    Statement,
    Status,
    StatusRequest,
)
from pillarbox.store.change_number import ChangeNumber


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
        case RestPoll(silent, equal):
            return [[[site, sorted(stores)] for site, stores in sorted(silent.items())], sorted(equal)]
        case RestSums(hierarchy, sums, stores):
            return [hierarchy, [list(each) for each in sorted(sums.items())], sorted(stores)]
        case BucketQuestion(site, buckets, to):
            return [site, buckets, to]
        case BucketDigests(source, digests):
            return [source, [[*folder, digest] for folder, digest in sorted(digests.items())]]


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
