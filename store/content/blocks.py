"""A message's bytes as content blocks and back, byte for byte.

A message is a skeleton with parts set into it. Parts are what often comes again in other messages: base64
runs that decode and encode back to the same bytes are kept decoded, so that an attachment is one block
however it was sent; long runs of text are kept as they are, so that one mail received with different
headers shares its body (docs/format.md, "Content").
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

import pybase64
import zstandard
from blake3 import blake3

from pillarbox.store.content.base64_runs import BASE64_WIDTH_MAX, base64_runs
from pillarbox.store.content.header import HEADER_BYTES_MAX, header_end
from pillarbox.store.content.line_ends import size_with_crlf
from pillarbox.store.disk.stream import Codec, Frame, FrameKind, build_frame
from pillarbox.store.disk.tables import DIGEST_BYTES
from pillarbox.store.errors import Corrupt

TEXT_FROM_BYTES: Final = 2048
BLOCK_BYTES_MAX: Final = 4 << 20
_COMPRESS_FROM_BYTES: Final = 64
# A dictionary repays a closer look; without one, level 3 takes 40 % longer and saves 1 to 2 %.
_LEVEL: Final = 1
_LEVEL_WITH_DICTIONARY: Final = 3
# Encoded while they are in the processor's cache; as many as are base64 of whole bytes at any width.
_LINES_AT_ONCE: Final = 256
assert _LINES_AT_ONCE % 4 == 0


class Encoding(IntEnum):
    """The way in which a part's blocks become the message's bytes."""

    AS_IS = 0
    BASE64 = 1


_ENCODINGS: Final = frozenset(Encoding)


class Part(NamedTuple):
    """A run of the message that is kept as blocks. `position` is where in the skeleton it is set in."""

    position: int
    encoding: int
    width: int
    line_end: bytes
    chunks: tuple[bytes, ...]


class Split(NamedTuple):
    """A message taken apart."""

    skeleton: bytes
    parts: tuple[Part, ...]


def digest_of(data: bytes | memoryview) -> bytes:
    """The identity of content: the first 24 bytes of its BLAKE3."""
    return blake3(data).digest(length=DIGEST_BYTES)


def split(message: bytes, header_bytes: int | None = None) -> Split:
    """Take a message apart; `assemble` gives exactly the same bytes back.

    `header_bytes` is where its header ends (`header.header_end`), looked for when None.
    """
    body = header_end(message) if header_bytes is None else header_bytes
    kept: list[bytes] = [message[:body]]
    parts: list[Part] = []
    length = body
    for start, end, part in _runs(message, body):
        if part is not None:
            parts.append(part._replace(position=length))
        elif end - start >= TEXT_FROM_BYTES:
            parts.append(Part(length, Encoding.AS_IS, 0, b"", _chunks(message[start:end])))
        else:
            kept.append(message[start:end])
            length += end - start
    return Split(b"".join(kept), tuple(parts)) if parts else Split(message, ())


def _chunks(data: bytes) -> tuple[bytes, ...]:
    if len(data) <= BLOCK_BYTES_MAX:
        return (data,)
    return tuple(data[at : at + BLOCK_BYTES_MAX] for at in range(0, len(data), BLOCK_BYTES_MAX))


def _runs(message: bytes, start: int) -> Iterator[tuple[int, int, Part | None]]:
    """The body as runs in order: text (no part) or base64 that was proved to be exact."""
    text = start
    for run in base64_runs(message, start):
        if run.start > text:
            yield text, run.start, None
        yield run.start, run.end, Part(0, Encoding.BASE64, run.width, run.line_end, _chunks(run.data))
        text = run.end
    if text < len(message):
        yield text, len(message), None


def _encode(part: Part) -> list[bytes]:
    """The bytes of the part as they are in the message, in pieces."""
    if part.encoding == Encoding.AS_IS:
        return list(part.chunks)
    data = part.chunks[0] if len(part.chunks) == 1 else b"".join(part.chunks)
    if not part.line_end:
        return [pybase64.b64encode(data)]
    pieces: list[bytes] = []
    step = part.width * _LINES_AT_ONCE // 4 * 3
    for at in range(0, len(data), step):
        flat = pybase64.b64encode(data[at : at + step])
        whole, rest = divmod(len(flat), part.width)
        lines = _line_cutter(part.width, whole)(flat)
        if rest:
            lines = (*lines, flat[-rest:])
        pieces += (part.line_end.join(lines), part.line_end)
    return pieces[:-1]


@lru_cache(maxsize=2 * _LINES_AT_ONCE)
def _line_cutter(width: int, count: int) -> Callable[[bytes], tuple[bytes, ...]]:
    """A function that cuts `count` lines from the front of a text, faster than slices do."""
    return struct.Struct(f"{width}s" * count).unpack_from


def skeleton_bytes_max(parts_count: int) -> int:
    """The upper bound of a skeleton: a header, and text between parts that is too short to be one."""
    return HEADER_BYTES_MAX + (parts_count + 1) * TEXT_FROM_BYTES


def refuse_no_part(skeleton_bytes: int, encoding: int, position: int, width: int, line_end: bytes) -> None:
    """Raise ValueError for what `split` makes no part of a message with."""
    is_line = width == 0 if not line_end else 0 < width <= BASE64_WIDTH_MAX
    if position > skeleton_bytes or encoding not in _ENCODINGS:
        raise ValueError("a part that no message has")
    if encoding == Encoding.BASE64 and not (is_line and line_end in (b"", b"\n", b"\r\n")):
        raise ValueError("base64 in lines that no message has")


def assemble(skeleton: bytes, parts: tuple[Part, ...]) -> bytes:
    """The message that `split` took apart."""
    if not parts:
        return skeleton
    pieces: list[bytes] = []
    at = 0
    for part in parts:
        pieces.append(skeleton[at : part.position])
        pieces += _encode(part)
        at = part.position
    pieces.append(skeleton[at:])
    return b"".join(pieces)


class Dictionaries:
    """The zstd dictionaries of a database: trained ones by number, 0 for none."""

    def __init__(
        self, known: Mapping[int, bytes] | None = None, find: Callable[[int], bytes | None] | None = None
    ) -> None:
        """`find` gives one that another process has trained meanwhile, or None when there is none."""
        self._find = find
        self._known: dict[int, zstandard.ZstdCompressionDict] = {}
        self.current = 0
        self._local = threading.local()
        for number, data in sorted((known or {}).items()):
            self.add(number, data)

    def add(self, number: int, data: bytes) -> None:
        """Know one more dictionary; new skeletons are compressed with it from now on."""
        trained = zstandard.ZstdCompressionDict(data)
        trained.precompute_compress(level=_LEVEL_WITH_DICTIONARY)
        self._known[number] = trained
        self.current = number

    def data(self, number: int) -> bytes:
        """A dictionary that is known."""
        return self._known[number].as_bytes()

    def _knows(self, number: int) -> bool:
        if number not in self._known and self._find is not None:
            data = self._find(number)
            if data is not None:
                self.add(number, data)
        return number in self._known

    def compressor(self, number: int) -> zstandard.ZstdCompressor:
        """The compressor of the calling thread, with a dictionary."""
        made: dict[int, zstandard.ZstdCompressor] = self._local.__dict__.setdefault("compressors", {})
        if number not in made:
            made[number] = zstandard.ZstdCompressor(
                level=_LEVEL_WITH_DICTIONARY if number else _LEVEL,
                dict_data=self._known.get(number),
                write_checksum=False,
                write_dict_id=False,
            )
        return made[number]

    def decompress(self, frame: Frame, where: str, limit_bytes: int = BLOCK_BYTES_MAX) -> bytes:
        """A frame's raw bytes, of which there may be `limit_bytes`. Raises Corrupt.

        Never inflates beyond the length the frame states.
        """
        if frame.raw_bytes > limit_bytes:
            problem = f"{where}: a frame of {frame.raw_bytes} bytes, where none is of more than {limit_bytes}"
            raise Corrupt(problem, file=where)
        raw = self._unpacked(frame, where)
        if len(raw) != frame.raw_bytes:
            raise Corrupt(f"{where}: {len(raw)} bytes where {frame.raw_bytes} were stored", file=where)
        return raw

    def _unpacked(self, frame: Frame, where: str) -> bytes:
        if frame.codec == Codec.PLAIN:
            return frame.payload
        if frame.codec != Codec.ZSTD:
            raise Corrupt(f"{where}: codec {frame.codec} is not known", file=where)
        made: dict[int, zstandard.ZstdDecompressor] = self._local.__dict__.setdefault("decompressors", {})
        if frame.dictionary not in made:
            if frame.dictionary and not self._knows(frame.dictionary):
                raise Corrupt(f"{where}: dictionary {frame.dictionary} is not known", file=where)
            made[frame.dictionary] = zstandard.ZstdDecompressor(dict_data=self._known.get(frame.dictionary))
        try:
            # The length in zstd's own header is the one that is allocated, whatever limit is given.
            if zstandard.frame_content_size(frame.payload) != frame.raw_bytes:
                raise Corrupt(f"{where}: it would not unpack to {frame.raw_bytes} bytes", file=where)
            return made[frame.dictionary].decompress(frame.payload)
        except zstandard.ZstdError as error:
            raise Corrupt(f"{where}: {error}", file=where) from error


class PreparedBlock:
    """A piece of content on its way in; compressed at most once, and not at all when it is there already.

    `size` is that of its raw bytes. Without `raw` it is known by its frame, or only by its digest: whoever
    made it ready took it for one that the database has.
    """

    __slots__ = ("_frame", "digest", "kind", "raw", "size")

    def __init__(
        self, kind: FrameKind, raw: bytes | None, digest: bytes, *, size: int = 0, frame: bytes | None = None
    ) -> None:
        self.kind = kind
        self.raw = raw
        self.size = size if raw is None else len(raw)
        self.digest = digest
        self._frame = frame

    @property
    def is_whole(self) -> bool:
        """True when the content can be stored where the database does not have it."""
        return self.raw is not None or self._frame is not None

    def made_frame(self) -> bytes | None:
        """Its frame, if one was made."""
        return self._frame

    def frame(self, dictionaries: Dictionaries) -> bytes:
        """Its frame, compressed where that pays. Only of a whole one."""
        if self._frame is None:
            assert self.raw is not None
            codec, dictionary, payload = Codec.PLAIN, 0, self.raw
            if len(self.raw) >= _COMPRESS_FROM_BYTES:
                number = dictionaries.current if self.kind == FrameKind.SKELETON else 0
                compressed = dictionaries.compressor(number).compress(self.raw)
                if len(compressed) < len(self.raw):
                    codec, dictionary, payload = Codec.ZSTD, number, compressed
            self._frame = build_frame(self.kind, codec, dictionary, len(self.raw), self.digest, payload)
        return self._frame


class PreparedPart(NamedTuple):
    """A part whose chunks have their digests."""

    position: int
    encoding: int
    width: int
    line_end: bytes
    blocks: tuple[PreparedBlock, ...]


class PreparedContent(NamedTuple):
    """A message's content, taken apart, hashed and compressed: all that needs no lock."""

    digest: bytes
    size: int
    size_crlf: int
    skeleton: PreparedBlock
    parts: tuple[PreparedPart, ...]


def prepare_content(
    message: bytes,
    dictionaries: Dictionaries,
    known: Callable[[bytes, bool], bool],
    header_bytes: int | None = None,
) -> PreparedContent:
    """Make a message's content ready to be stored. Pure, safe in any thread.

    `known(digest, is_message)` tells what the database has already; that is hashed but not compressed.
    `header_bytes` as in `split`.
    """
    digest, size_crlf = digest_of(message), size_with_crlf(message)
    if known(digest, True):
        skeleton = PreparedBlock(FrameKind.SKELETON, None, digest)
        return PreparedContent(digest, len(message), size_crlf, skeleton, ())
    taken = split(message, header_bytes)
    parts = tuple(
        PreparedPart(
            part.position,
            part.encoding,
            part.width,
            part.line_end,
            tuple(PreparedBlock(FrameKind.BLOCK, chunk, digest_of(chunk)) for chunk in part.chunks),
        )
        for part in taken.parts
    )
    skeleton = PreparedBlock(FrameKind.SKELETON, taken.skeleton, digest)
    skeleton.frame(dictionaries)
    for part in parts:
        for block in part.blocks:
            if not known(block.digest, False):
                block.frame(dictionaries)
    return PreparedContent(digest, len(message), size_crlf, skeleton, parts)
