"""Bits bent in LMDB's pages: a read is right or raises Corrupt, and a verifier finds what no read meets."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from pillarbox.store.disk.env import DATA_FILE, Env, ReadView
from pillarbox.store.disk.tables import Table
from pillarbox.store.disk.tables_process import TableRows, verify_tables
from pillarbox.store.errors import Corrupt

PAGE = 4096
ROWS = {b"%08d" % (2 * number): b"value %d" % number * 20 for number in range(4000)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound")
    env = Env(path, create=True)
    for start in range(0, len(ROWS), 500):
        env.apply({Table.ITEM: dict(list(ROWS.items())[start : start + 500])})
    env.apply({Table.ITEM: {key: ROWS[key] + b"x" for key in list(ROWS)[::7]}})
    env.apply({Table.ITEM: {key: ROWS[key] for key in list(ROWS)[::7]}})
    env.sync()
    env.close()
    return path


def key_bytes_of_branch_pages(data: bytes) -> list[int]:
    found = []
    for page in range(2 * PAGE, len(data), PAGE):
        number, _, flags, lower, _ = struct.unpack_from("<QHHHH", data, page)
        if number * PAGE != page or flags != 1:
            continue
        for slot in range(page + 18, page + lower, 2):  # the first key of a branch page is empty
            node = page + struct.unpack_from("<H", data, slot)[0]
            size = struct.unpack_from("<H", data, node + 6)[0]
            found += range(node + 8, node + 8 + size)
    return found


def first_key(data: bytes, page: int) -> bytes:
    node = page + struct.unpack_from("<H", data, page + 16)[0]
    size = struct.unpack_from("<H", data, node + 6)[0]
    return data[node + 8 : node + 8 + size]


def bent(sound: Path, target: Path, offset: int, bit: int) -> Path:
    data = bytearray((sound / DATA_FILE).read_bytes())
    data[offset] ^= 1 << bit
    target.mkdir()
    (target / DATA_FILE).write_bytes(data)
    return target


def answers(view: ReadView, rng: random.Random) -> Iterator[bool]:
    """Whether each of many reads is right."""
    keys = sorted(ROWS)
    for _ in range(60):
        key = b"%08d" % rng.randrange(8100)
        stop = b"%08d" % rng.randrange(8100)
        for read, wanted in (
            (lambda key=key: view.get(Table.ITEM, key), ROWS.get(key)),
            (
                lambda key=key, stop=stop: [row[0] for row in view.scan(Table.ITEM, key, stop)],
                [each for each in keys if key <= each < stop],
            ),
            (
                lambda key=key, stop=stop: [row[0] for row in view.scan(Table.ITEM, key, stop, reverse=True)],
                [each for each in reversed(keys) if key <= each < stop],
            ),
        ):
            try:
                yield read() == wanted
            except Corrupt:
                yield True


def test_a_bit_bent_in_the_key_of_a_branch_page_gives_no_wrong_answer(sound: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    offsets = key_bytes_of_branch_pages((sound / DATA_FILE).read_bytes())
    assert len(offsets) > 100
    refused = 0
    for number, offset in enumerate(rng.sample(offsets, 12)):
        env = Env(bent(sound, tmp_path / f"{number}", offset, rng.randrange(8)))
        try:
            with env.view() as view:
                assert all(answers(view, random.Random(number)))
                try:
                    for key in ROWS:
                        assert view.get(Table.ITEM, key) == ROWS[key]
                except Corrupt:
                    refused += 1
        finally:
            env.close()
    assert refused > 3


def test_a_key_that_a_bent_page_gives_as_empty_is_asked_for_in_vain(sound: Path, tmp_path: Path) -> None:
    data = bytearray((sound / DATA_FILE).read_bytes())
    for page in range(2 * PAGE, len(data), PAGE):
        number, _, flags = struct.unpack_from("<QHH", data, page)
        if number * PAGE == page and flags == 2 and data[page + 4000 :].count(b"value"):
            node = page + struct.unpack_from("<H", data, page + 16)[0]
            data[node + 6 : node + 8] = bytes(2)  # the size of the first key
    (tmp_path / DATA_FILE).write_bytes(data)
    env = Env(tmp_path)
    try:
        with env.view() as view:
            keys = [key for key, _ in view.all_rows(Table.ITEM)]
            assert keys.count(b"") > 3
            assert view.get(Table.ITEM, b"") is None
            assert view.get(Table.ITEM, bytes(512)) is None
    finally:
        env.close()


def test_sound_pages_are_found_sound(sound: Path) -> None:
    assert verify_tables(sound) == []


def test_a_page_that_ends_the_process_ends_only_the_child(sound: Path, tmp_path: Path) -> None:
    """The header of a page in use is zeroed: LMDB asserts that it is a leaf or a branch."""
    data = (sound / DATA_FILE).read_bytes()
    leaves = [
        page
        for page in range(len(data) // PAGE // 2 * PAGE, len(data), PAGE)
        if struct.unpack_from("<QHH", data, page)[::2] == (page // PAGE, 2)
        and first_key(data, page) in ROWS  # and not a page of the list of free pages
    ]
    # Half of the file are free pages, those at its end are in use.
    made = (bent(sound, tmp_path / f"{leaf}", leaf + 10, 1) for leaf in reversed(leaves))
    taken_counts = []
    for path in islice((path for path in made if verify_tables(path)), 5):
        rows = TableRows(path)
        taken = {key: value for _, key, value in rows}
        assert rows.problems
        assert taken.items() <= ROWS.items()
        taken_counts.append(len(taken))
    assert any(taken_counts)
