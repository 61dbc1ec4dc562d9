"""The size that IMAP tells is that of the message with every line ended by CR LF."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.content.line_ends import size_with_crlf


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"text"])).map(b"".join))
@settings(deadline=None)
def test_bare_line_feeds_count_twice_and_nothing_else_does(message: bytes) -> None:
    assert size_with_crlf(message) == len(re.sub(rb"(?<!\r)\n", b"\r\n", message))


@pytest.mark.parametrize(
    ("message", "size"),
    [(b"", 0), (b"a\nb\n", 6), (b"a\r\nb\r\n", 6), (b"a\rb\n", 5), (b"\r\r\n\n", 5), (b"\n\r", 3)],
)
def test_line_ends_of_every_kind(message: bytes, size: int) -> None:
    assert size_with_crlf(message) == size
