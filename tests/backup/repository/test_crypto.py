"""Who can open a repository, and that a sealed file opens only as what it is."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.backup.repository import crypto
from pillarbox.backup.repository.crypto import (
    HEADER_BYTES,
    Config,
    Encryption,
    Kdf,
    KdfCost,
    KeyFile,
    Passphrase,
    Sealer,
    Secrets,
    WrappedKey,
    wrap,
)
from pillarbox.store.errors import Corrupt, InvalidContent, InvalidSetting, UnsupportedVersion, WrongKey

CHEAP = KdfCost(memory_kib=64, passes=1, lanes=1)
CONFIG = Config(bytes(16), Encryption.AES_256_GCM)
MASTER = Secrets(b"f" * 32, b"i" * 32)


def sealer(encryption: Encryption = Encryption.AES_256_GCM, seed: int = 1) -> Sealer:
    return Sealer(Config(bytes(16), encryption), MASTER, Random(seed).randbytes)


def wrapped(credential: Passphrase | KeyFile) -> WrappedKey:
    return wrap(
        CONFIG, MASTER, credential, cost=CHEAP, label="mine", created_ms=7, entropy=Random(1).randbytes
    )


def flips(data: bytes) -> list[bytes]:
    return [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]


@pytest.mark.parametrize("credential", [Passphrase("räksmörgås"), KeyFile(b"k" * 32)])
def test_a_key_opens_with_what_it_was_made_for(credential: Passphrase | KeyFile) -> None:
    key = WrappedKey.decode(wrapped(credential).encode(), "keys/x")
    assert key.unwrap(CONFIG, credential) == MASTER
    assert (key.label, key.created_ms) == ("mine", 7)


@pytest.mark.parametrize("other", [Passphrase("Secret"), Passphrase("secret "), KeyFile(b"k" * 32)])
def test_a_key_does_not_open_with_anything_else(other: Passphrase | KeyFile) -> None:
    with pytest.raises(WrongKey):
        wrapped(Passphrase("secret")).unwrap(CONFIG, other)


def test_the_same_passphrase_from_another_keyboard() -> None:
    assert wrapped(Passphrase("\u00e9")).unwrap(CONFIG, Passphrase("e\u0301")) == MASTER


@pytest.mark.parametrize(
    "config", [Config(b"x" * 16, Encryption.AES_256_GCM), Config(bytes(16), Encryption.NONE)]
)
def test_a_key_is_bound_to_its_repository(config: Config) -> None:
    key = KeyFile(b"k" * 32)
    with pytest.raises(WrongKey):
        wrapped(key).unwrap(config, key)


def test_scrypt_where_there_is_no_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto, "choose_kdf", lambda credential: Kdf.SCRYPT)
    key = WrappedKey.decode(wrapped(Passphrase("secret")).encode(), "keys/x")
    assert key.kdf is Kdf.SCRYPT
    assert key.unwrap(CONFIG, Passphrase("secret")) == MASTER
    with pytest.raises(WrongKey):
        key.unwrap(CONFIG, Passphrase("other"))


def test_damage_of_a_key_is_not_taken_for_a_wrong_passphrase() -> None:
    for damaged in flips(wrapped(KeyFile(b"k" * 32)).encode()):
        with pytest.raises(Corrupt):
            WrappedKey.decode(damaged, "keys/x")


@pytest.mark.parametrize(
    "cost",
    [KdfCost(1 << 30, 1, 1), KdfCost(64, 1 << 20, 1), KdfCost(64, 1, 1 << 20), KdfCost(0, 1, 1)],
)
def test_a_key_that_asks_for_absurd_work_is_refused_before_it_is_done(cost: KdfCost) -> None:
    honest = wrapped(Passphrase("secret"))
    forged = WrappedKey(honest.kdf, cost, 7, "", honest.header, honest.wrapped)
    with pytest.raises(Corrupt):
        WrappedKey.decode(forged.encode(), "keys/x")


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_as_key_or_config(data: bytes) -> None:
    for decode in (lambda: WrappedKey.decode(data, "keys/x"), lambda: Config.decode(data)):
        with pytest.raises((Corrupt, UnsupportedVersion)):
            decode()


def test_config_round_trip_and_damage() -> None:
    data = CONFIG.encode()
    assert Config.decode(data) == CONFIG
    for damaged in [*flips(data), data[:-1], data + b"\0"]:
        with pytest.raises(Corrupt):
            Config.decode(damaged)


@pytest.mark.parametrize("more", [b"", b"fields of a newer program"])
def test_a_config_of_a_newer_program_is_refused_by_its_version(more: bytes) -> None:
    body = CONFIG.encode()[:4] + b"\2" + CONFIG.encode()[5:-16] + more
    with pytest.raises(UnsupportedVersion, match="version 2"):
        Config.decode(body + blake3(body).digest(16))


def test_a_key_file_is_one_line_of_text() -> None:
    key = KeyFile.generate(Random(1).randbytes)
    assert KeyFile.parse(key.format()).secret == key.secret
    assert key.format().count("\n") == 1
    assert key.secret.hex() not in repr(key)


@pytest.mark.parametrize(
    "text",
    ["", "pillarbox-key-1:", "00" * 32, "pillarbox-key-1:" + "zz" * 32, "pillarbox-key-2:" + "00" * 32],
)
def test_what_is_no_key_file(text: str) -> None:
    with pytest.raises(InvalidContent):
        KeyFile.parse(text)


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(InvalidSetting):
        Passphrase("")


@pytest.mark.parametrize("encryption", list(Encryption))
def test_sealed_files_open_only_unchanged(encryption: Encryption) -> None:
    data = sealer(encryption).seal(b"S", b"some content")
    assert sealer(encryption).open(b"S", data, "x") == b"some content"
    for damaged in [*flips(data), data[:-1], data + b"\0", b"", data[:HEADER_BYTES]]:
        with pytest.raises((Corrupt, UnsupportedVersion)):
            sealer(encryption).open(b"S", damaged, "x")


def test_a_file_of_one_kind_is_not_taken_for_another() -> None:
    data = sealer().seal(b"S", b"some content")
    with pytest.raises(Corrupt):
        sealer().open(b"I", data, "x")


def test_an_unencrypted_file_is_not_taken_by_an_encrypted_repository() -> None:
    data = sealer(Encryption.NONE).seal(b"S", b"forged")
    with pytest.raises(Corrupt):
        sealer().open(b"S", data, "x")


def test_a_version_of_the_future_is_refused_by_name() -> None:
    data = bytearray(sealer().seal(b"S", b"some content"))
    data[4] = 2
    with pytest.raises(UnsupportedVersion, match="version 2"):
        sealer().open(b"S", bytes(data), "x")


@pytest.mark.parametrize("encryption", list(Encryption))
def test_a_part_opens_only_in_its_place_and_context(encryption: Encryption) -> None:
    made = sealer(encryption)
    header = made.new_header(b"P")
    cipher = made.cipher(header, b"P", "x")
    part = cipher.encrypt(40, b"content", b"context")
    assert cipher.decrypt(40, part, b"context", "x") == b"content"
    other = made.cipher(made.new_header(b"P"), b"P", "x")
    for tried, offset, context in [(cipher, 41, b"context"), (cipher, 40, b"c"), (other, 40, b"context")]:
        with pytest.raises(Corrupt):
            tried.decrypt(offset, part, context, "x")


def test_content_and_secrets_are_not_in_the_sealed_bytes() -> None:
    data = sealer().seal(b"S", b"some content")
    assert b"content" not in data
    assert data != sealer(seed=2).seal(b"S", b"some content")


def test_nonces_of_a_file_differ_by_offset() -> None:
    made = sealer()
    cipher = made.cipher(made.new_header(b"P"), b"P", "x")
    parts = [cipher.encrypt(offset, bytes(32), b"") for offset in (40, 41, 4000)]
    assert all(a[:16] != b[:16] for a, b in itertools.combinations(parts, 2))
