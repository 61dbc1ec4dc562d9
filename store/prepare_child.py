"""What the processes of `prepare_processes` run: messages come in by a pipe, and go back made ready.

It opens no file and knows no database. Both ends are of one version of the program, so what they say to each
other is no format: a length of 4 bytes, then msgpack.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import IO, Any, Final

from pillarbox.store.content import (
    Dictionaries,
    PreparedBlock,
    PreparedContent,
    PreparedPart,
    prepare_content,
)
from pillarbox.store.envelope import Envelope, header_end, parse_envelope
from pillarbox.store.records import pack, unpack
from pillarbox.store.stream import FrameKind

_LENGTH_BYTES: Final = 4
# Digests of blocks whose frames were given back: the other end has them, and need not get them again.
_GIVEN_MAX: Final = 100_000


def send(sink: IO[bytes], what: Any) -> None:
    """Write one message to the other end. Raises OSError when it has gone."""
    data = pack(what)
    sink.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
    sink.write(data)
    sink.flush()


def receive(source: IO[bytes]) -> Any:
    """One message of the other end. Raises EOFError when it has gone, ValueError for what is none."""
    length = int.from_bytes(_read(source, _LENGTH_BYTES), "little")
    return unpack(_read(source, length))


def _read(source: IO[bytes], length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise EOFError
    return data


def prepared_content(fields: tuple[Any, ...]) -> PreparedContent:
    """Content as it came back. Blocks that came before are known by their digest only."""
    digest, size, skeleton_bytes, frame, parts = fields
    skeleton = PreparedBlock(FrameKind.SKELETON, None, digest, size=skeleton_bytes, frame=frame)
    return PreparedContent(digest, size, skeleton, tuple(_part(*part) for part in parts))


def _part(position: int, encoding: int, width: int, line_end: bytes, blocks: Sequence[Any]) -> PreparedPart:
    made = (
        PreparedBlock(FrameKind.BLOCK, None, digest, size=size, frame=frame) for digest, size, frame in blocks
    )
    return PreparedPart(position, encoding, width, line_end, tuple(made))


class _Child:
    def __init__(self) -> None:
        self._dictionaries = Dictionaries()
        self._given: set[bytes] = set()

    def answer(self, number: int, dictionary: bytes, raws: Sequence[bytes]) -> list[tuple[Any, Envelope]]:
        """Each message's content and envelope. A dictionary comes with the first request that uses it."""
        if dictionary:
            self._dictionaries.add(number, dictionary)
        if len(self._given) > _GIVEN_MAX:
            self._given.clear()
        return [self._prepare(raw) for raw in raws]

    def _prepare(self, raw: bytes) -> tuple[Any, Envelope]:
        header_bytes = header_end(raw)
        content = prepare_content(raw, self._dictionaries, self._was_given, header_bytes)
        parts = [(*part[:4], [self._give(block) for block in part.blocks]) for part in content.parts]
        skeleton = content.skeleton
        fields = (content.digest, content.size, skeleton.size, skeleton.made_frame(), parts)
        return fields, parse_envelope(raw, header_bytes)

    def _was_given(self, digest: bytes, is_message: bool) -> bool:
        return not is_message and digest in self._given

    def _give(self, block: PreparedBlock) -> tuple[bytes, int, bytes | None]:
        self._given.add(block.digest)
        return block.digest, block.size, block.made_frame()


def main() -> None:
    """Answer until the other end closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # typed at the program that runs this one, which decides
    child = _Child()
    while True:
        try:
            request = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(sys.stdout.buffer, child.answer(*request))


if __name__ == "__main__":
    main()
