"""The stretches of the stream that a repair has let go: they stay damaged, remembered by place and digest.

A check passes over them, and compaction may drop them. Any other byte there is new damage.
"""

from __future__ import annotations

from collections.abc import Iterable

from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.stream import Stream
from pillarbox.store.disk.tables import LET_GO_KEY, LetGoRecord, Table
from pillarbox.store.engine.transaction import Reader


class LetGo:
    """The stretches that are known, by segment and offset."""

    def __init__(self, record: LetGoRecord | None) -> None:
        self._digests = {
            (segment, offset, length): digest
            for segment, offset, length, digest in (record.stretches if record else ())
        }

    @classmethod
    def read(cls, reader: Reader) -> LetGo:
        """The stretches that the database which is read has let go. Raises Corrupt."""
        return cls(reader.record(Table.META, LET_GO_KEY))

    def covers(self, stream: Stream, segment: int, offset: int, length: int) -> bool:
        """True when exactly this stretch, byte for byte, was let go."""
        digest = self._digests.get((segment, offset, length))
        return digest is not None and digest == stretch_digest(stream, segment, offset, length)


def stretch_digest(stream: Stream, segment: int, offset: int, length: int) -> bytes:
    """The digest of a stretch of a segment's file, whatever it holds. Raises OSError."""
    with stream.path(segment).open("rb") as file:
        file.seek(offset)
        return digest_of(file.read(length))


def record_of(stretches: Iterable[tuple[int, int, int, bytes]]) -> LetGoRecord | None:
    """The record of stretches (segment, offset, length, digest); None when there are none."""
    found = tuple(sorted(set(stretches)))
    return LetGoRecord(stretches=found) if found else None
