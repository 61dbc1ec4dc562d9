"""mbox files come in and go out byte for byte, in four dialects, whatever is wrong with them."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.errors import DiskFull, InvalidContent, InvalidSetting, NotFound
from pillarbox.store.files.mail_item import MailItem
from pillarbox.store.files.mbox import Dialect, MboxWriter, read_mbox

ROOT = Path(__file__).resolve().parents[3]
LISTS = ROOT / "tests" / "data" / "lists.mbox"
CORPUS = Path(os.environ.get("PILLARBOX_CORPUS", ROOT.parent / "shared" / "corpus"))
EXACT: tuple[Dialect, ...] = ("mboxrd", "mboxcl", "mboxcl2")
FROM = b"From a@example.org Thu Aug 22 12:36:23 2002\n"

steady = settings(deadline=None)

# Pieces that mean something to an mbox reader, so that random messages are hostile ones.
PIECES = [
    b"\n",
    b"\r\n",
    b"\r",
    b"From ",
    FROM,
    b">From ",
    b">>From x\n",
    b"Content-Length: 3\n",
    b"A: b\n",
    b"\0",
    b"x",
]
hostile = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=12).map(b"".join)


def write(path: Path, messages: list[bytes], dialect: Dialect) -> Path:
    with path.open("wb") as file:
        writer = MboxWriter(file, dialect)
        for raw in messages:
            writer.add(MailItem(raw))
    return path


def raws(path: Path, dialect: Dialect | None = None) -> list[bytes]:
    return [item.raw for item in read_mbox(path, dialect)]


def one_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("dialect", EXACT)
def test_any_messages_come_back_the_same(dialect: Dialect, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("mbox") / "box"

    @steady
    @given(st.lists(hostile, max_size=5))
    def round_trip(messages: list[bytes]) -> None:
        assert raws(write(path, messages, dialect), dialect) == messages

    round_trip()


@pytest.mark.parametrize("dialect", EXACT)
def test_messages_longer_than_what_is_read_at_once_come_back_the_same(
    dialect: Dialect, tmp_path: Path
) -> None:
    line = b"From the middle of a long letter, 12:30\n"
    messages = [b"A: b\n\n" + line * 20_000, b"A: b\n\n" + b"x" * 700_000, b"A: b\n\nshort"]
    assert raws(write(tmp_path / "box", messages, dialect), dialect) == messages


def test_mboxo_keeps_all_but_lines_already_quoted(tmp_path: Path) -> None:
    messages = [b"A: b\n\nFrom here\n>>From there\n", b"A: b\n\n>From here\n"]
    assert raws(write(tmp_path / "box", messages, "mboxo"), "mboxo") == [messages[0], b"A: b\n\nFrom here\n"]


def test_real_mail_is_read_whole_and_written_back_as_it_was(tmp_path: Path) -> None:
    items = list(read_mbox(LISTS))
    assert len(items) == 24
    assert not [item.damage for item in items if item.damage]
    assert [item.raw for item in items] == raws(
        write(tmp_path / "box", [item.raw for item in items], "mboxrd")
    )
    assert items[0].received_ms == int(datetime(2002, 8, 22, 12, 36, 23, tzinfo=UTC).timestamp()) * 1000


def test_the_corpus_is_read_whole_and_written_back_as_it_was() -> None:
    paths = sorted((CORPUS / "lists").glob("*.mbox"))
    if not paths:
        pytest.skip(f"no mail corpus at {CORPUS}; set PILLARBOX_CORPUS")
    for path in paths:
        file = io.BytesIO()
        writer = MboxWriter(file)
        for item in read_mbox(path):
            assert not item.damage
            writer.add(item)
        sender_lines = [line for line in path.read_bytes().split(b"\n") if not line.startswith(b"From ")]
        assert [
            line for line in file.getvalue().split(b"\n") if not line.startswith(b"From ")
        ] == sender_lines


def test_the_blank_line_between_messages_is_not_content(tmp_path: Path) -> None:
    data = FROM + b"A: 1\n\none\n\n\n" + FROM + b"A: 2\n\ntwo\n"
    assert raws(one_file(tmp_path / "box", data)) == [b"A: 1\n\none\n\n", b"A: 2\n\ntwo\n"]


def test_a_file_with_crlf_keeps_it_in_the_messages(tmp_path: Path) -> None:
    data = (FROM + b"A: 1\n\none\n\n" + FROM + b"A: 2\n\ntwo\n\n").replace(b"\n", b"\r\n")
    assert raws(one_file(tmp_path / "box", data)) == [b"A: 1\r\n\r\none\r\n", b"A: 2\r\n\r\ntwo\r\n"]


def test_prose_that_was_not_quoted_does_not_cut_a_message(tmp_path: Path) -> None:
    raw = b"A: 1\n\nHello,\n\nFrom the start it was clear.\n"
    assert raws(one_file(tmp_path / "box", FROM + raw + b"\n")) == [raw]


def test_a_from_line_without_a_date_is_told_by_the_header_after_it(tmp_path: Path) -> None:
    data = b"From nobody\nA: 1\n\none\n\nFrom ???@???\nA: 2\n\ntwo\n"
    assert raws(one_file(tmp_path / "box", data)) == [b"A: 1\n\none\n", b"A: 2\n\ntwo\n"]


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        (b"Thu Aug 22 12:36:23 2002", datetime(2002, 8, 22, 12, 36, 23, tzinfo=UTC)),
        (b"Thu Aug 22 12:36:23 +0200 2002", datetime(2002, 8, 22, 10, 36, 23, tzinfo=UTC)),
        (b"Thu Aug 22 12:36:23 2002 -0700", datetime(2002, 8, 22, 19, 36, 23, tzinfo=UTC)),
        (b"Thu, 22 Aug 2002 12:36:23 GMT", datetime(2002, 8, 22, 12, 36, 23, tzinfo=UTC)),
        (b"Thu Jan  1 00:00:00 1970", None),
        (b"Thu Aug 99 12:36:23 99999", None),
        (b"some day at 12:36:23", None),
    ],
)
def test_the_time_of_receipt_is_in_the_from_line(
    date: bytes, expected: datetime | None, tmp_path: Path
) -> None:
    path = one_file(tmp_path / "box", b"From a@example.org " + date + b"\nA: 1\n\none\n")
    assert next(read_mbox(path)).received_ms == (int(expected.timestamp()) * 1000 if expected else 0)


@steady
@given(st.integers(-(10**12), 10**18))
def test_the_time_of_receipt_is_kept_in_seconds(received_ms: int) -> None:
    file = io.BytesIO()
    MboxWriter(file).add(MailItem(b"A: 1\n\none\n", received_ms=received_ms))
    seconds = min(max(received_ms // 1000, 0), 253_402_300_799)
    from_line = file.getvalue().split(b"\n")[0].decode()
    written = datetime.strptime(from_line.removeprefix("From MAILER-DAEMON "), "%a %b %d %H:%M:%S %Y")
    assert int(written.replace(tzinfo=UTC).timestamp()) == seconds


def test_flags_are_read_from_the_header_that_stays_as_it_is(tmp_path: Path) -> None:
    raw = (
        b"Status: RO\nX-Status: AF\nX-Keywords: $Work bad(word work\nX-Mozilla-Status: 1008\n"
        b"X-Mozilla-Keys: $label1\nSubject: s\n\nX-Status: T\n"
    )
    item = next(read_mbox(one_file(tmp_path / "box", FROM + raw + b"\n")))
    assert item.raw == raw
    found = ("\\Seen", "\\Answered", "\\Flagged", "$Work", "work", "\\Deleted", "$Forwarded", "$label1")
    assert item.flags == found


@pytest.mark.parametrize("dialect", get_args(Dialect))
def test_the_dialect_is_found(dialect: Dialect, tmp_path: Path) -> None:
    messages = [b"A: 1\n\nFrom here on\n", b"A: 2\n\ntwo\n"]
    assert raws(write(tmp_path / "box", messages, dialect)) == messages


@pytest.mark.parametrize("dialect", ["mboxrd", "mboxcl", "mboxcl2"])
def test_what_looks_quoted_comes_back_from_each_dialect_without_its_name(
    dialect: Dialect, tmp_path: Path
) -> None:
    messages = [b"A: 1\n\n>From here on\n>>From there on\n", b"A: 2\n\nno line end"]
    assert raws(write(tmp_path / "box", messages, dialect)) == messages


def test_a_file_that_says_mboxcl2_is_none_when_a_length_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "box", [b"A: 1\n\none\n", b"A: 2\n\n>From here\n"], "mboxcl2")
    path.write_bytes(path.read_bytes().replace(b"one", b"one or two"))
    assert raws(path)[1].endswith(b"\n\nFrom here\n"), "mboxrd, which quotes"


def test_a_content_length_that_came_with_a_message_stays(tmp_path: Path) -> None:
    raw = b"A: 1\nContent-Length: 4\n\none\n"
    assert raws(one_file(tmp_path / "box", FROM + raw + b"\n" + FROM + raw + b"\n")) == [raw, raw]


@pytest.mark.parametrize("length", [b"3", b"5", b"40", b"999999999999999999"])
def test_a_lying_content_length_loses_nothing(length: bytes, tmp_path: Path) -> None:
    first = b"A: 1\nContent-Length: " + length + b"\n\none\n"
    second = b"A: 2\nContent-Length: 4\n\ntwo\n"
    path = one_file(tmp_path / "box", FROM + first + b"\n" + FROM + second + b"\n")
    items = list(read_mbox(path, "mboxcl2"))
    assert [item.raw for item in items] == [first, second]
    assert "Content-Length" in items[0].damage and not items[1].damage


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (FROM + b"A: 1\n\nthe rest is miss", [b"A: 1\n\nthe rest is miss"]),
        (FROM + b"A: 1\nB: 2\n", [b"A: 1\nB: 2\n"]),
        (FROM, [b""]),
        (b"no mail at all\n" + FROM + b"A: 1\n\none\n", [b"no mail at all", b"A: 1\n\none\n"]),
        (b"\x7fELF\0\0", [b"\x7fELF\0\0"]),
    ],
)
def test_what_is_damaged_is_given_as_it_is_and_told(
    data: bytes, expected: list[bytes], tmp_path: Path
) -> None:
    items = list(read_mbox(one_file(tmp_path / "box", data)))
    assert [item.raw for item in items] == expected
    assert items[0].damage and not any(item.damage for item in items[1:])


def test_a_message_that_is_too_long_comes_in_parts(tmp_path: Path) -> None:
    raw = b"A: 1\n\n" + b"x" * 1000 + b"\n"
    path = one_file(tmp_path / "box", FROM + raw + b"\n" + FROM + b"A: 2\n\ntwo\n\n")
    items = list(read_mbox(path, limit_bytes=300))
    assert b"".join(item.raw for item in items) == raw + b"A: 2\n\ntwo\n"
    assert max(len(item.raw) for item in items) == 300
    assert all(item.damage for item in items[:-1]) and not items[-1].damage


@steady
@given(data=hostile.map(lambda raw: raw * 3), dialect=st.sampled_from(get_args(Dialect)))
def test_no_file_is_too_strange_to_read(
    data: bytes, dialect: Dialect, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = one_file(tmp_path_factory.getbasetemp() / "strange", data)
    for item in read_mbox(path, dialect, limit_bytes=20):
        assert len(item.raw) <= 20 and 0 <= item.position <= len(data)


def test_memory_holds_one_message_and_not_the_file(tmp_path: Path) -> None:
    raw = b"A: 1\n\n" + b"x" * 100_000 + b"\n"
    path = write(tmp_path / "box", [raw] * 100, "mboxrd")
    tracemalloc.start()
    try:
        assert sum(len(item.raw) for item in read_mbox(path)) == 100 * len(raw)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        next(read_mbox(tmp_path / "none"))
    with pytest.raises(InvalidContent):
        next(read_mbox(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidContent):
        next(read_mbox(tmp_path / "pipe"))
    assert raws(one_file(tmp_path / "empty", b"")) == []
    with pytest.raises(InvalidSetting):
        MboxWriter(io.BytesIO(), "mbx")  # type: ignore[arg-type]


def test_a_file_that_gets_shorter_while_it_is_read_is_told(tmp_path: Path) -> None:
    raw = b"A: 1\n\n" + b"x" * 600_000 + b"\n"
    path = write(tmp_path / "box", [raw, raw], "mboxrd")
    items: Iterator[MailItem] = read_mbox(path)
    next(items)
    os.truncate(path, 610_000)
    with pytest.raises(InvalidContent, match="shorter"):
        next(items)


def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(DiskFull):  # noqa: PTH123
        MboxWriter(file).add(MailItem(b"A: 1\n\none\n"))
