"""Taking a message apart and putting it together again gives the same bytes, whatever they are."""

from __future__ import annotations

import base64
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.content.base64_runs import BASE64_FROM_BYTES
from pillarbox.store.content.blocks import (
    BLOCK_BYTES_MAX,
    TEXT_FROM_BYTES,
    Dictionaries,
    Encoding,
    Part,
    PreparedContent,
    assemble,
    digest_of,
    prepare_content,
    split,
)
from pillarbox.store.disk.stream import Codec, Frame, FrameKind, parse_frame
from pillarbox.store.disk.tables import DIGEST_BYTES
from pillarbox.store.errors import Corrupt

DATA = Path(__file__).parents[2] / "data"
steady = settings(deadline=None, max_examples=40)


def joined(message: bytes) -> bytes:
    taken = split(message)
    return assemble(taken.skeleton, taken.parts)


def encoded(data: bytes, width: int = 76, line_end: bytes = b"\r\n") -> bytes:
    """`data` as base64 in lines, without a line end behind the last."""
    flat = base64.b64encode(data)
    return line_end.join(flat[at : at + width] for at in range(0, len(flat), width))


def with_attachment(run: bytes, line_end: bytes = b"\r\n", name: bytes = b"base64") -> bytes:
    head = [b"From: anna@example.com", b"Content-Type: multipart/mixed; boundary=b", b"", b"--b"]
    part = [b"Content-Transfer-Encoding: " + name, b"", run, b"--b--", b""]
    return line_end.join(head + part)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# -- digests


@given(data=st.binary(max_size=200))
@steady
def test_a_digest_is_the_beginning_of_the_contents_blake3(data: bytes) -> None:
    assert digest_of(data) == digest_of(memoryview(data)) == blake3(data).digest()[:DIGEST_BYTES]
    assert len(digest_of(data)) == 24


# -- split and assemble

line_ends = st.sampled_from([b"\n", b"\r\n", b"\r", b""])
base64_runs = st.builds(
    encoded,
    st.integers(0, 7000).map(noise),
    st.integers(1, 1100) | st.sampled_from([0x4C, 60, 64, 72, 998]),
    line_ends,
)
texts = st.builds(lambda text, times: text * times, st.binary(max_size=40), st.integers(0, 300))
fragments = st.one_of(
    st.binary(max_size=100),
    texts,
    base64_runs,
    st.sampled_from(
        [
            b"Content-Transfer-Encoding: base64\r\n\r\n",
            b"content-transfer-encoding: BASE64\n\n",
            b"base64",
            b"\n\n",
            b"\r\n\r\n",
            b"\n--b",
            b"\r\n--b--\r\n",
            b"=",
            b"==\r\n",
            b"\r\n",
            b" ",
            b"A" * 6000,
            b"AB==" * 1500,
        ]
    ),
)


@given(message=st.lists(fragments, max_size=8).map(b"".join))
@settings(deadline=None, max_examples=200)
def test_a_message_of_any_bytes_is_put_together_again_byte_for_byte(message: bytes) -> None:
    assert joined(message) == message


@given(
    size=st.integers(BASE64_FROM_BYTES, 12_000),
    width=st.integers(1, 1000),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    at=st.integers(0),
    change=st.integers(1, 255),
)
@steady
def test_base64_with_any_byte_changed_is_put_together_again_byte_for_byte(
    size: int, width: int, line_end: bytes, at: int, change: int
) -> None:
    message = bytearray(with_attachment(encoded(noise(size), width, line_end), line_end))
    message[at % len(message)] ^= change
    assert joined(bytes(message)) == message


@pytest.mark.parametrize("path", sorted(DATA.rglob("*.eml")), ids=lambda path: path.name)
def test_real_mail_is_put_together_again_byte_for_byte(path: Path) -> None:
    message = path.read_bytes()
    assert joined(message) == message


@pytest.mark.parametrize(
    "message", [b"", b"\n", b"\r\n\r\n", b"base64", b"base64\n\n", b"\n\nbase64\n\n" + b"A" * 9000]
)
def test_a_message_of_nothing_much_is_put_together_again(message: bytes) -> None:
    assert joined(message) == message


# -- what is shared


def base64_parts(message: bytes) -> list[Part]:
    return [part for part in split(message).parts if part.encoding == Encoding.BASE64]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("width", [4, 60, 64, 72, 76, 998])
@pytest.mark.parametrize("size", [20_001, 43_776, 200_000])  # of 76 wide lines 43,776 fill 768
def test_an_attachment_is_the_same_block_however_it_was_sent(width: int, line_end: bytes, size: int) -> None:
    data = noise(size)
    message = with_attachment(encoded(data, width, line_end), line_end)
    (part,) = base64_parts(message)
    assert part.chunks == (data,)
    assert (part.width, part.line_end) == (width, line_end)
    assert joined(message) == message


def test_an_attachment_in_one_line_is_the_same_block_too() -> None:
    data = noise(20_000)
    for name in (b"base64", b"BASE64"):
        (part,) = base64_parts(with_attachment(base64.b64encode(data), name=name))
        assert part.chunks == (data,)
        assert (part.width, part.line_end) == (0, b"")


@pytest.mark.parametrize(
    "run",
    [
        encoded(noise(9000), 1001),
        encoded(noise(9000)).replace(b"\r\n", b"\n", 1),
        encoded(noise(9000)).replace(b"\r\n", b" \r\n", 3),
        encoded(noise(9000))[:5000] + b"!" + encoded(noise(9000))[5001:],
        encoded(noise(9000))[:-2] + b"x=",
        base64.b64encode(noise(8998))[:-3] + b"B==",
    ],
    ids=["too wide", "mixed line ends", "blanks", "a foreign letter", "cut", "bits behind the padding"],
)
def test_base64_that_would_not_come_back_as_it_was_is_kept_as_text(run: bytes) -> None:
    message = with_attachment(run)
    assert not base64_parts(message)
    assert joined(message) == message


def test_one_mail_received_with_different_headers_shares_its_body() -> None:
    body = b"The same words to everybody.\r\n" * 200
    first = split(b"Received: by one\r\nSubject: x\r\n\r\n" + body)
    second = split(b"Received: by another one\r\nSubject: x\r\n\r\n" + body)
    assert [part.chunks for part in first.parts] == [part.chunks for part in second.parts] == [(body,)]


def test_small_parts_stay_in_the_skeleton() -> None:
    small = b"Subject: x\r\n\r\n" + b"t" * (TEXT_FROM_BYTES - 1)
    assert split(small) == (small, ())
    attachment = with_attachment(encoded(noise(BASE64_FROM_BYTES // 2), 76))
    assert not base64_parts(attachment)


def test_a_large_part_is_kept_in_blocks_of_bounded_size() -> None:
    data = noise(2 * BLOCK_BYTES_MAX + 5)
    message = with_attachment(encoded(data)) + b"tail " * (BLOCK_BYTES_MAX // 4)
    taken = split(message)
    assert max(len(chunk) for part in taken.parts for chunk in part.chunks) == BLOCK_BYTES_MAX
    (part,) = base64_parts(message)
    assert b"".join(part.chunks) == data
    assert assemble(taken.skeleton, taken.parts) == message


def test_many_thousand_parts_cost_little() -> None:
    message = b"Subject: x\n\n" + b"--b\nContent-Transfer-Encoding: base64\n\nAAAA\n" * 30_000
    tracemalloc.start()
    try:
        assert joined(message) == message
        assert tracemalloc.get_traced_memory()[1] < 10 * len(message)
    finally:
        tracemalloc.stop()


class Counted(bytes):
    """Counts the bytes that are searched in it."""

    searched = 0

    def find(self, wanted: Any, start: Any = 0, end: Any = None) -> int:
        found = super().find(wanted, start, end)
        reached = min(len(self), len(self) if end is None else end) if found < 0 else found
        Counted.searched += max(0, reached - start)
        return found


@pytest.mark.parametrize(
    "unit",
    [
        b"BASE64 xx\n",
        b"base64 xx\n",
        b"BASE64\n\nAA\n--\n",
        b"base64\n\nAA\n--\n",
        b"BASE64base64\n\n",
        b"\n--",
    ],
)
def test_a_message_full_of_encoding_names_is_not_searched_over_and_over(unit: bytes) -> None:
    message = Counted(b"Subject: x\n\n" + unit * 5000)
    Counted.searched = 0
    taken = split(message)
    assert Counted.searched < 5000 * 5000
    assert assemble(taken.skeleton, taken.parts) == message


# -- zstd and its dictionaries


@pytest.fixture(scope="module")
def trained() -> bytes:
    samples = [
        b"From: anna@example.com\r\nTo: list@example.org\r\nSubject: Re: number %d\r\n\r\nHello %s\r\n"
        % (n, noise(20, n).hex().encode())
        for n in range(400)
    ]
    return zstandard.train_dictionary(4096, samples).as_bytes()


NEW_MAIL = (
    b"From: anna@example.com\r\nTo: list@example.org\r\nSubject: Re: number 9999\r\n\r\nHello again\r\n"
)


def nothing_known(digest: bytes, is_message: bool) -> bool:
    return False


def skeleton_of(message: bytes, dictionaries: Dictionaries) -> Frame:
    prepared = prepare_content(message, dictionaries, nothing_known)
    return parse_frame(prepared.skeleton.frame(dictionaries), 0, "here")


@given(message=st.binary(max_size=3000) | texts)
@steady
def test_what_is_compressed_is_decompressed(message: bytes) -> None:
    dictionaries = Dictionaries()
    frame = skeleton_of(message, dictionaries)
    assert dictionaries.decompress(frame, "here") == split(message).skeleton
    assert len(frame.payload) <= frame.raw_bytes


def test_frames_stay_readable_when_a_newer_dictionary_is_added(trained: bytes) -> None:
    dictionaries = Dictionaries()
    frames = [skeleton_of(NEW_MAIL, dictionaries)]
    dictionaries.add(1, trained)
    frames.append(skeleton_of(NEW_MAIL, dictionaries))
    dictionaries.add(2, trained[: len(trained)])
    frames.append(skeleton_of(NEW_MAIL, dictionaries))
    assert [frame.dictionary for frame in frames] == [0, 1, 2]
    assert len(frames[1].payload) < len(frames[0].payload)
    again = Dictionaries({2: trained, 1: trained})
    assert again.current == 2
    assert [again.decompress(frame, "here") for frame in frames] == [NEW_MAIL] * 3


def test_a_dictionary_that_is_not_known_is_damage(trained: bytes) -> None:
    frame = skeleton_of(NEW_MAIL, Dictionaries({1: trained}))
    with pytest.raises(Corrupt, match="dictionary 1 is not known"):
        Dictionaries().decompress(frame, "here")


@pytest.mark.parametrize("stated", [0, 1, 100, 1 << 20])
def test_a_payload_that_inflates_beyond_its_length_costs_no_memory(stated: int) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt) as raised:
            Dictionaries().decompress(Frame(FrameKind.BLOCK, Codec.ZSTD, 0, stated, bytes(24), bomb), "here")
        assert raised.value.file == "here"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("raw_bytes", [0, 10, 21, 23])
def test_a_payload_that_is_not_as_long_as_stated_is_damage(raw_bytes: int) -> None:
    packed = zstandard.ZstdCompressor().compress(b"twenty-two bytes long.")
    without_length = zstandard.ZstdCompressor(write_content_size=False).compress(b"twenty-two bytes long.")
    for payload in (packed, without_length, packed[:-1], b"no zstd frame"):
        with pytest.raises(Corrupt):
            Dictionaries().decompress(
                Frame(FrameKind.BLOCK, Codec.ZSTD, 0, raw_bytes, bytes(24), payload), "here"
            )


def test_a_plain_payload_that_is_not_as_long_as_stated_is_damage() -> None:
    with pytest.raises(Corrupt):
        Dictionaries().decompress(Frame(FrameKind.BLOCK, Codec.PLAIN, 0, 5, bytes(24), b"four"), "here")


def test_a_codec_that_is_not_known_is_damage() -> None:
    packed = zstandard.ZstdCompressor().compress(b"words")
    with pytest.raises(Corrupt, match="codec"):
        Dictionaries().decompress(Frame(FrameKind.BLOCK, 2, 0, 5, bytes(24), packed), "here")


# -- preparing


def blocks_of(prepared: PreparedContent, dictionaries: Dictionaries) -> tuple[Part, ...]:
    return tuple(
        Part(
            part.position,
            part.encoding,
            part.width,
            part.line_end,
            tuple(
                dictionaries.decompress(parse_frame(block.frame(dictionaries), 0, "here"), "here")
                for block in part.blocks
            ),
        )
        for part in prepared.parts
    )


def test_prepared_content_holds_the_whole_message_and_names_every_block(trained: bytes) -> None:
    dictionaries = Dictionaries({1: trained})
    message = with_attachment(encoded(noise(30_000))) + b"text " * 1000
    prepared = prepare_content(message, dictionaries, nothing_known)
    assert (prepared.digest, prepared.size) == (digest_of(message), len(message))
    assert prepared.skeleton.digest == prepared.digest
    parts = blocks_of(prepared, dictionaries)
    skeleton = dictionaries.decompress(parse_frame(prepared.skeleton.frame(dictionaries), 0, "here"), "here")
    assert assemble(skeleton, parts) == message
    for part, read in zip(prepared.parts, parts, strict=True):
        assert [block.digest for block in part.blocks] == [digest_of(chunk) for chunk in read.chunks]


def test_a_message_that_is_there_already_is_not_taken_apart() -> None:
    message = with_attachment(encoded(noise(30_000)))
    prepared = prepare_content(message, Dictionaries(), lambda digest, is_message: is_message)
    assert (prepared.digest, prepared.size, prepared.parts) == (digest_of(message), len(message), ())


def test_messages_are_prepared_in_any_number_of_threads(trained: bytes) -> None:
    dictionaries = Dictionaries({1: trained})
    messages = [
        with_attachment(encoded(noise(8000, seed))) + noise(300, seed).hex().encode() for seed in range(60)
    ]

    def there_and_back(message: bytes) -> bytes:
        prepared = prepare_content(message, dictionaries, nothing_known)
        frame = parse_frame(prepared.skeleton.frame(dictionaries), 0, "here")
        return assemble(dictionaries.decompress(frame, "here"), blocks_of(prepared, dictionaries))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(there_and_back, messages)) == messages
