"""Content in a database: stored once however often it is held, counted, freed with its last holder.

A message's content is keyed by the digest of its bytes; its large parts are blocks of their own, keyed by
theirs, so an attachment is stored once also when it comes in other messages (DOMAIN.md "Store").
"""

from __future__ import annotations

from pillarbox.store.content.blocks import (
    BLOCK_BYTES_MAX,
    Part,
    PreparedBlock,
    PreparedContent,
    assemble,
    prepare_content,
    refuse_no_part,
    skeleton_bytes_max,
)
from pillarbox.store.content.header import header_end
from pillarbox.store.disk.stream import FrameKind
from pillarbox.store.disk.tables import BlockRecord, ContentRecord, SegmentRecord, Table, segment_key
from pillarbox.store.engine.transaction import DatabaseFiles, Reader, WriteTransaction
from pillarbox.store.errors import Corrupt


def prepare(files: DatabaseFiles, message: bytes, header_bytes: int | None = None) -> PreparedContent:
    """Take a message apart, hash it and compress what the database does not have. Needs no transaction.

    `header_bytes` is where its header ends (`header.header_end`), looked for when None.

    Raises Dismounted, Retryable when too many reads are open.
    """
    with files.env.view() as view:

        def known(digest: bytes, is_message: bool) -> bool:
            return view.get(Table.CONTENT if is_message else Table.BLOCK, digest) is not None

        return prepare_content(message, files.dictionaries, known, header_bytes)


def hold(txn: WriteTransaction, message: bytes, prepared: PreparedContent, holders: int = 1) -> None:
    """Store a message's content for `holders` more messages; what is there already is only counted.

    `prepared` is of `message`; when what it counted on has been freed since, it is made again.
    """
    found: ContentRecord | None = txn.record(Table.CONTENT, prepared.digest)
    if found is not None:
        txn.put(Table.CONTENT, prepared.digest, found._replace(references=found.references + holders))
        return
    if _lacks(txn, prepared):
        prepared = prepare_content(message, txn.files.dictionaries, lambda digest, is_message: False)
    parts = tuple([(*part[:4], _hold_blocks(txn, part.blocks)) for part in prepared.parts])
    segment, offset, length = _append(txn, prepared.skeleton)
    record = ContentRecord(
        references=holders,
        size=prepared.size,
        segment=segment,
        offset=offset,
        length=length,
        parts=parts,
    )
    txn.insert(Table.CONTENT, prepared.digest, record)


def _lacks(txn: WriteTransaction, prepared: PreparedContent) -> bool:
    """True when bytes are needed that were not made ready, since the database had them then."""
    return not prepared.skeleton.is_whole or any(
        not block.is_whole and txn.record(Table.BLOCK, block.digest) is None
        for part in prepared.parts
        for block in part.blocks
    )


def _hold_blocks(txn: WriteTransaction, blocks: tuple[PreparedBlock, ...]) -> tuple[bytes, ...]:
    for block in blocks:
        found: BlockRecord | None = txn.record(Table.BLOCK, block.digest)
        if found is not None:
            txn.put(Table.BLOCK, block.digest, found._replace(references=found.references + 1))
            continue
        segment, offset, length = _append(txn, block)
        made = BlockRecord(references=1, size=block.size, segment=segment, offset=offset, length=length)
        txn.insert(Table.BLOCK, block.digest, made)
    return tuple(block.digest for block in blocks)


def _append(txn: WriteTransaction, block: PreparedBlock) -> tuple[int, int, int]:
    frame = block.frame(txn.files.dictionaries)
    position = txn.append_frame(frame)
    count_bytes(txn, position.segment, len(frame), len(frame))
    return position.segment, position.offset, len(frame)


def count_bytes(txn: WriteTransaction, segment: int, content_bytes: int, live_bytes: int) -> None:
    """Count frames in or out: of a segment, and of the whole database."""
    key = segment_key(segment)
    held: SegmentRecord | None = txn.record(Table.SEGMENT, key)
    counted = SegmentRecord(
        content_bytes=(held.content_bytes if held else 0) + content_bytes,
        live_bytes=(held.live_bytes if held else 0) + live_bytes,
    )
    txn.put(Table.SEGMENT, key, counted)
    txn.content_bytes += content_bytes
    txn.live_bytes += live_bytes


def hold_again(txn: WriteTransaction, digest: bytes, holders: int = 1) -> None:
    """One more message holds content that the database has. Raises Corrupt when it does not."""
    found = content_record(txn, digest)
    txn.put(Table.CONTENT, digest, found._replace(references=found.references + holders))


def release(txn: WriteTransaction, digest: bytes, holders: int = 1) -> None:
    """Fewer messages hold the content; with the last one its bytes become free. Raises Corrupt."""
    found = content_record(txn, digest)
    if found.references > holders:
        txn.put(Table.CONTENT, digest, found._replace(references=found.references - holders))
        return
    txn.delete(Table.CONTENT, digest)
    count_bytes(txn, found.segment, 0, -found.length)
    for part in found.parts:
        for block_digest in part[4]:
            _release_block(txn, block_digest)


def _release_block(txn: WriteTransaction, digest: bytes) -> None:
    found: BlockRecord | None = txn.record(Table.BLOCK, digest)
    if found is None:
        raise Corrupt(f"block[{digest.hex()}] is missing", table="block", key=digest)
    if found.references > 1:
        txn.put(Table.BLOCK, digest, found._replace(references=found.references - 1))
        return
    txn.delete(Table.BLOCK, digest)
    count_bytes(txn, found.segment, 0, -found.length)


def content_record(reader: Reader, digest: bytes) -> ContentRecord:
    """Where a message's content lies. Raises Corrupt when the database does not have it."""
    found: ContentRecord | None = reader.record(Table.CONTENT, digest)
    if found is None:
        raise Corrupt(f"content[{digest.hex()}] is missing", table="content", key=digest)
    return found


def read(reader: Reader, digest: bytes) -> bytes:
    """A message's bytes, as they came in. Raises Corrupt, naming the file and place that is damaged."""
    record = content_record(reader, digest)
    skeleton = _read_skeleton(reader, digest, record)
    if not record.parts:
        return skeleton
    parts = _read_parts(reader, digest, record, len(skeleton))
    message = assemble(skeleton, parts)
    if len(message) != record.size:
        raise Corrupt(
            f"content[{digest.hex()}] has {len(message)} bytes where {record.size} were stored",
            table="content",
            key=digest,
        )
    return message


def read_header(reader: Reader, digest: bytes) -> bytes:
    """The header of a message's bytes, to the end of the blank line. Raises as `read`."""
    record = content_record(reader, digest)
    skeleton = _read_skeleton(reader, digest, record)
    # The first part stands behind the header: what is before it is how the message begins.
    begin = skeleton[: record.parts[0][0]] if record.parts else skeleton
    return begin[: header_end(begin)]


def _read_skeleton(reader: Reader, digest: bytes, record: ContentRecord) -> bytes:
    place = (record.segment, record.offset, record.length)
    limit_bytes = min(skeleton_bytes_max(len(record.parts)), record.size)
    return _read_frame(reader, FrameKind.SKELETON, digest, *place, limit_bytes)


def _read_parts(
    reader: Reader, digest: bytes, record: ContentRecord, skeleton_bytes: int
) -> tuple[Part, ...]:
    """Raises Corrupt before more is read than the message has bytes, whatever the record names."""
    left_bytes = record.size - skeleton_bytes
    parts: list[Part] = []
    for position, encoding, width, line_end, blocks in record.parts:
        try:
            refuse_no_part(skeleton_bytes, encoding, position, width, line_end)
        except ValueError as error:
            problem = f"content[{digest.hex()}]: {error}"
            raise Corrupt(problem, table="content", key=digest) from error
        chunks: list[bytes] = []
        for block in blocks:
            chunks.append(_read_block(reader, block))
            left_bytes -= len(chunks[-1])
            if left_bytes < 0:
                problem = f"content[{digest.hex()}] names more than the {record.size} bytes that it has"
                raise Corrupt(problem, table="content", key=digest)
        parts.append(Part(position, encoding, width, line_end, tuple(chunks)))
    return tuple(parts)


def _read_block(reader: Reader, digest: bytes) -> bytes:
    found: BlockRecord | None = reader.record(Table.BLOCK, digest)
    if found is None:
        raise Corrupt(f"block[{digest.hex()}] is missing", table="block", key=digest)
    return _read_frame(reader, FrameKind.BLOCK, digest, found.segment, found.offset, found.length)


def _read_frame(
    reader: Reader,
    kind: FrameKind,
    digest: bytes,
    segment: int,
    offset: int,
    length: int,
    limit_bytes: int = BLOCK_BYTES_MAX,
) -> bytes:
    frame = reader.frame(segment, offset, length)
    where = f"segment {segment} at {offset}"
    if frame.kind != kind or frame.digest != digest:
        raise Corrupt(f"{where}: the frame is of other content", file=where, offset=offset)
    return reader.files.dictionaries.decompress(frame, where, limit_bytes)
