"""The files by which a server is a member of an organisation: its key, its certificate, what is local to it.

They lie in `<server>/replication-node` (docs/nodes.md, "Files"). Each is written aside, flushed and renamed;
those with secrets are their owner's alone from the beginning.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificates

from pillarbox.replication.membership.certificates import (
    Authority,
    Certificate,
    Key,
    key_text,
    read_certificate,
    read_key,
    require_key_of,
)
from pillarbox.replication.membership.invitation import Invitation, format_invitations, parse_invitations
from pillarbox.replication.organisation.addresses import split_address
from pillarbox.replication.transports.nats_settings import (
    NatsSettings,
    nats_table,
    parse_nats_settings,
)
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.stream import disk_error, flush_directory
from pillarbox.store.errors import Corrupt, InvalidSetting, NotFound, UnsupportedVersion
from pillarbox.store.server_config import REPLICATION_NODE
from pillarbox.store.toml_text import format_toml

NODE_FORMAT: Final = "pillarbox-node"
ENTRIES_FORMAT: Final = "pillarbox-first-entries"
VERSION: Final = 1
_KEYS: Final = ("format", "version", "listen", "spool", "spool_bytes_max", "nats")
SPOOL_BYTES_MAX: Final = 1 << 30


class NodeSettings(NamedTuple):
    """The settings that are local to a server: addresses to listen at (none for a server that only dials,
    None where nothing was said of it), and the directory of its spool (empty for none), in which at most
    `spool_bytes_max` wait for each other server; and where NATS is, if it has that."""

    listen: tuple[str, ...] | None = None
    spool: str = ""
    spool_bytes_max: int = SPOOL_BYTES_MAX
    nats: NatsSettings | None = None


class MemberFiles:
    """The files of one server. Every call raises Corrupt, NoPermission or DiskFull."""

    def __init__(self, server: PathLike) -> None:
        self.directory = as_path(server, "server") / REPLICATION_NODE
        self.key_file = self.directory / "key.pem"
        self.certificate_file = self.directory / "certificate.pem"
        self._authority_key = self.directory / "authority-key.pem"
        self._authority = self.directory / "authority.pem"
        self._invitations = self.directory / "invitations"
        self._settings = self.directory / "node.toml"
        self._entries = self.directory / "first-entries"

    # -- keys and certificates

    def key(self) -> Key | None:
        """The server's own key, None before there is one."""
        text = self._read(self.key_file)
        return None if text is None else read_key(text)

    def keep_key(self, key: Key) -> None:
        """Keep the server's own key."""
        self._write(self.key_file, key_text(key), is_secret=True)

    def certificate(self) -> Certificate | None:
        """The certificate that the server shows, None before there is one."""
        return self._certificate(self.certificate_file)

    def keep_certificate(self, certificate: Certificate) -> None:
        """Keep the certificate that the server shows."""
        self._write(self.certificate_file, pem_of([certificate.der]))

    def authority(self) -> Authority | None:
        """The organisation's authority, where this server has its key."""
        text, certificate = self._read(self._authority_key), self._certificate(self._authority)
        return None if text is None or certificate is None else require_key_of(certificate, read_key(text))

    def keep_authority(self, authority: Authority) -> None:
        """Keep the authority and its key here."""
        self._write(self._authority, pem_of([authority.certificate.der]))
        self._write(self._authority_key, key_text(authority.key), is_secret=True)

    def drop_authority(self) -> None:
        """Let the authority's key go: another server has it."""
        with suppress(FileNotFoundError):
            self._authority_key.unlink()
            flush_directory(self.directory)

    def _certificate(self, path: Path) -> Certificate | None:
        text = self._read(path)
        if text is None:
            return None
        ders = ders_of(text)
        if len(ders) != 1:
            raise Corrupt(f"{path} holds {len(ders)} certificates", file=str(path), hint="join anew")
        return read_certificate(ders[0])

    # -- invitations

    def invitations(self) -> tuple[Invitation, ...]:
        """The invitations that this server has given."""
        data = self._read(self._invitations)
        return () if data is None else parse_invitations(data, str(self._invitations))

    def keep_invitations(self, invitations: Iterable[Invitation]) -> None:
        """Keep the invitations that this server has given."""
        self._write(self._invitations, format_invitations(invitations), is_secret=True)

    # -- what is local

    def settings(self) -> NodeSettings:
        """The settings that are local. Raises InvalidSetting, UnsupportedVersion."""
        data = self._read(self._settings)
        if data is None:
            return NodeSettings()
        try:
            return _parse_settings(tomllib.loads(data.decode()), str(self._settings))
        except (ValueError, InvalidSetting) as error:
            raise InvalidSetting(
                f"{self._settings}: {error}", hint="correct it, or put back a copy of it"
            ) from error

    def keep_settings(self, settings: NodeSettings) -> None:
        """Keep the settings that are local; comments in the file stay."""
        before = (self._read(self._settings) or b"").decode()
        table: dict[str, Any] = {"format": NODE_FORMAT, "version": VERSION}
        if settings.listen is not None:
            table["listen"] = list(settings.listen)
        if settings.spool:
            table["spool"] = settings.spool
        if settings.spool_bytes_max != SPOOL_BYTES_MAX:
            table["spool_bytes_max"] = settings.spool_bytes_max
        if settings.nats is not None:
            table["nats"] = nats_table(settings.nats)
        self._write(self._settings, format_toml(table, before).encode())

    def first_entries(self) -> dict[str, str]:
        """The organisation's entries as they were when this server joined; it goes by them until its store
        has them."""
        data = self._read(self._entries)
        if data is None:
            return {}
        try:
            table = json.loads(data)
            if table["format"] != ENTRIES_FORMAT or table["version"] != VERSION:
                raise ValueError("it is another file, or of another version")
            return {str(key): str(value) for key, value in table["entries"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"{self._entries}: {error}", file=str(self._entries), hint="join anew") from error

    def keep_first_entries(self, entries: Mapping[str, str]) -> None:
        """Keep the organisation's entries as they are when this server joins."""
        table = {"format": ENTRIES_FORMAT, "version": VERSION, "entries": dict(entries)}
        self._write(self._entries, json.dumps(table, indent=1).encode())

    # -- pieces

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error(error, str(path)) from error

    def _write(self, path: Path, data: bytes, *, is_secret: bool = False) -> None:
        new = path.with_name(path.name + ".new")
        try:
            if not self.directory.exists():
                self.directory.mkdir(mode=0o700, exist_ok=True)
                flush_directory(self.directory.parent)
            new.unlink(missing_ok=True)
            mode = 0o600 if is_secret else 0o644
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            flush_directory(self.directory)
        except OSError as error:
            raise disk_error(error, str(path)) from error


def pem_of(ders: Iterable[bytes]) -> bytes:
    """Certificates as PEM."""
    return b"".join(load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


def ders_of(text: bytes) -> list[bytes]:
    """The certificates in PEM. Raises NotFound where there is none."""
    try:
        return [each.public_bytes(Encoding.DER) for each in load_pem_x509_certificates(text)]
    except ValueError as error:
        raise NotFound("there is no certificate in PEM", hint="use a copy of the file") from error


def _parse_settings(table: Mapping[str, Any], file: str) -> NodeSettings:
    if table.get("format") != NODE_FORMAT:
        raise InvalidSetting(f'it does not say format = "{NODE_FORMAT}"')
    if table.get("version") != VERSION:
        raise UnsupportedVersion(f"{file} is of version {table.get('version')}", hint="use a newer program")
    if unknown := [key for key in table if key not in _KEYS]:
        raise InvalidSetting(f"{unknown[0]} is not known here; there are {', '.join(_KEYS)}")
    listen, spool = table.get("listen"), table.get("spool", "")
    bytes_max = table.get("spool_bytes_max", SPOOL_BYTES_MAX)
    if "listen" in table and (
        not isinstance(listen, list) or not all(isinstance(each, str) for each in listen)
    ):
        raise InvalidSetting("listen is to be a list of addresses")
    if not isinstance(spool, str) or type(bytes_max) is not int or bytes_max < 1:
        raise InvalidSetting("spool is to be a directory, and spool_bytes_max a number of bytes")
    for address in listen or ():
        split_address(address)
    nats = parse_nats_settings(table["nats"]) if "nats" in table else None
    return NodeSettings(None if listen is None else tuple(listen), spool, bytes_max, nats)
