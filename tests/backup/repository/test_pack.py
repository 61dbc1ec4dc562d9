"""The bytes of blobs, trees and packs."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.backup.repository import pack as pack_module
from pillarbox.backup.repository.crypto import HEADER_BYTES, Config, Encryption, Sealer, Secrets
from pillarbox.backup.repository.pack import (
    PACK_LETTER,
    RECORD_BYTES,
    TRAILER_BYTES,
    BlobId,
    BlobKind,
    BlobNaming,
    Child,
    PackBuilder,
    compress,
    decode_record,
    decode_tree,
    decompress,
    encode_tree,
    locate_footer,
    open_blob,
    open_footer,
)
from pillarbox.store.errors import Corrupt, InvalidContent, OverLimit, UnsupportedVersion

MASTER = Secrets(b"f" * 32, b"i" * 32)
NAMING = BlobNaming(MASTER.ids)

blobs = st.lists(st.tuples(st.sampled_from(BlobKind), st.binary(max_size=400)), min_size=1, max_size=12)


def sealer(encryption: Encryption = Encryption.AES_256_GCM) -> Sealer:
    return Sealer(Config(bytes(16), encryption), MASTER, Random(1).randbytes)


@given(blobs, st.sampled_from(Encryption))
@settings(deadline=None)
def test_a_pack_gives_back_its_blobs_by_its_own_footer(
    contents: list[tuple[BlobKind, bytes]], encryption: Encryption
) -> None:
    builder = PackBuilder(sealer(encryption))
    for kind, content in contents:
        builder.add(kind, NAMING.name(kind, content), compress(content, 3), len(content))
    made = builder.finish()
    cipher = sealer(encryption).cipher(made.data[:HEADER_BYTES], PACK_LETTER, "x")
    offset = locate_footer(made.data[-TRAILER_BYTES:], len(made.data), "x")
    records = open_footer(cipher, offset, made.data[offset:-TRAILER_BYTES], "x")
    assert records == made.records
    found = []
    for at in range(0, len(records), RECORD_BYTES):
        record = decode_record(records[at : at + RECORD_BYTES], len(made.data), "x")
        sealed = made.data[record.offset : record.offset + record.length]
        found.append((record.kind, open_blob(cipher, NAMING, record, sealed, "x")[1]))
    assert found == contents


@given(st.binary(max_size=2000), st.sampled_from([0, 1, 3]))
@settings(deadline=None)
def test_compression_round_trip(content: bytes, level: int) -> None:
    stored = compress(content, level)
    assert len(stored) <= len(content) + 1
    assert decompress(stored, len(content), "x") == content


def test_what_repeats_is_stored_smaller() -> None:
    assert len(compress(b"abc" * 1000, 3)) < 100


@given(st.binary(max_size=100), st.integers(min_value=0, max_value=1 << 32))
@settings(deadline=None)
def test_any_bytes_unpack_to_the_stated_size_or_are_damage(stored: bytes, content_bytes: int) -> None:
    with contextlib.suppress(Corrupt):
        assert len(decompress(stored, content_bytes, "x")) == content_bytes


def test_a_decompression_bomb_is_refused_before_memory_is_taken() -> None:
    bomb = b"\x01" + zstandard.ZstdCompressor().compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    for claimed in (1000, 64 << 20):
        with pytest.raises(Corrupt):
            decompress(bomb, claimed, "x")


def test_a_blob_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module, "BLOB_BYTES_MAX", 10)
    compress(bytes(10), 3)
    with pytest.raises(OverLimit):
        compress(bytes(11), 3)


def test_names_tell_kind_and_secret_apart() -> None:
    names = {
        BlobNaming(secret).name(kind, b"content") for secret in (b"1" * 32, b"2" * 32) for kind in BlobKind
    }
    assert len(names) == 4
    assert NAMING.name(BlobKind.DATA, b"content") == NAMING.name(BlobKind.DATA, b"content")


metas = st.recursive(
    st.none() | st.booleans() | st.integers(0, 1 << 60) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


child_lists = st.lists(st.tuples(st.sampled_from(BlobKind), st.binary(min_size=32, max_size=32)), max_size=9)


@given(child_lists, metas)
@settings(deadline=None)
def test_tree_round_trip(children: list[tuple[BlobKind, bytes]], meta: Any) -> None:
    given_children = tuple(Child(kind, BlobId(blob_id)) for kind, blob_id in children)
    assert decode_tree(encode_tree(given_children, meta)) == (given_children, meta)


@given(st.binary(max_size=100) | metas.map(msgpack.packb))
@settings(deadline=None)
def test_any_bytes_as_a_tree(content: bytes) -> None:
    with pytest.raises((InvalidContent, UnsupportedVersion)):
        decode_tree(content)


@pytest.mark.parametrize("tree", [[2, b"", b"\xc0"], [3, b"", b"\xc0", "a field more"], [2]])
def test_a_tree_of_a_newer_program_is_refused_by_its_version(tree: list[Any]) -> None:
    with pytest.raises(UnsupportedVersion, match=f"version {tree[0]}"):
        decode_tree(msgpack.packb(tree))


@pytest.mark.parametrize("content", [b"\x93" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"])
def test_nested_and_lying_trees(content: bytes) -> None:
    with pytest.raises(InvalidContent):
        decode_tree(content)


def test_a_trees_own_value_is_small() -> None:
    with pytest.raises(OverLimit):
        encode_tree([], bytes(pack_module.TREE_META_BYTES_MAX))


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES), st.integers(0, 1 << 33))
def test_any_bytes_as_a_record(data: bytes, pack_bytes: int) -> None:
    try:
        record = decode_record(data, pack_bytes, "x")
    except Corrupt:
        return
    assert record.offset >= HEADER_BYTES
    assert record.offset + record.length <= pack_bytes


@given(st.binary(max_size=TRAILER_BYTES), st.integers(0, 1 << 33))
def test_any_bytes_as_a_trailer(trailer: bytes, pack_bytes: int) -> None:
    try:
        offset = locate_footer(trailer, pack_bytes, "x")
    except Corrupt:
        return
    assert HEADER_BYTES <= offset <= pack_bytes


def test_a_value_that_could_not_be_read_back_is_refused_when_it_is_written() -> None:
    with pytest.raises(TypeError):
        encode_tree([], {(1, 2): "a list cannot be a key"})
