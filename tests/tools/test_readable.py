"""Messages to be read: decoded text, attachments by name, whatever the bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.store.mail.parts import Attachment
from pillarbox.tools.readable import readable

DATA = Path(__file__).parents[1] / "data"

MIXED = b"""\
Subject: x
Content-Type: multipart/mixed; boundary=B

--B
Content-Type: multipart/alternative; boundary=C

--C
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Gr=FC=DFe
--C
Content-Type: text/html

<b>Not this</b>
--C--
--B
Content-Type: application/pdf
Content-Disposition: attachment; filename="=?utf-8?q?B=C3=BCcher?="
Content-Transfer-Encoding: base64

AAAA
--B
Content-Type: text/plain; name=notes.txt

attached text
--B--
"""


def test_the_plain_text_is_decoded_and_attachments_are_named() -> None:
    found = readable(MIXED)
    assert found.text == "Grüße\n"
    assert found.attachments == [
        Attachment("Bücher", "application/pdf"),
        Attachment("notes.txt", "text/plain"),
    ]


def test_html_alone_is_shown_without_its_marks() -> None:
    head = b"<head><title>T</title><style>x {}</style></head>"
    html = head + b"<p>One&amp;<b>two</b><br>three<script>bad()</script></p>"
    assert readable(b"Content-Type: text/html\n\n" + html).text == "One&two\nthree\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"no header at all",
        b"Content-Type: text/plain; charset=no-such-charset\n\n\xff\n",
        b"Content-Type: text/plain; charset=\xff\n\nx\n",
        b"Content-Type: multipart/mixed\n\nno boundary\n",
        b"Content-Transfer-Encoding: base64\n\n!!!\n",
        b"Content-Disposition: attachment; filename*=bad''%ff; filename=\"=?x?q?=ff?=\"\n\nx\n",
        pytest.param(
            b"".join(
                b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (at, at) for at in range(3000)
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_nothing_it_is_given_makes_it_fail(raw: bytes) -> None:
    found = readable(raw)
    assert isinstance(found.text, str) and isinstance(found.attachments, list)


@given(st.binary(max_size=300))
def test_any_bytes_are_readable(data: bytes) -> None:
    for head in (b"", b"Content-Type: text/html\n\n", b"Content-Type: multipart/mixed; boundary=B\n\n--B\n"):
        assert isinstance(readable(head + data).text, str)


@pytest.mark.parametrize("piece", [b"<", b"<!--", b"<a b='", b"<script>", b"<script", b"&#"])
def test_bad_markup_costs_no_more_than_its_length(piece: bytes) -> None:
    # In quadratic time this would take hours.
    assert isinstance(readable(b"Content-Type: text/html\n\n" + piece * (1_000_000 // len(piece))).text, str)


def test_real_mail_has_text() -> None:
    for path in (DATA / "spam").iterdir():
        assert readable(path.read_bytes()).text.strip(), path
