"""What people carry between servers, as version 1 wrote it: read today, and still written so."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from pillarbox.replication.membership.certificates import read_certificate, read_request
from pillarbox.replication.membership.invitation import (
    Invitation,
    Token,
    format_invitations,
    parse_invitations,
    read_token,
)
from pillarbox.store.errors import InvalidContent, UnsupportedVersion, WrongKey
from pillarbox.tools.operations.membership import (
    APPROVAL_FORMAT,
    REQUEST_FORMAT,
    read_export,
    read_file,
)

GOLDEN = Path(__file__).parents[1] / "data" / "replication"
TREE, PARIS = b"t" * 16, b"P" * 16
MADE_MS = 1_700_000_000_000
PASSPHRASE = b"correct horse"
CHANGED = "the format changed: a new version"


def test_a_token_of_version_1_is_still_read() -> None:
    token = Token(TREE, b"f" * 32, b"s" * 32, ("b1.example.org:7337", "[2001:db8::1]:7337"))
    text = (GOLDEN / "token_1.txt").read_text().strip()
    assert read_token(text) == token
    assert str(token) == text, CHANGED


def test_invitations_of_version_1_are_still_read() -> None:
    invitations = (
        Invitation(b"d" * 32, "b2", "berlin", MADE_MS + 1),
        Invitation(b"e" * 32, "p1", "paris", MADE_MS + 2, (PARIS, b"k" * 32)),
    )
    data = (GOLDEN / "invitations_1.json").read_bytes()
    assert parse_invitations(data, "invitations") == invitations
    assert format_invitations(invitations) == data, CHANGED


def test_a_request_of_version_1_is_still_read() -> None:
    fields = read_file((GOLDEN / "request_1.json").read_bytes(), REQUEST_FORMAT)
    request = read_request(b64decode(fields["request"]))
    assert (request.tree, request.database) == (bytes(16), PARIS)
    assert fields["addresses"] == ["p1.example.org:7337"]


def test_an_approval_of_version_1_is_still_read() -> None:
    fields = read_file((GOLDEN / "approval_1.json").read_bytes(), APPROVAL_FORMAT)
    certificate = read_certificate(b64decode(fields["certificate"]))
    assert (certificate.tree, certificate.database) == (TREE, PARIS)
    assert fields["entries"] == {"name": "Example", "site/berlin/state": "active"}


def test_an_export_of_an_authority_of_version_1_is_still_read() -> None:
    data = (GOLDEN / "authority_1.pem").read_bytes()
    authority = read_export(data, PASSPHRASE)
    assert authority.certificate.tree == TREE
    assert authority.certificate.has_key(authority.key.public_key())
    with pytest.raises(WrongKey):
        read_export(data, b"another")


def test_an_export_of_another_version_or_kind_is_refused() -> None:
    data = (GOLDEN / "authority_1.pem").read_bytes()
    first, rest = data.split(b"\n", 1)
    assert first == b"pillarbox-authority 1"
    with pytest.raises(UnsupportedVersion, match="version 2"):
        read_export(b"pillarbox-authority 2\n" + rest, PASSPHRASE)
    for other in (rest, b"pillarbox-something 1\n" + rest, first, b""):
        with pytest.raises(InvalidContent):
            read_export(other, PASSPHRASE)
