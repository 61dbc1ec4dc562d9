"""Invitations: good once, for a day, for one key; and the words by which a server enrols."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.replication.membership.certificates import (
    certify,
    new_authority,
    new_key,
    read_request,
    signing_request,
)
from pillarbox.replication.membership.enrolment import (
    EnrolmentRequest,
    Welcome,
    check_inviter,
    check_welcome,
    refusal,
)
from pillarbox.replication.membership.invitation import (
    LIFETIME_MS,
    Invitation,
    Token,
    admit,
    format_invitations,
    invite,
    living,
    parse_invitations,
    read_token,
)
from pillarbox.store.errors import (
    AccessDenied,
    Corrupt,
    InvalidArgument,
    InvalidContent,
    InvalidSetting,
    PillarboxError,
    UnsupportedVersion,
)

TREE = b"t" * 16
A, B = b"a" * 16, b"b" * 16
NOW_MS = 1_800_000_000_000
AUTHORITY = new_authority(TREE, NOW_MS)
KEY = new_key()
REQUEST = read_request(signing_request(KEY, TREE, B))
DIGEST = b"k" * 32


def invited() -> tuple[Token, Invitation]:
    fingerprint = AUTHORITY.certificate.fingerprint
    return invite(
        random.Random(5).randbytes, TREE, fingerprint, ("b1.example.org:7337",), "b2", "berlin", NOW_MS
    )


def test_a_token_comes_back_as_it_was_however_it_was_pasted() -> None:
    token, _ = invited()
    text = str(token)
    assert read_token(text) == read_token(f"  {text[:30]}\n  {text[30:]}\n") == token


def test_the_inviter_keeps_no_secret() -> None:
    token, invitation = invited()
    kept = format_invitations([invitation])
    assert token.secret not in kept and token.secret.hex().encode() not in kept


@pytest.mark.parametrize(
    "text", ["", "x", "pillarbox-invitation-1.", "pillarbox-invitation-1.AAAA", "pillarbox-invitation-1.é"]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        read_token(text)


def test_a_token_of_a_newer_program_says_so() -> None:
    with pytest.raises(UnsupportedVersion):
        read_token("pillarbox-invitation-2.AAAA")


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 200), st.characters(codec="ascii"))
def test_a_token_with_a_wrong_character_is_read_or_refused(place: int, by: str) -> None:
    text = str(invited()[0])
    with suppress(InvalidArgument, UnsupportedVersion):
        read_token(text[:place] + by + text[place + 1 :])


def test_an_invitation_lets_one_key_in_which_may_try_again() -> None:
    token, invitation = invited()
    used = admit([invitation], token.secret, REQUEST, DIGEST, NOW_MS)
    assert admit([used], token.secret, REQUEST, DIGEST, NOW_MS) == used
    with pytest.raises(AccessDenied, match="was used"):
        admit([used], token.secret, REQUEST, b"x" * 32, NOW_MS)
    other = read_request(signing_request(KEY, TREE, A))
    with pytest.raises(AccessDenied, match="was used"):
        admit([used], token.secret, other, DIGEST, NOW_MS)


def test_an_invitation_ends_after_a_day() -> None:
    token, invitation = invited()
    admit([invitation], token.secret, REQUEST, DIGEST, NOW_MS + LIFETIME_MS - 1)
    with pytest.raises(AccessDenied, match="has ended"):
        admit([invitation], token.secret, REQUEST, DIGEST, NOW_MS + LIFETIME_MS)
    assert living([invitation], NOW_MS + LIFETIME_MS - 1) == (invitation,)
    assert living([invitation], NOW_MS + LIFETIME_MS) == ()


def test_another_secret_opens_nothing() -> None:
    _, invitation = invited()
    with pytest.raises(AccessDenied, match="no such"):
        admit([invitation], b"x" * 32, REQUEST, DIGEST, NOW_MS)


def test_invitations_are_kept_in_a_file() -> None:
    token, invitation = invited()
    used = admit([invitation], token.secret, REQUEST, DIGEST, NOW_MS)
    assert parse_invitations(format_invitations([invitation, used]), "f") == (invitation, used)
    with pytest.raises(UnsupportedVersion):
        parse_invitations(b'{"format": "pillarbox-invitations", "version": 2}', "f")
    for damaged in (b"", b"[]", b"{}", format_invitations([invitation]).replace(b"ends_ms", b"end")):
        with pytest.raises(Corrupt):
            parse_invitations(damaged, "f")


# --- the words of an enrolment ------------------------------------------------------------------------------


def test_a_request_to_enrol_comes_as_it_was_sent() -> None:
    request = EnrolmentRequest(b"s" * 32, signing_request(KEY, TREE, B), ("b2:7337",))
    assert EnrolmentRequest.decode(request.encode()) == request


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", InvalidContent),
        (b"\xc1", InvalidContent),
        (b"\x91" * 5000, InvalidContent),
        (msgpack.packb([1]), InvalidContent),
        (msgpack.packb([2, b"", b"", []]), UnsupportedVersion),
        (msgpack.packb([1, b"s", b"no request", []]), InvalidContent),
        (msgpack.packb([1, b"s", signing_request(KEY, TREE, B), ["x"]]), InvalidSetting),
        (msgpack.packb([1, b"s", signing_request(KEY, TREE, B), [5]]), InvalidContent),
        (msgpack.packb([1, b"s", signing_request(KEY, TREE, B), ["b:1"] * 17]), InvalidContent),
        (bytes(70_000), InvalidContent),
    ],
)
def test_any_other_request_is_refused(data: bytes, error: type[PillarboxError]) -> None:
    with pytest.raises(error):
        EnrolmentRequest.decode(data)


def test_a_welcome_or_a_refusal_comes_as_it_was_sent() -> None:
    welcome = Welcome(certify(AUTHORITY, B, KEY.public_key(), NOW_MS).der, {"preset": "prompt"})
    assert Welcome.decode(welcome.encode()) == welcome
    with pytest.raises(AccessDenied, match="the invitation was used") as refused:
        Welcome.decode(refusal(AccessDenied("the invitation was used", hint="make another one")))
    assert refused.value.hint == "make another one"
    for data in (b"", msgpack.packb([1, b"", {}]), msgpack.packb([1, welcome.certificate, {"a": 5}])):
        with pytest.raises(InvalidContent):
            Welcome.decode(data)


def test_an_inviter_is_known_by_the_authority_of_the_token() -> None:
    token, _ = invited()
    greeting, mine = AUTHORITY.certificate.der, certify(AUTHORITY, A, new_key().public_key(), NOW_MS)
    assert check_inviter(token, greeting, mine.der, NOW_MS) == AUTHORITY.certificate
    other = new_authority(TREE, NOW_MS)
    theirs = certify(other, A, new_key().public_key(), NOW_MS)
    for shown in (other.certificate.der, greeting):
        with pytest.raises(AccessDenied):
            check_inviter(token, shown, theirs.der, NOW_MS)
    with pytest.raises(AccessDenied):
        check_inviter(replace(token, tree=b"x" * 16), greeting, mine.der, NOW_MS)
    with pytest.raises(AccessDenied):  # an authority is no server
        check_inviter(token, greeting, greeting, NOW_MS)


def test_a_certificate_of_another_store_is_no_welcome() -> None:
    token, _ = invited()
    for database, authority, is_good in (
        (B, AUTHORITY, True),
        (A, AUTHORITY, False),
        (B, new_authority(TREE, NOW_MS), False),
    ):
        welcome = Welcome(certify(authority, database, KEY.public_key(), NOW_MS).der, {})
        if is_good:
            check_welcome(welcome, token, B, AUTHORITY.certificate, NOW_MS)
        else:
            with pytest.raises(AccessDenied):
                check_welcome(welcome, token, B, AUTHORITY.certificate, NOW_MS)
