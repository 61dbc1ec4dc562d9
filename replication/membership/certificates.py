"""Keys and certificates of an organisation (docs/nodes.md, "Certificates").

Every server has a key of its own, which never leaves it. A certificate says which store of which tree the key
belongs to, by the URI `urn:pillarbox:TREE:DATABASE`; it is signed by the organisation's authority, whose key
is at one server. All keys are P-256, all times ms UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pillarbox.replication.organisation.entries import fingerprint_of
from pillarbox.store.errors import AccessDenied, InvalidContent, WrongKey
from pillarbox.store.ids import guid_text, parse_guid

DAY_MS: Final = 24 * 60 * 60 * 1000
LIFETIME_MS: Final = 365 * DAY_MS
AUTHORITY_LIFETIME_MS: Final = 20 * 365 * DAY_MS
_EARLY_MS: Final = DAY_MS  # a certificate holds for clocks that are behind, too
REQUEST_BYTES_MAX: Final = 4096
CERTIFICATE_BYTES_MAX: Final = 4096
_URN: Final = "urn:pillarbox:"
_NAME_CHARACTERS_MAX: Final = 64  # of a common name (RFC 5280, ub-common-name)
_HASH: Final = hashes.SHA256()
_UNREADABLE: Final = (  # all that `cryptography` raises for bytes that it does not read
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class Certificate:
    """A certificate that was read; `database` is empty in one of an authority."""

    der: bytes
    tree: bytes
    database: bytes
    begins_ms: int
    ends_ms: int
    public_key: PublicKey

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate: its name everywhere."""
        return fingerprint_of(self.der)

    @property
    def is_authority(self) -> bool:
        """True for the certificate of an authority."""
        return not self.database

    def holds_at(self, now_ms: int) -> bool:
        """True while the certificate has begun and has not ended."""
        return self.begins_ms <= now_ms < self.ends_ms

    def has_key(self, key: PublicKey) -> bool:
        """True when the certificate is of this key."""
        return _public_bytes(self.public_key) == _public_bytes(key)


@dataclass(frozen=True)
class Authority:
    """The authority of an organisation where its key is: what signs certificates."""

    key: Key
    certificate: Certificate


# -- keys


def new_key() -> Key:
    """A new key, of the system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def key_text(key: Key, passphrase: bytes = b"") -> bytes:
    """A key as PEM (PKCS #8), encrypted where there is a passphrase."""
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def read_key(text: bytes, passphrase: bytes = b"") -> Key:
    """A key out of PEM. Raises WrongKey for another passphrase, InvalidContent for anything else."""
    try:
        key = load_pem_private_key(text, passphrase or None)
    except TypeError as error:  # one that is encrypted and has no passphrase, or the other way round
        raise WrongKey(
            "the key is encrypted" if not passphrase else "the key is not encrypted",
            hint="give its passphrase" if not passphrase else "leave the passphrase out",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase:
            raise WrongKey("this passphrase does not open the key", hint="give that of the export") from error
        raise InvalidContent("this is no key in PEM", hint="use a copy of the file") from error
    if not isinstance(key, Key) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidContent("the key is not of the curve P-256", hint="use one that Pillarbox has made")
    return key


# -- certificates


def read_certificate(der: bytes) -> Certificate:
    """A certificate of a server or an authority, out of DER that may come from anyone; no signature is looked
    at. Raises InvalidContent."""
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise _invalid("certificate", "it is too long")
    try:
        read = x509.load_der_x509_certificate(der)
        key, begins, ends = read.public_key(), read.not_valid_before_utc, read.not_valid_after_utc
        is_authority = read.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        tree, database = _urn_of(read.extensions)
    except _UNREADABLE as error:
        raise _invalid("certificate", str(error)) from error
    if read.serial_number < 1:  # RFC 5280, 4.1.2.2; `cryptography` only warns of it
        raise _invalid("certificate", "its serial number is not positive")
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _invalid("certificate", "its key is not of the curve P-256")
    if is_authority == bool(database):
        raise _invalid("certificate", "its name is not that of a server or an authority")
    return Certificate(der, tree, database, _ms(begins), _ms(ends), key)


def new_authority(tree: bytes, now_ms: int) -> Authority:
    """A new authority of a tree (GUID), which signs its own certificate."""
    key, name = new_key(), _name(f"Pillarbox organisation {guid_text(tree)}")
    public = key.public_key()
    builder = (
        _builder(name, name, public, now_ms, now_ms + AUTHORITY_LIFETIME_MS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_alternative_name(tree, b""), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return Authority(key, read_certificate(builder.sign(key, _HASH).public_bytes(Encoding.DER)))


def certify(authority: Authority, database: bytes, key: PublicKey, now_ms: int) -> Certificate:
    """A certificate for the key of a store of the authority's tree, for a year or to the authority's end."""
    signer = authority.certificate
    subject = _name(f"Pillarbox store {guid_text(database)}")
    issuer = x509.load_der_x509_certificate(signer.der).subject
    builder = (
        _builder(subject, issuer, key, now_ms, min(now_ms + LIFETIME_MS, signer.ends_ms))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(_alternative_name(signer.tree, database), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key), critical=False)
    )
    return read_certificate(builder.sign(authority.key, _HASH).public_bytes(Encoding.DER))


def is_signed_by(certificate: Certificate, authorities: Iterable[Certificate], now_ms: int) -> bool:
    """True when one of these authorities has signed a store's certificate, and both hold at `now_ms`."""
    return (
        certificate.holds_at(now_ms)
        and not certificate.is_authority
        and any(
            authority.is_authority
            and authority.tree == certificate.tree
            and authority.holds_at(now_ms)
            and _has_signed(authority, certificate)
            for authority in authorities
        )
    )


def require_key_of(authority: Certificate, key: Key) -> Authority:
    """An authority with its key. Raises WrongKey for a key that is another's."""
    if not authority.is_authority or not authority.has_key(key.public_key()):
        raise WrongKey("the key is not that of the certificate", hint="use the two files of one export")
    return Authority(key, authority)


# -- requests


@dataclass(frozen=True)
class SigningRequest:
    """A request for a certificate that was read, and whose maker has the key."""

    tree: bytes
    database: bytes
    public_key: PublicKey


def signing_request(key: Key, tree: bytes, database: bytes) -> bytes:
    """A request (PKCS #10, DER) for a certificate of a store, signed by its own key."""
    builder = x509.CertificateSigningRequestBuilder(
        _name(f"Pillarbox store {guid_text(database)}")
    ).add_extension(_alternative_name(tree, database), critical=False)
    return builder.sign(key, _HASH).public_bytes(Encoding.DER)


def read_request(der: bytes) -> SigningRequest:
    """A request for a certificate, out of bytes that may come from anyone.

    Raises InvalidContent, AccessDenied where its maker has not shown to have the key.
    """
    if len(der) > REQUEST_BYTES_MAX:
        raise _invalid("request", "it is too long")
    try:
        read = x509.load_der_x509_csr(der)
        key, is_own = read.public_key(), read.is_signature_valid
        tree, database = _urn_of(read.extensions)
    except _UNREADABLE as error:
        raise _invalid("request", str(error)) from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1) or not database:
        raise _invalid("request", "its key is not of the curve P-256, or its name not that of a store")
    if not is_own:
        raise AccessDenied("the signature of a request for a certificate does not hold", hint="make it anew")
    return SigningRequest(tree, database, key)


# -- pieces


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, now_ms: int, ends_ms: int
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=_time(now_ms - _EARLY_MS),
        not_valid_after=_time(ends_ms),
    )


def _has_signed(authority: Certificate, certificate: Certificate) -> bool:
    read = x509.load_der_x509_certificate(certificate.der)
    try:
        read.verify_directly_issued_by(x509.load_der_x509_certificate(authority.der))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_NAME_CHARACTERS_MAX])])


def _alternative_name(tree: bytes, database: bytes) -> x509.SubjectAlternativeName:
    uri = _URN + ":".join(guid_text(guid) for guid in (tree, database) if guid)
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _urn_of(extensions: x509.Extensions) -> tuple[bytes, bytes]:
    """The tree and the store, empty for none, that the one URI of a certificate or request names."""
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    tree, _, database = (uris[0] if len(uris) == 1 else "").removeprefix(_URN).partition(":")
    return parse_guid(tree), parse_guid(database) if database else b""


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _public_bytes(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _time(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms // 1000, UTC)


def _ms(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _invalid(kind: str, reason: str) -> InvalidContent:
    return InvalidContent(f"not a {kind} of a Pillarbox organisation: {reason}")
