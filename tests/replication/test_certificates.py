"""Keys, requests and certificates: of whom, by whom, for how long; whatever bytes come is read or refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.replication.membership.certificates import (
    AUTHORITY_LIFETIME_MS,
    DAY_MS,
    LIFETIME_MS,
    certify,
    is_signed_by,
    key_text,
    new_authority,
    new_key,
    read_certificate,
    read_key,
    read_request,
    require_key_of,
    signing_request,
)
from pillarbox.store.errors import AccessDenied, InvalidContent, WrongKey
from pillarbox.store.ids import guid_text

TREE, OTHER_TREE = b"t" * 16, b"o" * 16
A, B = b"a" * 16, b"b" * 16
NOW_MS = 1_800_000_000_000
AUTHORITY = new_authority(TREE, NOW_MS)
KEY = new_key()
REQUEST = signing_request(KEY, TREE, A)
CERTIFICATE = certify(AUTHORITY, A, KEY.public_key(), NOW_MS)


def test_a_certificate_says_its_store_its_tree_and_its_time() -> None:
    read = read_certificate(CERTIFICATE.der)
    assert read == CERTIFICATE
    assert (read.tree, read.database, read.is_authority) == (TREE, A, False)
    assert read.has_key(KEY.public_key()) and not read.has_key(new_key().public_key())
    assert (read.begins_ms, read.ends_ms) == (NOW_MS - DAY_MS, NOW_MS + LIFETIME_MS)
    uri = x509.load_der_x509_certificate(read.der).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert uri.value.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"urn:pillarbox:{guid_text(TREE)}:{guid_text(A)}"
    ]


def test_the_chain_is_one_that_strict_verifiers_take() -> None:
    """Python 3.13 verifies strictly (RFC 5280) unless told otherwise."""
    store = verification.Store([x509.load_der_x509_certificate(AUTHORITY.certificate.der)])
    verifier = (
        verification.PolicyBuilder().store(store).time(datetime.fromtimestamp(NOW_MS / 1000, UTC))
    ).build_client_verifier()
    found = verifier.verify(x509.load_der_x509_certificate(CERTIFICATE.der), [])
    assert len(found.chain) == 2


def test_a_certificate_holds_from_a_day_early_to_its_end_and_no_longer() -> None:
    authorities = [AUTHORITY.certificate]
    for now_ms, holds in (
        (NOW_MS - DAY_MS - 1, False),
        (NOW_MS - DAY_MS, True),
        (NOW_MS + LIFETIME_MS - 1, True),
        (NOW_MS + LIFETIME_MS, False),
    ):
        assert is_signed_by(CERTIFICATE, authorities, now_ms) is holds


def test_no_certificate_outlives_its_authority() -> None:
    late_ms = NOW_MS + AUTHORITY_LIFETIME_MS - DAY_MS
    assert certify(AUTHORITY, A, KEY.public_key(), late_ms).ends_ms == AUTHORITY.certificate.ends_ms


def test_only_an_authority_of_the_same_tree_has_signed_it() -> None:
    another, elsewhere = new_authority(TREE, NOW_MS), new_authority(OTHER_TREE, NOW_MS)
    assert is_signed_by(CERTIFICATE, [another.certificate, AUTHORITY.certificate], NOW_MS)
    assert not is_signed_by(CERTIFICATE, [another.certificate, elsewhere.certificate], NOW_MS)
    assert not is_signed_by(CERTIFICATE, [], NOW_MS)
    assert not is_signed_by(CERTIFICATE, [CERTIFICATE], NOW_MS)


def test_a_certificate_of_another_tree_by_the_same_key_is_not_signed() -> None:
    forged = require_key_of(AUTHORITY.certificate, AUTHORITY.key)
    elsewhere = certify(forged, A, KEY.public_key(), NOW_MS)
    other = new_authority(OTHER_TREE, NOW_MS).certificate
    assert not is_signed_by(elsewhere, [other], NOW_MS)


def test_a_request_shows_who_asks_and_that_he_has_the_key() -> None:
    read = read_request(signing_request(KEY, TREE, A))
    assert (read.tree, read.database) == (TREE, A)
    assert certify(AUTHORITY, read.database, read.public_key, NOW_MS).has_key(KEY.public_key())


def test_a_request_for_the_key_of_somebody_else_is_refused() -> None:
    mine, theirs = signing_request(new_key(), TREE, A), signing_request(KEY, TREE, A)
    public = [
        x509.load_der_x509_csr(each)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for each in (mine, theirs)
    ]
    with pytest.raises(AccessDenied, match="does not hold"):
        read_request(mine.replace(*public))


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_keys_of_other_curves_are_refused(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    with pytest.raises(InvalidContent, match="P-256"):
        read_key(key_text(key))
    with pytest.raises(InvalidContent, match="P-256"):
        read_request(signing_request(key, TREE, A))


def test_certificates_that_others_made_for_something_else_are_refused() -> None:
    name = x509.Name([])
    made = (
        x509.CertificateBuilder(name, name, KEY.public_key(), 5)
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2030, 1, 1))
        .sign(KEY, hashes.SHA256())
    )
    with pytest.raises(InvalidContent):
        read_certificate(made.public_bytes(serialization.Encoding.DER))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@settings(deadline=None, max_examples=50)
@given(st.data())
def test_bytes_that_were_changed_are_read_or_refused(data: st.DataObject) -> None:
    for whole, read in ((CERTIFICATE.der, read_certificate), (REQUEST, read_request)):
        bad = bytearray(whole)
        for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
            bad[place] ^= data.draw(st.integers(1, 255))
        with suppress(InvalidContent, AccessDenied):
            read(bytes(bad))


VERSION = b"\xa0\x03\x02\x01"  # up to the number of the version; in a certificate the serial number follows
OTHER_KIND = b"\xa3"  # of a name: EDIPartyName, where a URI stood


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize(
    ("read", "whole", "place", "value"),
    [
        (read_certificate, CERTIFICATE.der, CERTIFICATE.der.index(VERSION) + 4, b"\x03"),
        (read_certificate, CERTIFICATE.der, CERTIFICATE.der.index(VERSION) + 7, b"\x80"),
        (read_certificate, CERTIFICATE.der, CERTIFICATE.der.index(b"urn:") - 2, OTHER_KIND),
        (read_request, REQUEST, REQUEST.index(b"\x02\x01\x00") + 2, b"\x01"),
        (read_request, REQUEST, REQUEST.index(b"urn:") - 2, OTHER_KIND),
    ],
    ids=["version", "serial number", "name", "version of a request", "name in a request"],
)
def test_what_the_library_does_not_know_is_refused(
    read: Callable[[bytes], object], whole: bytes, place: int, value: bytes
) -> None:
    read(whole)
    with pytest.raises(InvalidContent):
        read(whole[:place] + value + whole[place + 1 :])


def test_what_is_too_long_is_not_even_parsed() -> None:
    for read in (read_certificate, read_request):
        with pytest.raises(InvalidContent, match="too long"):
            read(bytes(5000))


def test_a_key_is_opened_by_its_passphrase_alone() -> None:
    sealed = key_text(KEY, b"secret")
    assert b"ENCRYPTED" in sealed
    assert read_key(sealed, b"secret").private_numbers() == KEY.private_numbers()
    assert read_key(key_text(KEY)).private_numbers() == KEY.private_numbers()
    for text, passphrase in ((sealed, b"wrong"), (sealed, b""), (key_text(KEY), b"secret")):
        with pytest.raises(WrongKey):
            read_key(text, passphrase)
    with pytest.raises(InvalidContent):
        read_key(b"no key")


def test_an_authority_needs_its_own_key() -> None:
    assert require_key_of(AUTHORITY.certificate, AUTHORITY.key) == AUTHORITY
    for certificate, key in ((AUTHORITY.certificate, KEY), (CERTIFICATE, KEY)):
        with pytest.raises(WrongKey):
            require_key_of(certificate, key)
