"""Random damage of tables and stream: a repair loses nothing that is whole, and names all that is not.

Each round damages a copy of one database, at places that its seed decides. `TRUTH` is what was there before.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from mailbox_stores import held, mailbox_store, real_mail
from told_whole import told_whole

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import compact
from pillarbox.store.upkeep.repair import RepairReport, repair_database

ACTOR = Actor.task("test")
PAGE = 4096
ROUNDS = 10 if os.environ.get("PILLARBOX_CAMPAIGN") == "short" else 150


class Truth(NamedTuple):
    """A database: its messages, the files that say them, and tables of an earlier moment."""

    path: Path
    held: list[tuple[ItemRecord, bytes]]
    old_tables: bytes


def opened(path: Path) -> Database:
    return mailbox_store(path, Tuning(segment_bytes=60_000))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Mail that was delivered, moved, flagged and deleted, in segments of which some were compacted."""
    mail = real_mail()
    database = opened(tmp_path_factory.mktemp("truth") / "db")
    database.create()
    database.mount()
    with database.transaction(ACTOR) as txn:
        anna, bert = mailboxes.create(txn, "anna"), mailboxes.create(txn, "bert")
        lists = folders.create(txn, anna.root_id, "Lists")
    rng = random.Random(5)
    old_tables = b""
    for number in range(240):
        raw = b"X-Number: %d\r\n" % number + mail[number % len(mail)]
        prepared = messages.prepare(database.files, raw)
        with database.transaction(ACTOR) as txn:
            item, _ = messages.deliver(txn, [anna.guid, bert.guid], prepared)
        with database.transaction(ACTOR) as txn:
            if number % 3 == 0:
                messages.move(txn, item.message_id, lists.folder_id)
            elif number % 5 == 0:
                messages.delete(txn, item.message_id)
            elif number % 7 == 0:
                messages.set_flags(txn, item.message_id, add=["\\Seen", rng.choice(["work", "home"])])
        if number == 120:
            database.checkpoint()
            old_tables = (database.path / "properties" / "data.mdb").read_bytes()
    compact(database, ACTOR, live_ratio_max=0.8)
    before = held(database)
    assert check_database(database, ACTOR).clean
    database.dismount()
    return Truth(database.path, before, old_tables)


# -- damage: each changes the bytes of a file


def flip_a_bit(data: bytearray, rng: random.Random, _: bytes) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def zero_a_stretch(data: bytearray, rng: random.Random, _: bytes) -> None:
    at = rng.randrange(len(data))
    length = min(rng.choice((16, 512, PAGE)), len(data) - at)
    data[at : at + length] = bytes(length)


def swap_a_page(data: bytearray, rng: random.Random, _: bytes) -> None:
    one, other = (PAGE * rng.randrange(2, len(data) // PAGE) for _ in range(2))
    data[one : one + PAGE] = data[other : other + PAGE]


def an_older_page(data: bytearray, rng: random.Random, old: bytes) -> None:
    at = PAGE * rng.randrange(2, len(old) // PAGE)
    data[at : at + PAGE] = old[at : at + PAGE]


def cut_short(data: bytearray, rng: random.Random, _: bytes) -> None:
    del data[rng.randrange(len(data) // 2, len(data)) :]


Damage = Callable[[bytearray, random.Random, bytes], None]
TABLES: tuple[Damage, ...] = (flip_a_bit, zero_a_stretch, swap_a_page, an_older_page, cut_short)
STREAM: tuple[Damage, ...] = (flip_a_bit, zero_a_stretch, cut_short)


def damage(path: Path, kinds: tuple[Damage, ...], rng: random.Random, old: bytes) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 3))):
        rng.choice(kinds)(data, rng, old)
    path.write_bytes(data)


def repaired(truth: Truth, path: Path) -> tuple[RepairReport, list[tuple[ItemRecord, bytes]]]:
    """The report of a repair, and what is there after it; a check finds nothing, now and after a write."""
    database = opened(path)
    report = repair_database(database)
    database.mount()
    assert check_database(database, ACTOR).findings == ()
    after = held(database)
    assert len(after) == report.kept + report.recovered
    with database.read(ACTOR) as reader:
        guid = next(mailboxes.all_of(reader)).guid
    prepared = messages.prepare(database.files, b"Subject: after\n\nrepair\n")
    with database.transaction(ACTOR) as txn:
        messages.deliver(txn, [guid], prepared)
    assert check_database(database, ACTOR).findings == ()
    database.dismount()
    return report, after


@pytest.mark.slow
def test_damage_of_the_tables_costs_nothing(truth: Truth, tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        path = tmp_path / f"{seed}"
        shutil.copytree(truth.path, path)
        damage(path / "properties" / "data.mdb", TABLES, random.Random(seed), truth.old_tables)
        report, after = repaired(truth, path)
        assert (seed, report.lost, report.recovered) == (seed, (), 0)
        assert after == truth.held, seed
        shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.parametrize("tables_too", [False, True])
def test_damage_of_the_stream_costs_only_what_was_hit(truth: Truth, tmp_path: Path, tables_too: bool) -> None:
    before = Counter(raw for _, raw in truth.held)
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        path = tmp_path / f"{seed}"
        shutil.copytree(truth.path, path)
        damage(rng.choice(sorted((path / "stream").glob("*.stm"))), STREAM, rng, b"")
        if tables_too:
            damage(path / "properties" / "data.mdb", TABLES, rng, truth.old_tables)
        told = told_whole(opened(path), opened(truth.path), truth.held)
        report, after = repaired(truth, path)
        now = Counter(raw for _, raw in after)
        assert not told - now, seed
        missing = sum((before - now).values())
        assert missing <= len(report.lost), seed
        if not tables_too:
            assert not now - before, seed
        shutil.rmtree(path)
