"""Frames of the control socket: what one side sends the other reads, and what is no frame is refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pillarbox.store.errors import InvalidContent, OverLimit, PeerUnreachable, UnsupportedVersion
from pillarbox.tools.serving import wire
from pillarbox.tools.serving.wire import (
    BODY_BYTES_MAX,
    HEADER,
    MAGIC,
    VERSION,
    Connection,
    Kind,
    packed,
    packed_stream,
    unpacked,
    unpacked_stream,
)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the bare socket at its other end."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with other:
        connection = Connection(one)
        yield connection, other
        connection.close()


def test_frames_come_as_they_were_sent(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    peer = Connection(other)
    peer.send(Kind.CALL, packed(["folder.create", {"name": "\u00e9"}, True]))
    peer.send(Kind.END)
    first, second = connection.read(), connection.read()
    assert first is not None and first.value() == ["folder.create", {"name": "\u00e9"}, True]
    assert second == (Kind.END, b"")
    other.shutdown(socket.SHUT_WR)
    assert connection.read() is None and connection.has_gone()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", InvalidContent),
        (HEADER.pack(MAGIC, VERSION + 1, 1, 0, 0), UnsupportedVersion),
        (HEADER.pack(MAGIC, VERSION, 99, 0, 0), InvalidContent),
        (HEADER.pack(MAGIC, VERSION, 1, 7, 0), InvalidContent),
        (HEADER.pack(MAGIC, VERSION, 1, 0, BODY_BYTES_MAX + 1), InvalidContent),
        (HEADER.pack(MAGIC, VERSION, 1, 0, 1 << 31), InvalidContent),
        (HEADER.pack(MAGIC, VERSION, 1, 0, 5) + b"cut", PeerUnreachable),
        (MAGIC, PeerUnreachable),
    ],
)
def test_what_is_no_frame_is_refused(
    pair: tuple[Connection, socket.socket], sent: bytes, error: type[Exception]
) -> None:
    connection, other = pair
    other.sendall(sent)
    other.shutdown(socket.SHUT_WR)
    with pytest.raises(error):
        connection.read()


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91" * 100_000, b"\x81\x90\x01", b"\x01\x02", b"\xdb\xff"])
def test_a_body_that_is_no_msgpack_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidContent):
        unpacked(body)


def test_a_frame_is_never_longer_than_the_other_side_takes(pair: tuple[Connection, socket.socket]) -> None:
    with pytest.raises(OverLimit):
        pair[0].send(Kind.CALL, bytes(BODY_BYTES_MAX + 1))


def test_who_has_gone_is_noticed_by_sending(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    assert not connection.has_gone()
    other.close()
    assert connection.has_gone()
    with pytest.raises(PeerUnreachable):
        connection.send(Kind.WANT)


def test_a_stream_of_items_comes_whole_however_it_is_cut() -> None:
    items = [b"a" * (3 * BODY_BYTES_MAX), "b", [1, [2]], b""]
    frames = list(packed_stream(items))
    assert [kind for kind, _ in frames] == [Kind.DATA] * (len(frames) - 1) + [Kind.END]
    assert max(len(piece) for _, piece in frames) <= BODY_BYTES_MAX < sum(len(piece) for _, piece in frames)
    assert list(unpacked_stream(piece for _, piece in frames)) == items
    whole = b"".join(piece for _, piece in packed_stream(["small", 5]))
    assert list(unpacked_stream(whole[at : at + 1] for at in range(len(whole)))) == ["small", 5]


@pytest.mark.parametrize(
    "sent", [MAGIC, HEADER.pack(MAGIC, VERSION, 1, 0, 5), HEADER.pack(MAGIC, VERSION, 1, 0, 5) + b"cut"]
)
def test_who_stops_within_a_frame_is_not_waited_for_without_end(
    pair: tuple[Connection, socket.socket], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    connection, other = pair
    monkeypatch.setattr(wire, "_READ_SECONDS", 0)
    other.sendall(sent)
    with pytest.raises(PeerUnreachable):
        connection.read()


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf"], ids=["list", "map"])
def test_a_list_that_would_take_many_times_its_bytes_is_refused(head: bytes) -> None:
    length = 1 << 17
    fields = b"\xc0" * length if head == b"\xdd" else b"".join(packed(n) + b"\xc0" for n in range(length))
    with pytest.raises(InvalidContent):
        list(unpacked_stream([head + length.to_bytes(4, "big") + fields]))


@pytest.mark.parametrize("stream", [packed([1, "abc"])[:-1], b"\xc1", b"\x91" * 100_000])
def test_a_stream_that_is_cut_or_wrong_is_refused(stream: bytes) -> None:
    with pytest.raises(InvalidContent):
        list(unpacked_stream([stream]))
