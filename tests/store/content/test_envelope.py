"""Envelopes: what header parsing promises for good headers, and for any bytes."""

from __future__ import annotations

import email
import os
import random
import re
import tarfile
from calendar import month_abbr
from collections.abc import Callable
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import Message
from email.utils import mktime_tz, parseaddr, parsedate_tz
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.content import envelope
from pillarbox.store.content.envelope import Envelope, parse_envelope
from pillarbox.store.content.header import HEADER_BYTES_MAX, header_end

ROOT = Path(__file__).resolve().parents[3]
CORPUS = Path(os.environ.get("PILLARBOX_CORPUS", ROOT.parent / "shared" / "corpus"))
SAMPLE_COUNT = 400

steady = settings(deadline=None)

# Pieces that mean something to a header parser, so that random messages are hostile ones.
PIECES = [
    b"\n", b"\r\n", b"\r", b"\r\r\n", b"\n\n", b" ", b"\t", b":", b"<", b">", b'"', b"\\", b"(", b")", b",",
    b"@", b"\0", b"\xff", b"\xc3\xa4", b"=?", b"?=", b"=?utf-8?q?=C3?=",
    b"=?utf-7?q?+2AA-?=", b"=?utf-16?B?2AA=?=",
    b"Subject:", b"From:", b"Date:", b"To:", b"Message-ID: <a@b>", b"References:", b"In-Reply-To:", b"re:",
    b"[fwd:", b"[list]", b"]", b"(fwd)", b"Thu, 22 Aug 2002 12:36:23 +0100", b"99 Jan 99999 99:99:99 +9999",
    b"Content-Type: multipart/mixed; boundary=b", b"\n--b\n", b"Content-Disposition: attachment",
]  # fmt: skip
hostile = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=40).map(b"".join)


def of(*lines: bytes) -> Envelope:
    return parse_envelope(b"\n".join(lines) + b"\n\nbody\n")


def date_of(text: bytes) -> str:
    date_ms = of(b"Date: " + text).date_ms
    return datetime.fromtimestamp(date_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


# --- any bytes ------------------------------------------------------------------------------------------


@steady
@given(hostile)
def test_any_bytes_give_a_bounded_envelope_that_can_be_stored(message: bytes) -> None:
    found = parse_envelope(message)
    for text in (found.subject, found.sender, found.to, found.cc, found.message_id, found.in_reply_to):
        assert len(text) <= 2 * envelope.ADDRESSES_CHARS_MAX
        text.encode()
        assert not re.search(r"[\x00-\x1f\x7f]", text)
    assert abs(found.date_ms) < 1 << 60
    assert found.importance in (0, 1, 2)
    assert len(found.conversation) == envelope.CONVERSATION_BYTES


@steady
@given(hostile)
def test_the_header_ends_within_the_message(message: bytes) -> None:
    end = header_end(message)
    assert 0 <= end <= len(message)
    assert header_end(message[:end]) == end
    assert end == len(message) or message[end - 1 : end] in (b"\n", b"\r")


@steady
@given(st.sampled_from(sorted(envelope._CHARSETS)), st.binary(max_size=40), st.sampled_from("qb"))
def test_every_known_character_set_decodes_anything(charset: str, junk: bytes, encoding: str) -> None:
    word = b"=?" + charset.encode() + b"?" + encoding.encode() + b"?" + junk + b"?="
    of(b"Subject: " + word).subject.encode()


@pytest.mark.parametrize(
    "repeated", [b"\r", b"\0", b"a:b\n", b"=?", b"=?utf-8?q?a?=", b"<", b"[a] ", b"Re: ", b'"\\']
)
@pytest.mark.parametrize("field", [b"", b"Subject: ", b"From: ", b"References: ", b"Date: "])
def test_huge_headers_are_cut(field: bytes, repeated: bytes) -> None:
    message = field + repeated * ((2 << 20) // len(repeated))
    found = parse_envelope(message)
    assert header_end(message) <= HEADER_BYTES_MAX
    assert max(len(found.subject), len(found.sender), len(found.in_reply_to)) <= envelope.TEXT_CHARS_MAX


def test_nothing_gives_an_empty_envelope() -> None:
    found = parse_envelope(b"")
    assert found[:-1] == ("", "", "", "", 0, "", "", 1, False)


# --- where the header ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r", b"\r\r\n"])
def test_the_header_ends_past_the_blank_line(line_end: bytes) -> None:
    header = b"Subject: a" + line_end + b"To: b" + line_end + line_end
    message = header + b"Cc: in the body" + line_end + line_end + b"end"
    assert header_end(message) == len(header)
    found = parse_envelope(message)
    assert (found.subject, found.to, found.cc) == ("a", "b", "")


@pytest.mark.parametrize(
    ("message", "end"),
    [
        (b"", 0),
        (b"\nbody", 1),
        (b"\r\nbody", 2),
        (b"\rbody", 1),
        (b"A: b", 4),
        (b"A: b\r\n\nx", 7),
        (b"A: b\n\r\nx", 7),
    ],
)
def test_headers_without_end_or_beginning(message: bytes, end: int) -> None:
    assert header_end(message) == end


def test_the_mbox_line_is_no_field() -> None:
    assert parse_envelope(b"From a@b Thu Aug 22 12:36:23 2002\nFrom: c@d\n\n").sender == "c@d"


# --- text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain  text\t here ", "plain text here"),
        (b"folded\n  line", "folded line"),
        (b"nul\0and\x1b[2Jescape", "nul and [2Jescape"),
        ("gr\u00fcn".encode(), "gr\u00fcn"),
        (b"gr\xfcn", "gr\u00fcn"),
        (b"=?iso-8859-1?Q?gr=FCn_und_rot?=", "gr\u00fcn und rot"),
        (b"=?ISO-8859-1*de?q?gr=FCn?= x", "gr\u00fcn x"),
        (b"=?utf-8?B?w6TDtg==?=\n =?UTF-8?b?w7w?=", "\u00e4\u00f6\u00fc"),
        (b"=?utf-8?b?w6TD?= =?utf-8?q?=B6?=", "\u00e4\u00f6"),
        (b"a =?us-ascii?q?b?= =?utf-8?q?c?= d", "a bc d"),
        (b"a=?utf-8?q?b?=c", "abc"),
        (b"=?windows-1251?B?z/Do4uXy?=", "\u041f\u0440\u0438\u0432\u0435\u0442"),
        (b"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "\u65e5\u672c"),
        (b"=?iso-8859-1?Q?Fr\xf6sche?=", "Fr\u00f6sche"),
        (b"=?no-such-set?q?gr=FCn?=", "gr\u00fcn"),
        (b"=?zlib_codec?q?x?=", "x"),
        (b"=?utf-8?q?unfinished", "=?utf-8?q?unfinished"),
        (b"=?utf-8?b?!!!?=", ""),
        (b"=?utf-7?q?+2AA-?=", ""),
        (b"=?utf-8?q?a=0D=0ATo:_b?=", "a To: b"),
    ],
)
def test_subjects_become_one_line_of_text(raw: bytes, text: str) -> None:
    assert of(b"Subject: " + raw).subject == text


def test_a_cut_field_is_not_taken_for_another_encoding() -> None:
    raw = "\u00e4".encode() * envelope._FIELD_BYTES_MAX
    assert set(of(b"Subject: x" + raw).subject) == {"x", "\u00e4"}


def test_names_in_any_case_space_before_the_colon_and_the_first_of_two() -> None:
    found = of(b"SUBJECT : one", b"subject: two", b"cC:c@d", b"Resent-To: no", b"X-To: no")
    assert (found.subject, found.to, found.cc) == ("one", "", "c@d")


# --- addresses and ids ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "sender"),
    [
        (b"a@b.example", "a@b.example"),
        (b"<a@b.example>", "a@b.example"),
        (b"Ann Lee <a@b.example>", "Ann Lee <a@b.example>"),
        (b'"Ann Lee" <a@b.example>', "Ann Lee <a@b.example>"),
        (b'"Lee, Ann" <a@b.example>', '"Lee, Ann" <a@b.example>'),
        (b'"A \\"x\\" B" <a@b.example>', '"A \\"x\\" B" <a@b.example>'),
        (b"a@b.example (Ann Lee)", "Ann Lee <a@b.example>"),
        (b"=?utf-8?q?J=C3=B6rg?= <a@b.example>", "J\u00f6rg <a@b.example>"),
        (b'"=?utf-8?q?J=C3=B6rg?=" <a@b.example>', "J\u00f6rg <a@b.example>"),
        (
            b"=?utf-8?q?Bank_=3Creal@bank.example=3E?= <a@b.example>",
            '"Bank <real@bank.example>" <a@b.example>',
        ),
        (b"a@b.example, Carl <c@d.example>", "a@b.example"),
        (b"Ann <a@b.example>, Carl <c@d.example>", "Ann <a@b.example>"),
        (b"Ann <>", "Ann"),
        (b"undisclosed", "undisclosed"),
    ],
)
def test_senders_as_people_write_them(raw: bytes, sender: str) -> None:
    assert of(b"From: " + raw).sender == sender


@steady
@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=30))
def test_no_name_hides_the_address(name: str) -> None:
    message = Message()
    message["From"] = f"{make_header([(name, 'utf-8')]).encode()} <real@b.example>"
    sender = parse_envelope(message.as_bytes()).sender
    assert parseaddr(sender)[1] == "real@b.example"


def test_the_sender_field_stands_in_for_an_absent_from() -> None:
    assert of(b"Sender: a@b").sender == "a@b"
    assert of(b"Sender: a@b", b"From: c@d").sender == "c@d"


@pytest.mark.parametrize(
    ("raw", "message_id"),
    [
        (b"<a@b>", "<a@b>"),
        (b"a@b", "<a@b>"),
        (b"<a\n @b>", "<a@b>"),
        (b"<a@b> (added by c)", "<a@b>"),
        (b"Your message of today <a@b>", "<a@b>"),
        (b"Your message of today", ""),
        (b"<>", ""),
        (b"<a\xe4@b>", "<a\u00e4@b>"),
    ],
)
def test_message_ids(raw: bytes, message_id: str) -> None:
    found = of(b"Message-ID: " + raw, b"In-Reply-To: " + raw)
    assert found.message_id == found.in_reply_to == message_id


def test_a_conversation_is_that_of_its_root() -> None:
    root = of(b"Message-ID: <root@x>", b"Subject: Plans")
    reply = of(b"Message-ID: <1@x>", b"In-Reply-To: <root@x>")
    later = of(b"Message-ID: <2@x>", b"In-Reply-To: <1@x>", b"References: <root@x>\n <1@x>")
    other = of(b"Message-ID: <other@x>", b"Subject: Plans")
    assert root.conversation == reply.conversation == later.conversation != other.conversation


def test_without_ids_a_conversation_is_that_of_its_subject_or_its_own() -> None:
    assert of(b"Subject: Re: Plans").conversation == of(b"Subject: [list] Plans").conversation
    assert parse_envelope(b"\none").conversation != parse_envelope(b"\ntwo").conversation


# --- dates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "moment"),
    [
        (b"Thu, 22 Aug 2002 12:36:23 +0100", "2002-08-22 11:36:23"),
        (b"22 aug 2002 12:36 -0730", "2002-08-22 20:06:00"),
        (b"Thu,22 Aug 2002 12:36:23 GMT", "2002-08-22 12:36:23"),
        (b"Thu, 22 August 2002 12:36:23 PST (Pacific)", "2002-08-22 20:36:23"),
        (b"Thu, 22 Aug 2002 12:36:23 EDT", "2002-08-22 16:36:23"),
        (b"Thu, 22 Aug 2002 12:36:23 XYZ", "2002-08-22 12:36:23"),
        (b"Thu, 22 Aug 2002 12:36:23", "2002-08-22 12:36:23"),
        (b"22 Aug 49 12:36:23 +0000", "2049-08-22 12:36:23"),
        (b"22 Aug 99 12:36:23 +0000", "1999-08-22 12:36:23"),
        (b"22 Aug 102 12:36:23 +0000", "2002-08-22 12:36:23"),
        (b"Thu,\n 22 Aug\n 2002 12:36:23\n +0000", "2002-08-22 12:36:23"),
        (b"Thu Aug 22 12:36:23 2002", "2002-08-22 12:36:23"),
        (b"22-Aug-2002 12:36:23 +0000", "2002-08-22 12:36:23"),
        (b"31 Dec 2016 23:59:60 +0000", "2017-01-01 00:00:00"),
        (b"1 Jan 1960 00:00:00 +0000", "1960-01-01 00:00:00"),
    ],
)
def test_dates_as_people_write_them(raw: bytes, moment: str) -> None:
    assert date_of(raw) == moment


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"yesterday",
        b"99 Foo 2002 12:36:23",
        b"0 Aug 2002 12:00",
        b"1 Jan 2002 99:99",
        b"1 Jan 0000 00:00",
        b":",
    ],
)
def test_what_is_no_date_is_none(raw: bytes) -> None:
    assert of(b"Date: " + raw).date_ms == 0


@steady
@given(st.datetimes(datetime(1900, 1, 1), datetime(2999, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_every_moment_is_read_back(moment: datetime, zone_minutes: int) -> None:
    sign, minutes = "+-"[zone_minutes < 0], abs(zone_minutes)
    zone = f"{sign}{minutes // 60:02}{minutes % 60:02}"
    text = f"{moment.day} {month_abbr[moment.month]} {moment.year} {moment:%H:%M:%S} {zone}"
    expected = int(moment.replace(tzinfo=UTC, microsecond=0).timestamp()) - zone_minutes * 60
    assert of(b"Date: " + text.encode()).date_ms == expected * 1000


# --- importance, attachments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "importance"),
    [
        (b"Importance: High", 2),
        (b"Importance: low", 0),
        (b"X-Priority: 1 (Highest)", 2),
        (b"X-Priority: 3", 1),
        (b"X-Priority: 5", 0),
        (b"Priority: urgent", 2),
        (b"Priority: non-urgent", 0),
        (b"Importance: nonsense\nX-Priority: 2", 2),
        (b"Importance:", 1),
        (b"X-Other: high", 1),
    ],
)
def test_importance(field: bytes, importance: int) -> None:
    assert of(field).importance == importance


MIXED = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n--b\n"


@pytest.mark.parametrize(
    ("message", "has_attachment"),
    [
        (MIXED + b"content-disposition: ATTACHMENT; filename=x\n\nx\n--b--\n", True),
        (MIXED + b"Content-Type: a/b; name=x\nContent-Transfer-Encoding: base64\n\nx\n--b--\n", True),
        (
            MIXED
            + b"Content-Type: image/png; name=x\nContent-ID: <x>\nContent-Transfer-Encoding: base64\n\nx",
            False,
        ),
        (MIXED + b"Content-Type: application/pgp-signature\nContent-Disposition: attachment\n\nx", False),
        (MIXED + b"Content-Type: text/html\n\nContent-Disposition: attachment\n", False),
        (MIXED.replace(b"mixed", b"signed") + b"\n--c\nContent-Disposition: attachment\n\n", True),
        ((MIXED + b"Content-Disposition: attachment\n\n").replace(b"\n", b"\r\n"), True),
        ((MIXED + b"Content-Disposition: attachment\n\n").replace(b"\n", b"\r"), True),
        (b"Content-Type: application/pdf; name=x\nContent-Transfer-Encoding: base64\n\nx", True),
        (b"Content-Disposition: attachment\n\nx", True),
        (b"Content-Type: text/plain\n\n--b\nContent-Disposition: attachment\n\n", False),
    ],
)
def test_attachments_are_parts_kept_apart_from_the_text(message: bytes, has_attachment: bool) -> None:
    assert parse_envelope(message).has_attachment is has_attachment


# --- real mail ------------------------------------------------------------------------------------------


def lists() -> list[bytes]:
    files = sorted((CORPUS / "lists").glob("*.mbox"))
    if not files:
        pytest.skip(f"no mail in {CORPUS / 'lists'}")
    messages = re.split(rb"(?m)^From .*\n", random.Random(1).choice(files).read_bytes())[1:]
    return random.Random(2).sample(messages, min(SAMPLE_COUNT, len(messages)))


def spam() -> list[bytes]:
    archive = CORPUS / "spam" / "spam.tar.gz"
    if not archive.exists():
        pytest.skip(f"no {archive}")
    messages: list[bytes] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)):
                messages.append(file.read())
            if len(messages) == SAMPLE_COUNT:
                break
    return messages


def library_subject(message: Message) -> str | None:
    """The subject as the standard library reads it; None where it cannot."""
    try:
        text = str(make_header(decode_header(str(message.get("subject", "")))))
    except (ValueError, LookupError, UnicodeError):
        return None
    return None if "\ufffd" in text else " ".join(text.split())


@pytest.mark.parametrize("corpus", [lists, spam])
def test_real_mail_is_read_as_the_standard_library_reads_it(corpus: Callable[[], list[bytes]]) -> None:
    for raw in corpus():
        ours, theirs = parse_envelope(raw), email.message_from_bytes(raw)
        if (subject := library_subject(theirs)) is not None:
            assert ours.subject == subject
        assert parseaddr(ours.sender)[1] == parseaddr(str(theirs.get("from", "")))[1]
        parsed = parsedate_tz(str(theirs.get("date", "")))
        assert ours.date_ms == (mktime_tz((*parsed[:9], parsed[9] or 0)) * 1000 if parsed else 0)
        own_id = re.search(r"<[^<>]+>", str(theirs.get("message-id", "")))
        if own_id:
            assert ours.message_id == "".join(own_id[0].split())
