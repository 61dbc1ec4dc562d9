"""The messages that the stream of a damaged database still tells: what a repair must not lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pillarbox.store.access import Actor
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.redo import read_rows
from pillarbox.store.disk.stream import FrameKind
from pillarbox.store.disk.tables import ItemRecord, Table, item_key
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import PillarboxError


def told_whole(
    damaged: Database, whole: Database, held: Iterable[tuple[ItemRecord, bytes]]
) -> Counter[bytes]:
    """The messages of `held` whose record and content the stream has, and nothing later is damaged.

    Neither database is mounted; `whole` is what the damaged one was before.
    """
    records: dict[tuple[int, bytes], bytes | None] = {}
    frames: set[bytes] = set()
    stream = damaged.stream
    for segment in stream.segments():
        try:
            stream.read_bytes(segment, 0, 1)
        except PillarboxError:
            stream.restore_header(segment)
        for scanned in scan_frames(stream, segment):
            if scanned.frame is None:
                continue
            if scanned.frame.kind == FrameKind.REDO:
                for number, key, value in read_rows(scanned.frame, ""):
                    records[number, key] = value
            else:
                frames.add(scanned.frame.digest)
    stream.close()
    whole.mount(read_only=True)
    told: Counter[bytes] = Counter()
    with whole.read(Actor.task("test")) as reader:
        for item, raw in held:
            content = reader.record(Table.CONTENT, item.digest)
            needed = {item.digest, *(digest for part in content.parts for digest in part[4])}
            rows = [(Table.ITEM, item_key(item.folder_id, item.uid)), (Table.CONTENT, item.digest)]
            rows += [(Table.BLOCK, digest) for digest in needed - {item.digest}]
            if needed <= frames and all(records.get(row) is not None for row in rows):
                told[raw] += 1
    whole.dismount()
    return told
