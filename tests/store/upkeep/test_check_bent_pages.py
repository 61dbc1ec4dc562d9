"""A check of tables with any bytes over their pages returns findings: it never raises nor ends a process."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.env import DATA_FILE, PAGE_BYTES
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.upkeep.check import check_database, check_dismounted

ACTOR = Actor.task("test")
ROUNDS = {"short": 40, "long": 2000}.get(os.environ.get("PILLARBOX_CAMPAIGN", ""), 400)
WAYS = ("dismounted", "mounted", "read-only", "in use")
# One round in a process that damage may end; says how the check went.
CHILD = """
import sys
sys.path.insert(0, {here!r})
from test_check_bent_pages import run_rounds
run_rounds(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def opened(path: Path) -> Database:
    tuning = Tuning(remove_beside=False, segment_bytes=64 << 10)
    return Database(path, b"bent-pages-store", "Mail", DatabaseKind.MAILBOX_STORE, tuning=tuning)


def filled(path: Path) -> None:
    database = opened(path)
    database.create()
    database.mount()
    with database.transaction(ACTOR) as txn:
        inbox = mailboxes.create(txn, "anna").roles["inbox"]
        for number in range(300):
            raw = b"Subject: %d\r\n\r\n" % number + random.Random(number).randbytes(60)
            messages.append(txn, inbox, messages.prepare(txn.files, raw))
    database.dismount()


def bend(data: Path, rng: random.Random) -> bool:
    """Write bytes over either or both meta pages, and over some others; True when both are garbage."""
    pages = data.stat().st_size // PAGE_BYTES
    metas = rng.choice(((0,), (1,), (0, 1), ()))
    others = [rng.randrange(2, pages) for _ in range(rng.randrange(0 if metas else 1, 4))]
    whole = rng.random() < 0.5
    with data.open("r+b") as file:
        for page in (*metas, *others):
            at, length = (0, PAGE_BYTES) if whole else (rng.randrange(200), rng.randrange(1, 64))
            what = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length))
            os.pwrite(file.fileno(), what, page * PAGE_BYTES + at)
    return whole and len(metas) == 2


def run_round(path: Path, rng: random.Random, way: str) -> str:
    """Bend pages of a database that is mounted in a way, and check it; what went wrong."""
    data = path / PROPERTIES / DATA_FILE
    database = opened(path)
    if way == "dismounted":
        must_find = bend(data, rng)
        report = check_dismounted(database, ACTOR)
    elif way == "in use":
        listener, said = os.pipe()
        if not os.fork():
            database.mount()
            os.write(said, b"x")
            signal.pause()  # until it is killed with its parent
        os.read(listener, 1)
        must_find = bend(data, rng)
        report = check_dismounted(database, ACTOR)
    else:
        database.mount(read_only=way == "read-only")
        must_find = bend(data, rng)
        report = check_database(database, ACTOR)
    return "called whole" if must_find and report.clean else ""


def run_rounds(place: str, seed: int, rounds: int) -> None:
    """Rounds, each in a process of its own and its children, which are all killed when it has ended."""
    base = Path(place, "base")
    for number in range(seed, seed + rounds):
        path, way = Path(place, "database"), WAYS[number % len(WAYS)]
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(base, path)
        if not (child := os.fork()):
            os.setpgid(0, 0)
            try:
                wrong = run_round(path, random.Random(number), way)
            except BaseException as error:
                wrong = repr(error)
            print(f"seed {number}, {way}: {wrong}" if wrong else "", end="", flush=True)
            os._exit(bool(wrong))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        subprocess.run(["kill", "-9", "--", f"-{child}"], check=False, stderr=subprocess.DEVNULL)
        if code:
            sys.exit(f"seed {number}, {way}: ended with {code}")


def run(tmp_path: Path, seed: int, rounds: int) -> None:
    filled(tmp_path / "base")
    program = CHILD.format(here=str(Path(__file__).parent))
    words = [sys.executable, "-c", program, str(tmp_path), str(seed), str(rounds)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_any_bytes_over_pages_are_findings(tmp_path: Path) -> None:
    run(tmp_path, seed=0, rounds=24)


@pytest.mark.slow
def test_any_bytes_over_pages_are_findings_campaign(tmp_path: Path) -> None:
    run(tmp_path, seed=1000, rounds=ROUNDS)
