"""Encryption of a repository: who may open it, and how its files are sealed.

One random master secret a repository. It is kept only wrapped: once for every passphrase or key file that
opens the repository. Each sealed file has a random salt in its header and a key of its own, derived from the
master secret and that header; within a file the nonce is the offset of the sealed part. So no pair of key and
nonce comes twice, however many files are written (docs/repository-format.md, "Sealed files").

An unencrypted repository has the same files; its secrets are derived from its public id, and the tags are
checksums that find damage, not malice.
"""

from __future__ import annotations

import secrets
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

import msgpack
from blake3 import blake3

from pillarbox.backup.repository.damage import damaged_file
from pillarbox.store.errors import Corrupt, InvalidContent, InvalidSetting, UnsupportedVersion, WrongKey

Entropy = Callable[[int], bytes]
secure_entropy: Final[Entropy] = secrets.token_bytes

FORMAT_VERSION: Final = 1
HEADER_BYTES: Final = 40
TAG_BYTES: Final = 16
SEALED_FILE_BYTES_MAX: Final = 64 << 20

_MAGIC: Final = b"PBXR"
_HEADER: Final = struct.Struct(">4sBcBx32s")
_CONFIG: Final = struct.Struct(">4sBcBx16s")
assert _HEADER.size == HEADER_BYTES
_SALT_BYTES: Final = 32
_SECRET_BYTES: Final = 32
_CHECKSUM_BYTES: Final = 16
_KEY_FILE_PREFIX: Final = "pillarbox-key-1:"


class Encryption(IntEnum):
    """The way in which the files of a repository are sealed."""

    NONE = 0
    AES_256_GCM = 1


class Kdf(IntEnum):
    """The way from what a person holds to the key that wraps the master secret."""

    ARGON2ID = 1
    SCRYPT = 2
    KEY_FILE = 3


@dataclass(frozen=True)
class Unencrypted:
    """Said instead of a passphrase: the repository is, or shall be, readable by everybody."""


@dataclass(frozen=True, repr=False)
class Passphrase:
    """A passphrase; the same text typed on another system (NFC) is the same passphrase."""

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise InvalidSetting("the passphrase is empty", hint="choose one that nobody guesses")

    @property
    def secret(self) -> bytes:
        return unicodedata.normalize("NFC", self.text).encode()


@dataclass(frozen=True, repr=False)
class KeyFile:
    """The 32 random bytes of a key file."""

    secret: bytes

    @classmethod
    def generate(cls, entropy: Entropy = secure_entropy) -> KeyFile:
        return cls(entropy(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> KeyFile:
        """The key of a file that `format` wrote. Raises InvalidContent for anything else."""
        digits = text.strip().removeprefix(_KEY_FILE_PREFIX)
        if len(digits) == 2 * _SECRET_BYTES and text.strip() != digits:
            try:
                return cls(bytes.fromhex(digits))
            except ValueError as error:
                raise InvalidContent("the key file is damaged", hint="use a copy of it") from error
        raise InvalidContent("this is no key file of Pillarbox", hint="look at the path of --key-file")

    def format(self) -> str:
        """The text of the key file, one line."""
        return f"{_KEY_FILE_PREFIX}{self.secret.hex()}\n"


Credential = Passphrase | KeyFile | Unencrypted


@dataclass(frozen=True)
class KdfCost:
    """The cost of one try of a passphrase. The defaults are RFC 9106's second recommended set."""

    memory_kib: int = 1 << 16
    passes: int = 3
    lanes: int = 4


# What a key file read from a repository may ask for: more is an attack on the memory of who opens it.
_MEMORY_KIB_MAX: Final = 1 << 20
_PASSES_MAX: Final = 16
_LANES_MAX: Final = 64


@dataclass(frozen=True)
class Config:
    """The part of a repository that everybody may read."""

    repository_id: bytes
    encryption: Encryption

    def encode(self) -> bytes:
        body = _CONFIG.pack(_MAGIC, FORMAT_VERSION, b"C", self.encryption, self.repository_id)
        return body + blake3(body).digest(_CHECKSUM_BYTES)

    @classmethod
    def decode(cls, data: bytes) -> Config:
        """The config in the bytes of its file, which ends with the checksum in every version.

        Raises: Corrupt, UnsupportedVersion.
        """
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if blake3(body).digest(_CHECKSUM_BYTES) != checksum:
            raise damaged_file("the repository's config is damaged", file="config/config")
        encryption = _check_start(body, b"C", "config/config")
        if len(body) != _CONFIG.size:
            raise damaged_file("the repository's config is of another length", file="config/config")
        if encryption not in list(Encryption):
            raise UnsupportedVersion(f"the repository is encrypted in an unknown way ({encryption})")
        return cls(_CONFIG.unpack(body)[4], Encryption(encryption))


@dataclass(frozen=True, repr=False)
class Secrets:
    """The two master secrets: of the files' keys and of the blob ids (repositories may share the latter)."""

    files: bytes
    ids: bytes

    @classmethod
    def generate(cls, entropy: Entropy) -> Secrets:
        return cls(entropy(_SECRET_BYTES), entropy(_SECRET_BYTES))

    @classmethod
    def public(cls, repository_id: bytes) -> Secrets:
        """The secrets of an unencrypted repository, which everybody can derive from its id."""
        return cls(
            derive(repository_id, "pillarbox repository 1 public files"),
            derive(repository_id, "pillarbox repository 1 public ids"),
        )


def derive(secret: bytes, context: str) -> bytes:
    """A 32-byte key for one purpose."""
    return blake3(secret, derive_key_context=context).digest()


def _check_start(data: bytes, kind: bytes, file: str) -> int:
    """The number after magic, version and kind letter of a file. Raises: Corrupt, UnsupportedVersion."""
    if len(data) < 8 or data[:4] != _MAGIC or data[5:6] != kind or data[7]:
        raise damaged_file(f"{file} is not what its place says", file=file, offset=0)
    if data[4] != FORMAT_VERSION:
        raise UnsupportedVersion(
            f"{file} is of format version {data[4]}",
            hint=f"this program reads version {FORMAT_VERSION}; use a newer one",
        )
    return data[6]


class Cipher(Protocol):
    """Seals and opens the parts of one file. A part grows by `TAG_BYTES`."""

    def encrypt(self, offset: int, data: bytes, context: bytes) -> bytes:
        """`data` sealed for its place, `offset`, in the file; `context` must be the same to open it."""
        ...

    def decrypt(self, offset: int, data: bytes, context: bytes, file: str) -> bytes:
        """The bytes that were sealed. Raises Corrupt, naming `file` and `offset`, for anything else."""
        ...


def _nonce(offset: int) -> bytes:
    return offset.to_bytes(12, "big")


class _AesGcm:
    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise InvalidSetting(
                "an encrypted repository needs cryptography", hint="install pillarbox with its extra `backup`"
            ) from error
        self._aead = AESGCM(key)
        self._invalid_tag = InvalidTag

    def encrypt(self, offset: int, data: bytes, context: bytes) -> bytes:
        return self._aead.encrypt(_nonce(offset), data, context)

    def decrypt(self, offset: int, data: bytes, context: bytes, file: str) -> bytes:
        try:
            return self._aead.decrypt(_nonce(offset), data, context)
        except (self._invalid_tag, ValueError) as error:
            raise damaged_file(f"{file} is damaged at byte {offset}", file=file, offset=offset) from error


class _Checksum:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, offset: int, data: bytes, context: bytes) -> bytes:
        return data + self._tag(offset, data, context)

    def decrypt(self, offset: int, data: bytes, context: bytes, file: str) -> bytes:
        plain, tag = data[:-TAG_BYTES], data[-TAG_BYTES:]
        if tag != self._tag(offset, plain, context):
            raise damaged_file(f"{file} is damaged at byte {offset}", file=file, offset=offset)
        return plain

    def _tag(self, offset: int, data: bytes, context: bytes) -> bytes:
        digest = blake3(_nonce(offset) + len(context).to_bytes(4, "big") + context, key=self._key)
        return digest.update(data).digest(TAG_BYTES)


class Sealer:
    """Seals and opens the files of one repository."""

    def __init__(self, config: Config, master: Secrets, entropy: Entropy) -> None:
        self.config = config
        self.master = master
        self._key = derive(master.files, "pillarbox repository 1 file keys")
        self._entropy = entropy

    def new_header(self, kind: bytes) -> bytes:
        """The header of a new file of `kind` (one letter), with a salt of its own."""
        salt = self._entropy(_SALT_BYTES)
        return _HEADER.pack(_MAGIC, FORMAT_VERSION, kind, self.config.encryption, salt)

    def cipher(self, header: bytes, kind: bytes, file: str) -> Cipher:
        """The cipher of the file that begins with `header`. Raises: Corrupt, UnsupportedVersion."""
        if _check_start(header, kind, file) != self.config.encryption or len(header) != HEADER_BYTES:
            raise damaged_file(f"{file} is not sealed as its repository is", file=file, offset=0)
        key = blake3(header, key=self._key).digest()
        return _Checksum(key) if self.config.encryption is Encryption.NONE else _AesGcm(key)

    def seal(self, kind: bytes, body: bytes) -> bytes:
        """A whole file of one part."""
        header = self.new_header(kind)
        return header + self.cipher(header, kind, "").encrypt(HEADER_BYTES, body, b"")

    def open(self, kind: bytes, data: bytes, file: str) -> bytes:
        """The body of a file that `seal` made. Raises: Corrupt, UnsupportedVersion."""
        cipher = self.cipher(data[:HEADER_BYTES], kind, file)
        return cipher.decrypt(HEADER_BYTES, data[HEADER_BYTES:], b"", file)


@dataclass(frozen=True)
class WrappedKey:
    """One way to open a repository, as it is stored: all but the secret itself is readable by everybody."""

    kdf: Kdf
    cost: KdfCost
    created_ms: int
    label: str
    header: bytes
    wrapped: bytes

    def encode(self) -> bytes:
        body = self.header + _pack_fields(self.cost, self.created_ms, self.label, self.wrapped)
        return body + blake3(body).digest(_CHECKSUM_BYTES)

    @classmethod
    def decode(cls, data: bytes, file: str) -> WrappedKey:
        """Raises: Corrupt, UnsupportedVersion."""
        body = data[:-_CHECKSUM_BYTES]
        if blake3(body).digest(_CHECKSUM_BYTES) != data[-_CHECKSUM_BYTES:]:
            raise damaged_file(f"{file} is damaged", file=file)
        header = body[:HEADER_BYTES]
        kdf = _check_start(header, b"K", file)
        if kdf not in list(Kdf):
            raise UnsupportedVersion(f"{file} uses an unknown way ({kdf}) to derive its key")
        try:
            memory_kib, passes, lanes, created_ms, label, wrapped = _unpack_fields(body[HEADER_BYTES:])
        except ValueError as error:
            raise damaged_file(f"{file}: {error}", file=file) from error
        cost = KdfCost(memory_kib, passes, lanes)
        _check_cost(Kdf(kdf), cost, file)
        return cls(Kdf(kdf), cost, created_ms, label, header, wrapped)

    def unwrap(self, config: Config, credential: Passphrase | KeyFile) -> Secrets:
        """The master secrets. Raises: WrongKey when `credential` is not the one that wrapped them."""
        if (self.kdf is Kdf.KEY_FILE) is not isinstance(credential, KeyFile):
            raise WrongKey("this key is of another kind")
        cipher = _AesGcm(_wrapping_key(self.kdf, self.cost, credential, self.header))
        context = config.encode() + self.header + _pack_fields(self.cost, self.created_ms, self.label, b"")
        try:
            plain = cipher.decrypt(0, self.wrapped, context, "key")
        except Corrupt as error:
            raise WrongKey("the passphrase or key file does not open this key") from error
        return Secrets(plain[:_SECRET_BYTES], plain[_SECRET_BYTES:])


def wrap(
    config: Config,
    master: Secrets,
    credential: Passphrase | KeyFile,
    *,
    cost: KdfCost,
    label: str,
    created_ms: int,
    entropy: Entropy,
) -> WrappedKey:
    """`master` for whoever holds `credential`, bound to the repository of `config`."""
    kdf = choose_kdf(credential)
    cost = KdfCost(0, 0, 0) if kdf is Kdf.KEY_FILE else cost
    header = _HEADER.pack(_MAGIC, FORMAT_VERSION, b"K", kdf, entropy(_SALT_BYTES))
    cipher = _AesGcm(_wrapping_key(kdf, cost, credential, header))
    context = config.encode() + header + _pack_fields(cost, created_ms, label, b"")
    return WrappedKey(
        kdf, cost, created_ms, label, header, cipher.encrypt(0, master.files + master.ids, context)
    )


def choose_kdf(credential: Passphrase | KeyFile) -> Kdf:
    """Argon2id for a passphrase where the cryptography package has it, else scrypt."""
    if isinstance(credential, KeyFile):
        return Kdf.KEY_FILE
    try:
        from cryptography.hazmat.primitives.kdf import argon2
    except ImportError:
        return Kdf.SCRYPT
    return Kdf.ARGON2ID if hasattr(argon2, "Argon2id") else Kdf.SCRYPT


def _wrapping_key(kdf: Kdf, cost: KdfCost, credential: Passphrase | KeyFile, header: bytes) -> bytes:
    salt = header[-_SALT_BYTES:]
    if kdf is Kdf.KEY_FILE:
        return derive(salt + credential.secret, "pillarbox repository 1 key file")
    if kdf is Kdf.ARGON2ID:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        argon2id = Argon2id(
            salt=salt,
            length=_SECRET_BYTES,
            iterations=cost.passes,
            lanes=cost.lanes,
            memory_cost=cost.memory_kib,
        )
        return argon2id.derive(credential.secret)
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    # scrypt needs 128 * r * n bytes; with r = 8 that is one KiB for each unit of n, a power of two.
    n = 1 << (cost.memory_kib.bit_length() - 1)
    scrypt = Scrypt(salt=salt, length=_SECRET_BYTES, n=n, r=8, p=cost.passes)
    return scrypt.derive(credential.secret)


def _pack_fields(cost: KdfCost, created_ms: int, label: str, wrapped: bytes) -> bytes:
    packed: bytes = msgpack.packb([cost.memory_kib, cost.passes, cost.lanes, created_ms, label, wrapped])
    return packed


def _unpack_fields(data: bytes) -> list[Any]:
    """The fields of a key, within bounds. Raises ValueError."""
    try:
        fields = msgpack.unpackb(data, max_str_len=1024, max_bin_len=1024, max_array_len=6, max_map_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"no key: {error}") from error
    if not isinstance(fields, list) or [type(each) for each in fields] != [int, int, int, int, str, bytes]:
        raise ValueError("no key: other fields than a key has")
    return fields


def _check_cost(kdf: Kdf, cost: KdfCost, file: str) -> None:
    """Refuse a cost that no key of ours has: too dear for whoever opens it, or none at all."""
    lanes_ok = 1 <= cost.lanes <= _LANES_MAX
    work_ok = 1 <= cost.passes <= _PASSES_MAX and 8 * cost.lanes <= cost.memory_kib <= _MEMORY_KIB_MAX
    if kdf is not Kdf.KEY_FILE and not (lanes_ok and work_ok):
        raise damaged_file(f"{file} asks for other memory or time than any key of ours", file=file)
