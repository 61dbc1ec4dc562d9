"""Frames as messages of NATS: cut where they have to be, and whole again in any order."""

from __future__ import annotations

import random

import pytest

from pillarbox.replication.transports.nats_messages import (
    HEADERS_BYTES_MAX,
    PARTS_MAX,
    MessageId,
    Unfinished,
    cut,
    parse_message_id,
)
from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX
from pillarbox.store.errors import InvalidContent

RUN = bytes(range(16))


def test_ids_read_as_they_were_written() -> None:
    assert str(MessageId(RUN, 7)) == "000102030405060708090a0b0c0d0e0f-7"
    assert str(MessageId(RUN, 7, 1, 3)) == "000102030405060708090a0b0c0d0e0f-7-1-3"
    for made in (MessageId(RUN, 0), MessageId(RUN, 10**14, 255, 256), MessageId(RUN, 1, 0, 2)):
        assert parse_message_id(str(made)) == made


@pytest.mark.parametrize(
    "end", ["", "-", "-1-0", "-1-0-1", "-1-2-2", "-1-0-257", "-01", "-1 ", "-1-0-2-3", "-x"]
)
def test_what_no_program_writes_is_refused(end: str) -> None:
    with pytest.raises(InvalidContent):
        parse_message_id(RUN.hex() + end)


def test_frames_are_cut_only_where_the_server_takes_no_larger_message() -> None:
    assert cut(b"x" * 900_000, RUN, 1, 1 << 20) == [(MessageId(RUN, 1), b"x" * 900_000)]
    parts = cut(b"x" * 900_001, RUN, 2, 300_000 + HEADERS_BYTES_MAX)
    assert [len(payload) for _, payload in parts] == [300_000, 300_000, 300_000, 1]
    assert [message_id.part for message_id, _ in parts] == [0, 1, 2, 3]
    assert len(cut(bytes(FRAME_BYTES_MAX), RUN, 3, 1 << 20)) <= PARTS_MAX, "a server as it is takes any frame"
    for bytes_max in (HEADERS_BYTES_MAX, 4000):
        with pytest.raises(InvalidContent, match="too small"):
            cut(bytes(900_000), RUN, 4, bytes_max)


def test_parts_in_any_order_doubled_and_mixed_are_frames_again() -> None:
    rng = random.Random(1)
    frames = [rng.randbytes(rng.randrange(1, 20_000)) for _ in range(30)]
    messages = [each for n, frame in enumerate(frames) for each in cut(frame, RUN, n, 1500)]
    messages += messages[::3]
    rng.shuffle(messages)
    unfinished: Unfinished[int] = Unfinished()
    whole = [unfinished.take(*message, k) for k, message in enumerate(messages)]
    assert {each.frame for each in whole if each} == {*frames}
    of_one = next(each for each in whole if each and len(each.messages) > 3)
    assert {messages[k][0].number for k in of_one.messages} == {frames.index(of_one.frame)}


def test_parts_whose_rest_never_comes_take_no_more_room_than_one_frame() -> None:
    unfinished: Unfinished[int] = Unfinished()
    forgotten: list[int] = []
    for number in range(100):
        assert unfinished.take(MessageId(RUN, number, 0, 2), bytes(1_000_000), number) is None
        forgotten += unfinished.forgotten()
    assert unfinished.held_bytes <= FRAME_BYTES_MAX
    assert forgotten == list(range(len(forgotten))), "the oldest first"
    assert sorted(forgotten + unfinished.clear()) == list(range(100))
    assert unfinished.held_bytes == 0
