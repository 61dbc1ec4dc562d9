"""The frames of the control socket (docs/control-socket.md): a header of 12 bytes, and a body.

Nothing here trusts the other side: lengths are bounded before anything is read, and what is no frame raises.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack

from pillarbox.store.errors import InvalidContent, OverLimit, PeerUnreachable, UnsupportedVersion

MAGIC: Final = b"PBCS"
VERSION: Final = 1
HEADER: Final = struct.Struct(">4sBBHI")  # magic, version, kind, 0, length of the body
BODY_BYTES_MAX: Final = 1 << 20
SMALL_BYTES_MAX: Final = 512 << 10  # of items that come with the call itself
RESULT_BYTES_MAX: Final = 64 << 20  # of a result, which may come in parts
ITEM_BYTES_MAX: Final = (512 << 20) + (1 << 16)  # of one item in a stream of data: the largest message
_NO_MSGPACK: Final = (ValueError, TypeError, RecursionError, msgpack.UnpackException)
_WRITE_SECONDS: Final = 60  # a peer that takes nothing for so long has gone
_READ_SECONDS: Final = 60  # and one that stops within a frame
_FIELDS_MAX: Final = 1 << 16  # of one list or map in a stream: eight times as many bytes are taken for it


class Kind(IntEnum):
    """The kinds of frames, the first four of callers, the others of the serving process."""

    CALL = 1
    ANSWER = 2
    DATA = 3
    END = 4
    RESULT = 16
    ERROR = 17
    PART = 18
    PROGRESS = 19
    QUESTION = 20
    WANT = 21
    EVENT = 22


class Frame(NamedTuple):
    """One frame as it came."""

    kind: Kind
    body: bytes

    def value(self) -> Any:
        """The value in the body. Raises InvalidContent."""
        return unpacked(self.body)


def packed(value: Any) -> bytes:
    """A plain value as msgpack."""
    data: bytes = msgpack.packb(value)
    return data


def unpacked(body: bytes) -> Any:
    """The plain value that msgpack holds. Raises InvalidContent."""
    try:
        return msgpack.unpackb(body)
    except _NO_MSGPACK as error:
        raise InvalidContent("a frame of the control socket holds no msgpack") from error


class Connection:
    """Frames over a connected socket. One thread at a time sends, and one reads."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        seconds = struct.pack("ll", _WRITE_SECONDS, 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        self._buffer = bytearray()

    def fileno(self) -> int:
        """The descriptor, to wait for."""
        return self._socket.fileno()

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """Send one frame. Raises PeerUnreachable when the other side has gone."""
        if len(body) > BODY_BYTES_MAX:
            raise OverLimit(
                "that is more than one call of the control socket takes", hint="ask for less at a time"
            )
        try:
            self._socket.sendall(HEADER.pack(MAGIC, VERSION, kind, 0, len(body)) + body)
        except OSError as error:
            raise _gone() from error

    def send_result(self, value: Any, kind: Kind = Kind.RESULT) -> None:
        """Send a value as a result, or as an error, in parts where one frame cannot hold it. Raises as
        `send`."""
        body = packed(value)
        if len(body) > RESULT_BYTES_MAX:
            raise OverLimit("the result is too large for the control socket", hint="ask for less at a time")
        while len(body) > BODY_BYTES_MAX:
            self.send(Kind.PART, body[:BODY_BYTES_MAX])
            body = body[BODY_BYTES_MAX:]
        self.send(kind, body)

    def read(self) -> Frame | None:
        """The next frame; None when the other side has closed between two frames.

        Raises InvalidContent for what is no frame, UnsupportedVersion, PeerUnreachable for a cut frame, and
        for one of which nothing more comes for a minute. The next frame may take its time.
        """
        header = self._take(HEADER.size, may_end=True)
        if not header:
            return None
        magic, version, kind, zero, length = HEADER.unpack(header)
        if magic != MAGIC or zero:
            raise InvalidContent("this is no frame of the control socket")
        if version != VERSION:
            raise UnsupportedVersion(
                f"the control socket is asked in version {version}, and speaks {VERSION}",
                hint="use the same version of Pillarbox on both sides",
            )
        if length > BODY_BYTES_MAX:
            raise InvalidContent(f"a frame of {length} bytes is longer than any of the control socket")
        try:
            known = Kind(kind)
        except ValueError as error:
            raise InvalidContent(f"there are no frames of kind {kind}") from error
        return Frame(known, self._take(length))

    def has_gone(self) -> bool:
        """True when the other side has closed; nothing is taken from what it sent."""
        if self._buffer:
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Hang up. Closing twice is harmless; a read in another thread ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _is_readable(self, seconds: float) -> bool:
        waiting = select.poll()  # a descriptor may be too high for select.select
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))

    def _take(self, count: int, *, may_end: bool = False) -> bytes:
        while len(self._buffer) < count:
            try:
                if (self._buffer or not may_end) and not self._is_readable(_READ_SECONDS):
                    raise _gone()
                received = self._socket.recv(max(count - len(self._buffer), 1 << 16))
            except (OSError, ValueError) as error:  # ValueError: it was closed here meanwhile
                raise _gone() from error
            if not received:
                if may_end and not self._buffer:
                    return b""
                raise _gone()
            self._buffer += received
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _gone() -> PeerUnreachable:
    return PeerUnreachable(
        "the other side of the control socket has gone",
        hint="look at the log of the serving process, and run the command again",
    )


def packed_stream(items: Iterable[Any]) -> Iterator[tuple[Kind, bytes]]:
    """Items as frames of at most `BODY_BYTES_MAX`, the last one of kind END; `unpacked_stream` takes them."""
    waiting = bytearray()
    for item in items:
        waiting += packed(item)
        while len(waiting) > BODY_BYTES_MAX:
            yield Kind.DATA, bytes(waiting[:BODY_BYTES_MAX])
            del waiting[:BODY_BYTES_MAX]
    yield Kind.END, bytes(waiting)


def unpacked_stream(pieces: Iterable[bytes]) -> Iterator[Any]:
    """The items of a stream, one after the other; at most one is in memory. Raises InvalidContent."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=ITEM_BYTES_MAX, max_array_len=_FIELDS_MAX, max_map_len=_FIELDS_MAX
    )
    try:
        for piece in pieces:
            unpacker.feed(piece)
            yield from unpacker
        unpacker.read_bytes(1)  # raises where the stream ended within an item
    except _NO_MSGPACK as error:
        raise InvalidContent("a stream of the control socket holds no msgpack") from error
