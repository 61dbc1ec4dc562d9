"""Sums of the pages that a state of tables uses find whatever becomes of one, and nothing else."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from lmdb import verify

from pillarbox.store.disk.env import DATA_FILE, META_BYTES, PAGE_BYTES, Env
from pillarbox.store.disk.page_sums import SUM_BYTES, Difference, PageSums, difference
from pillarbox.store.disk.tables import Table
from pillarbox.store.errors import Corrupt


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Env]:
    made = Env(tmp_path / "env", create=True)
    yield made
    made.close()


def change(env: Env, rng: random.Random) -> None:
    """Put rows of all lengths, in pages of their own too, and delete others."""
    rows: dict[bytes, bytes | None] = {}
    for _ in range(rng.randrange(1, 60)):
        key = b"%d" % rng.randrange(300)
        rows[key] = rng.choice((None, rng.randbytes(rng.choice((10, 500, 9000)))))
    env.apply({Table.CONTENT: rows})


def used_pages(path: Path, directory: Path) -> set[int]:
    """The pages that LMDB's verifier reaches from the newer meta page."""
    directory.mkdir(exist_ok=True)
    shutil.copyfile(path, directory / DATA_FILE)
    with (directory / DATA_FILE).open("rb") as file:
        verifier = verify._Verifier(file, path.stat().st_size)
        assert verifier.verify() == []
        return {page for page in range(2, verifier.next_pgno) if verifier.live[page]}


def used_by(sums: PageSums) -> set[int]:
    pages = range(len(sums.sums) // SUM_BYTES)
    return {page for page in pages if sums.sums[page * SUM_BYTES :][:SUM_BYTES] != bytes(SUM_BYTES)}


def test_sums_are_of_the_pages_in_use_and_follow_from_one_kept_state_to_the_next(
    env: Env, tmp_path: Path
) -> None:
    data, rng = env.path / DATA_FILE, random.Random(1)
    change(env, rng)
    pin = env.pin()
    env.keep(pin)
    sums = PageSums.of(data, pin.meta_pages)
    for _ in range(40):
        for _ in range(rng.randrange(4)):
            change(env, rng)
        assert difference(data, sums.sums) is None  # of what is kept nothing changes
        pin = env.pin()
        sums = sums.followed(data, pin.meta_pages)
        env.keep(pin)
        assert sums == PageSums.of(data, pin.meta_pages) == PageSums.known(sums.sums)
        assert used_by(sums) == used_pages(data, tmp_path / "copy")
    assert len(sums.free) > 10


def test_sums_know_any_list_of_free_pages_that_lmdb_makes(tmp_path: Path) -> None:
    """Also one with branches, and rows in pages of their own."""
    path = tmp_path / "env"
    path.mkdir()
    rng = random.Random(1)
    with lmdb.open(str(path), map_size=1 << 30, sync=False) as opened:
        for number in range(1500):
            with opened.begin(write=True) as txn:
                txn.put(b"%d" % (number % 40), rng.randbytes(40_000))
            if number == 700:
                held = opened.begin()  # from here on none is used again
        with opened.begin(write=True) as txn:
            for number in range(40):
                txn.delete(b"%d" % number)
            for number in range(3000):
                txn.put(b"%d" % number, rng.randbytes(2500))
        held.abort()
        meta_pages = (path / DATA_FILE).read_bytes()[:META_BYTES]
        sums = PageSums.of(path / DATA_FILE, meta_pages)
        assert used_by(sums) == used_pages(path / DATA_FILE, tmp_path / "copy")


def test_a_bit_that_changed_in_a_page_in_use_is_found_and_in_a_free_one_means_nothing(env: Env) -> None:
    data, rng = env.path / DATA_FILE, random.Random(1)
    for _ in range(30):
        change(env, rng)
        env.keep(env.pin())
    sums = PageSums.of(data, env.pin().meta_pages)
    whole = data.read_bytes()
    path = data.with_name("changed")
    for _ in range(200):
        at = rng.randrange(META_BYTES, len(sums.sums) // SUM_BYTES * PAGE_BYTES)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        page = at // PAGE_BYTES
        found = None if page in sums.free else Difference(page * PAGE_BYTES, 1)
        assert difference(path, sums.sums) == found
    path.write_bytes(whole[: 5 * PAGE_BYTES])
    cut = difference(path, sums.sums)
    assert cut is not None and cut.pages == len([page for page in used_by(sums) if page >= 5])


def test_a_bent_list_of_free_pages_is_damage_and_ends_nothing(env: Env) -> None:
    data, rng = env.path / DATA_FILE, random.Random(1)
    for _ in range(30):
        change(env, rng)
        env.keep(env.pin())
    meta_pages, whole = env.pin().meta_pages, data.read_bytes()
    path = data.with_name("changed")
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        start = rng.randrange(2, len(whole) // PAGE_BYTES) * PAGE_BYTES + rng.choice((0, 8, 16, 40, 4000))
        changed[start : start + 24] = rng.randbytes(24)
        path.write_bytes(changed)
        try:
            PageSums.of(path, meta_pages)
        except Corrupt as error:
            assert error.file == str(path)
            refused += 1
    assert refused
