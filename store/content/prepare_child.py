"""The program of the processes of `prepare_processes`: messages come in shared memory, and go back prepared.

It opens no file and knows no database. Both ends are of one version of the program, so what they say to each
other is no format. Requests and answers go by pipes, each a length of 4 bytes, then msgpack. A request's
messages lie in the memory one behind the other, and what was made of them comes in their place, as msgpack.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import sys
from collections.abc import Sequence
from typing import IO, Any, Final, NamedTuple

from pillarbox.store.content.blocks import (
    Dictionaries,
    PreparedBlock,
    PreparedContent,
    PreparedPart,
    prepare_content,
)
from pillarbox.store.content.envelope import Envelope, parse_envelope
from pillarbox.store.content.header import header_end
from pillarbox.store.disk.records import pack, unpack
from pillarbox.store.disk.stream import FrameKind

# Sent once, when requests are answered from now on.
READY: Final = "ready"
_LENGTH_BYTES: Final = 4
# Digests of blocks whose frames were given back: the other end has them, and need not get them again.
_GIVEN_MAX: Final = 100_000
# Hardly anything here is ever in a cycle, and looking for cycles as often as usual takes 5 % of the time.
_COLLECT_AFTER_OBJECTS: Final = 100_000
# The caller, which alone can store, must not wait for a core that these hold.
_NICE: Final = 5


class Request(NamedTuple):
    """Messages of these `lengths` lie at `place`, where what was made of them may take `room` bytes.

    `dictionary` comes with the first request that uses it, by its `number`.
    """

    place: int
    room: int
    number: int
    dictionary: bytes
    lengths: Sequence[int]


def framed(what: Any) -> bytes:
    """One message to the other end."""
    data = pack(what)
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def receive(source: IO[bytes]) -> Any:
    """One message of the other end. Raises EOFError when it has gone, ValueError for what is none."""
    length = int.from_bytes(_read(source, _LENGTH_BYTES), "little")
    return unpack(_read(source, length))


def _read(source: IO[bytes], length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise EOFError
    return data


def made_ready(answer: memoryview) -> list[tuple[PreparedContent, Envelope]]:
    """The contents and envelopes of a request's messages. Blocks that came before are only digests."""
    return [(_content(*content), Envelope(*envelope)) for content, envelope in unpack(answer)]


def _content(
    digest: bytes, size: int, size_crlf: int, skeleton_bytes: int, frame: bytes, parts: Sequence[Any]
) -> PreparedContent:
    skeleton = PreparedBlock(FrameKind.SKELETON, None, digest, size=skeleton_bytes, frame=frame)
    return PreparedContent(digest, size, size_crlf, skeleton, tuple([_part(*part) for part in parts]))


def _part(position: int, encoding: int, width: int, line_end: bytes, blocks: Sequence[Any]) -> PreparedPart:
    made = [
        PreparedBlock(FrameKind.BLOCK, None, digest, size=size, frame=frame) for digest, size, frame in blocks
    ]
    return PreparedPart(position, encoding, width, line_end, tuple(made))


class _Child:
    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._dictionaries = Dictionaries()
        self._given: set[bytes] = set()

    def answer(self, request: Request) -> int:
        """Put what is made of the messages into their place; its length, 0 when it takes more room."""
        if request.dictionary:
            self._dictionaries.add(request.number, request.dictionary)
        if len(self._given) > _GIVEN_MAX:
            self._given.clear()
        raws = []
        at = request.place
        for length in request.lengths:
            raws.append(self._memory[at : at + length])
            at += length
        made = pack([self._prepare(raw) for raw in raws])
        if len(made) > request.room:
            return 0
        self._memory[request.place : request.place + len(made)] = made
        return len(made)

    def _prepare(self, raw: bytes) -> tuple[Any, Envelope]:
        header_bytes = header_end(raw)
        content = prepare_content(raw, self._dictionaries, self._was_given, header_bytes)
        parts = [(*part[:4], [self._give(block) for block in part.blocks]) for part in content.parts]
        skeleton = content.skeleton
        sizes = content.size, content.size_crlf, skeleton.size
        fields = (content.digest, *sizes, skeleton.made_frame(), parts)
        return fields, parse_envelope(raw, header_bytes)

    def _was_given(self, digest: bytes, is_message: bool) -> bool:
        return not is_message and digest in self._given

    def _give(self, block: PreparedBlock) -> tuple[bytes, int, bytes | None]:
        self._given.add(block.digest)
        return block.digest, block.size, block.made_frame()


def main() -> None:
    """Answer until the other end closes the pipe. The arguments are open files: shared memory, answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # typed at the program that runs this one, which decides
    os.nice(_NICE)
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
    child = _Child(mmap.mmap(int(sys.argv[1]), 0))
    answers = os.fdopen(int(sys.argv[2]), "wb", buffering=0)  # each is shorter than a pipe takes at once
    answers.write(framed(READY))
    while True:
        try:
            request = Request(*receive(sys.stdin.buffer))
        except EOFError:
            return
        answers.write(framed(child.answer(request)))


if __name__ == "__main__":
    main()
