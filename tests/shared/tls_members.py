"""Members of an organisation with keys and certificates of their own, for tests with real connections."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pillarbox.replication.membership.certificates import (
    Authority,
    Certificate,
    Key,
    certify,
    key_text,
    new_authority,
    new_key,
)
from pillarbox.replication.transports.direct import Credentials
from pillarbox.replication.transports.transport import Member
from pillarbox.store.clock import SystemClock

TREE = b"t" * 16


class Organisation:
    """An authority, and the files of the stores that it has signed the keys of."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self.now_ms = SystemClock().now_ms()
        self.authority = new_authority(TREE, self.now_ms)
        self.keys: dict[bytes, Key] = {}
        self.certificates: dict[bytes, Certificate] = {}

    def credentials(
        self, database: bytes, *, authority: Authority | None = None, now_ms: int = 0
    ) -> Credentials:
        """Files of a store; with a new certificate of that authority or time, where one is given."""
        key = self.keys.setdefault(database, new_key())
        if authority or now_ms or database not in self.certificates:
            self.certificates[database] = certify(
                authority or self.authority, database, key.public_key(), now_ms or self.now_ms
            )
        certificate = self.certificates[database]
        self._count += 1
        place = self._directory / str(self._count)
        place.mkdir(parents=True)
        pem = x509.load_der_x509_certificate(certificate.der).public_bytes(Encoding.PEM)
        (place / "certificate.pem").write_bytes(pem)
        (place / "key.pem").write_bytes(key_text(key))
        return Credentials(place / "certificate.pem", place / "key.pem", (self.authority.certificate.der,))

    def member(self, database: bytes, *addresses: str) -> Member:
        """A store as others know it: by its last certificate."""
        fingerprints = frozenset(
            [self.certificates[database].fingerprint] if database in self.certificates else []
        )
        return Member(database, f"store-{database[0]}", addresses, fingerprints)
