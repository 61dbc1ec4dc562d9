"""No message costs much more to prepare than ordinary mail of its size: what is looked at is counted.

`python -m pillarbox.tools.bench.hostile` measures the same messages in time (docs/benchmarks.md).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from pillarbox.store.content import base64_runs as runs
from pillarbox.store.content.base64_runs import BASE64_FROM_BYTES, base64_runs
from pillarbox.store.content.blocks import Dictionaries, assemble, split
from pillarbox.store.content.envelope import parse_envelope
from pillarbox.store.content.header import HEADER_FIELDS_MAX, fields_of
from pillarbox.tools.bench.hostile import ATTACHMENT, HOSTILE, TEXT, Hostile, ordinary, prepare

SIZE = 256 << 10
TEXTS = [b"Dear all,\n\nwords of an ordinary message, again and again.\n" * 40]


def calls_of(work: Callable[[], None]) -> int:
    """Calls of functions, Python's own too: each is a step of the same small cost."""
    count = 0

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_message_takes_a_bounded_number_of_steps(hostile: Hostile) -> None:
    raw = hostile.make(SIZE)
    assert abs(len(raw) - SIZE) < SIZE // 3
    # A step takes about as long as 20 bytes of ordinary mail.
    assert calls_of(lambda: prepare(raw, Dictionaries())) < 2000 + SIZE // 20
    taken = split(raw)
    assert assemble(taken.skeleton, taken.parts) == raw


@pytest.mark.parametrize("kind", [TEXT, ATTACHMENT])
def test_ordinary_mail_takes_few_steps_whatever_its_size(kind: str) -> None:
    for size in (SIZE, 8 * SIZE):
        raw = ordinary(kind, TEXTS, size)
        assert calls_of(lambda raw=raw: prepare(raw, Dictionaries())) < 400  # type: ignore[misc]


# -- headers


def test_the_first_five_hundred_fields_of_a_header_are_looked_at() -> None:
    for count, subject in ((HEADER_FIELDS_MAX - 1, b" seen"), (HEADER_FIELDS_MAX, None)):
        header = b"X-Other: x\n" * count + b"Subject: seen\n" + b"X-Other: x\n" * 9
        assert fields_of(header).get(b"subject") == subject


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("fold", [b" ", b"\t"])
def test_a_long_list_of_recipients_is_one_field(line_end: bytes, fold: bytes) -> None:
    recipients = (b"," + line_end + fold).join(b"a%d@example.com" % number for number in range(3000))
    header = b"To: " + recipients + line_end + b"Subject: seen" + line_end
    assert fields_of(header)[b"subject"] == b" seen"
    assert parse_envelope(header + line_end).to.startswith("a0@example.com, a1@example.com, ")


def test_the_first_64_encoded_words_of_a_field_are_decoded() -> None:
    found = parse_envelope(b"Subject: " + b"=?utf-8?q?a?= " * 65 + b"\n\n")
    assert found.subject == "a" * 64 + " =?utf-8?q?a?="


# -- parts


def multipart(parts_count: int, filler: bytes = b"") -> bytes:
    """Many small parts, the last of which is an attachment."""
    part = b"--b\nContent-Type: text/plain; charset=us-ascii\n\nwords\n"
    last = b"--b\nContent-Disposition: attachment\n\nx\n--b--\n"
    return b"Content-Type: multipart/mixed; boundary=b\n\n" + part * parts_count + last + filler


def test_the_parts_that_are_looked_at_are_in_keeping_with_the_size_of_the_message() -> None:
    assert parse_envelope(multipart(35)).has_attachment
    assert not parse_envelope(multipart(300)).has_attachment
    assert parse_envelope(multipart(300, b"w" * (1 << 20))).has_attachment
    assert not parse_envelope(multipart(3000, b"w" * (8 << 20))).has_attachment


# -- base64


def small_runs(count: int) -> bytes:
    return b"base64\n\nAAAA\n--" * count


def test_a_large_attachment_behind_many_small_ones_is_found() -> None:
    large = b"base64\n\n" + b"AAAA" * (BASE64_FROM_BYTES // 4)
    assert [run.width for run in base64_runs(small_runs(31) + large, 0)] == [0]
    assert list(base64_runs(small_runs(50) + large, 0)) == []
    assert [len(run.data) for run in base64_runs(small_runs(50) + large * 4, 0)] == []


def test_names_of_the_encoding_before_one_blank_line_are_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []

    def counted(message: bytes, start: int) -> int:
        looked_at.append(start)
        return len(message)

    monkeypatch.setattr(runs, "_delimiter", counted)
    message = b"base64" * 1000 + b"\n\n" + b"AAAA" * 2000
    assert [run.start for run in base64_runs(message, 0)] == [6002]
    assert looked_at == [6002]


def test_no_more_line_ends_are_taken_out_than_there_can_be_lines() -> None:
    class Counted(bytes):
        """Bytes of which little may be taken out: that is slow where line ends are close together."""

        def replace(self, old: bytes, new: bytes, count: int = -1) -> bytes:  # type: ignore[override]
            assert 0 <= count <= len(self) // 5
            return super().replace(old, new, count)

    line = b"A" * 76
    for run in (
        b"\n" * 9000,
        b"\r\n" * 9000,
        b"A\n" * 9000,
        b"AAAA\n" + b"\n" * 9000,
        (line + b"\n") * 99 + line[1:] + b"\n",
        line + b"\n" * 9000,
    ):
        assert runs._decode(Counted(run)) is None
    assert runs._decode(Counted((line + b"\n") * 99 + line)) == (76, b"\n", bytes(57 * 100))


def test_the_first_blank_line_is_found_whatever_ends_the_lines() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        message = bytes(rng.choices(b"\r\n\na", k=rng.randrange(40)))
        lines = runs._BlankLines(message)
        for start in sorted(rng.sample(range(45), 9)):
            kinds = [(message.find(blank, start), len(blank)) for blank in (b"\n\n", b"\r\n\r\n")]
            expected = min(((at, at + length) for at, length in kinds if at >= 0), default=(-1, -1))
            assert lines.next(start) == expected
