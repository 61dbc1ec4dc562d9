"""Parts of a message that a person asks for, whatever the message is made of."""

from __future__ import annotations

import pytest

from pillarbox.store.mail import parts


def test_attachments_of_a_message_nested_past_all_sense_are_none() -> None:
    level = b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n"
    nested = b"".join(level % (depth, depth) for depth in range(5000))
    assert parts.attachments(nested + b"Content-Disposition: attachment; filename=a\n\nx\n") == []


@pytest.mark.parametrize("nested", [b"(" * 100_000, b"g:" * 100_000])
def test_recipients_of_fields_nested_past_all_sense_are_those_of_the_other_fields(nested: bytes) -> None:
    found = parts.recipients(b"To: " + nested + b"\nCc: a@example.org\n\n")
    assert [each.address for each in found if each.kind == "cc"] == ["a@example.org"]
