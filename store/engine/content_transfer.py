"""Content taken from one database into another as stored: frames as they lie, only those that are missing.

Nothing is decompressed, hashed or parsed: a frame's checksum covers its payload and the digest in it, and
blocks are keyed by their digests in every database (docs/format.md, "Content"). Only what was compressed with
a dictionary, which the other database does not have, is compressed again.
"""

from __future__ import annotations

from typing import NamedTuple

from pillarbox.store.content.blocks import BLOCK_BYTES_MAX, PreparedBlock, skeleton_bytes_max
from pillarbox.store.disk.stream import Codec, FrameKind, build_frame
from pillarbox.store.disk.tables import BlockRecord, ContentRecord, Table
from pillarbox.store.engine import content_store
from pillarbox.store.engine.transaction import DatabaseFiles, Reader, WriteTransaction
from pillarbox.store.errors import Corrupt


class FetchedFrame(NamedTuple):
    """A frame for the other database; `raw_bytes` is the size of what is in it."""

    raw_bytes: int
    frame: bytes


class FetchedContent(NamedTuple):
    """A message's content on its way: all that the other database lacks of it.

    `skeleton` is None where it lacks nothing. `parts` are those of the content record.
    """

    digest: bytes
    size: int
    parts: tuple[tuple[int, int, int, bytes, tuple[bytes, ...]], ...]
    skeleton: FetchedFrame | None
    blocks: dict[bytes, FetchedFrame]


Fetched = dict[tuple[FrameKind, bytes], FetchedFrame]


def fetch(source: Reader, target: Reader, digest: bytes, fetched: Fetched) -> FetchedContent:
    """Read what `target` lacks of a message's content in `source`. Needs no transaction.

    `fetched` keeps what was read for messages that are to be held together, so that nothing is read twice.
    Raises Corrupt, naming what is damaged in `source`.
    """
    record = content_store.content_record(source, digest)
    # Looked up without reading the record: damage in the target must not pass for damage in the source.
    if target.view.get(Table.CONTENT, digest) is not None:
        return FetchedContent(digest, record.size, record.parts, None, {})
    return _fetch(source, target, record, digest, fetched)


def _fetch(
    source: Reader, target: Reader, record: ContentRecord, digest: bytes, fetched: Fetched
) -> FetchedContent:
    blocks: dict[bytes, FetchedFrame] = {}
    for part in record.parts:
        for block in part[4]:
            if block not in blocks and target.view.get(Table.BLOCK, block) is None:
                blocks[block] = _fetch_block(source, target.files, block, fetched)
    skeleton = fetched.get((FrameKind.SKELETON, digest))
    if skeleton is None:
        place = (record.segment, record.offset, record.length)
        limit_bytes = skeleton_bytes_max(len(record.parts))
        skeleton = _fetch_frame(source, target.files, FrameKind.SKELETON, digest, place, limit_bytes)
        fetched[FrameKind.SKELETON, digest] = skeleton
    return FetchedContent(digest, record.size, record.parts, skeleton, blocks)


def _fetch_block(source: Reader, target: DatabaseFiles, digest: bytes, fetched: Fetched) -> FetchedFrame:
    held = fetched.get((FrameKind.BLOCK, digest))
    if held is not None:
        return held
    found: BlockRecord | None = source.record(Table.BLOCK, digest)
    if found is None:
        raise Corrupt(f"block[{digest.hex()}] is missing", table="block", key=digest)
    place = (found.segment, found.offset, found.length)
    held = fetched[FrameKind.BLOCK, digest] = _fetch_frame(source, target, FrameKind.BLOCK, digest, place)
    return held


def _fetch_frame(
    source: Reader,
    target: DatabaseFiles,
    kind: FrameKind,
    digest: bytes,
    place: tuple[int, int, int],
    limit_bytes: int = BLOCK_BYTES_MAX,
) -> FetchedFrame:
    frame = source.frame(*place)
    where = f"segment {place[0]} at {place[1]}"
    if frame.kind != kind or frame.digest != digest:
        raise Corrupt(f"{where}: the frame is of other content", file=where, offset=place[1])
    if frame.codec == Codec.PLAIN or not frame.dictionary:
        built = build_frame(kind, frame.codec, 0, frame.raw_bytes, digest, frame.payload)
    else:
        raw = source.files.dictionaries.decompress(frame, where, limit_bytes)
        built = PreparedBlock(kind, raw, digest).frame(target.dictionaries)
    return FetchedFrame(frame.raw_bytes, built)


def hold(txn: WriteTransaction, source: Reader, fetched: FetchedContent) -> None:
    """Store fetched content for one more message; what is there by now is only counted.

    What has been freed since it was fetched is read from `source` again. Raises Corrupt.
    """
    found: ContentRecord | None = txn.record(Table.CONTENT, fetched.digest)
    if found is not None:
        txn.put(Table.CONTENT, fetched.digest, found._replace(references=found.references + 1))
        return
    if fetched.skeleton is None:
        # Not `fetch`: the tables may have still what a commit has freed that is not in them yet.
        record = content_store.content_record(source, fetched.digest)
        fetched = _fetch(source, txn, record, fetched.digest, {})
    for part in fetched.parts:
        for digest in part[4]:
            _hold_block(txn, source, digest, fetched.blocks.get(digest))
    skeleton = fetched.skeleton
    assert skeleton is not None, "what the transaction lacks was fetched"
    segment, offset, length = _append(txn, skeleton.frame)
    record = ContentRecord(
        references=1,
        size=fetched.size,
        segment=segment,
        offset=offset,
        length=length,
        parts=fetched.parts,
    )
    txn.insert(Table.CONTENT, fetched.digest, record)


def _hold_block(txn: WriteTransaction, source: Reader, digest: bytes, fetched: FetchedFrame | None) -> None:
    found: BlockRecord | None = txn.record(Table.BLOCK, digest)
    if found is not None:
        txn.put(Table.BLOCK, digest, found._replace(references=found.references + 1))
        return
    block = fetched or _fetch_block(source, txn.files, digest, {})
    segment, offset, length = _append(txn, block.frame)
    record = BlockRecord(references=1, size=block.raw_bytes, segment=segment, offset=offset, length=length)
    txn.insert(Table.BLOCK, digest, record)


def _append(txn: WriteTransaction, frame: bytes) -> tuple[int, int, int]:
    position = txn.append_frame(frame)
    content_store.count_bytes(txn, position.segment, len(frame), len(frame))
    return position.segment, position.offset, len(frame)
