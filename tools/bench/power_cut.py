"""`python -m pillarbox.tools.bench.power_cut`: how long a database takes to mount after a power cut."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pillarbox.store.disk.checkpoint import doubt_tables
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import PillarboxError
from pillarbox.store.ids import new_guid
from pillarbox.tools.bench.pillarbox_side import new_target
from pillarbox.tools.bench.report import Verdict, at_least_one

COUNT: Final = 1_000_000
_MOUNT_S_AT_MOST: Final = 60.0
_VERIFIER_MS_AT_MOST: Final = 25.0
_WORDS_COUNT: Final = 20_000
_WORDS_A_MESSAGE: Final = 40
_GUID_SEED: Final = 1


@dataclass(frozen=True)
class Mounted:
    """The mount after a power cut: its time, and the processor seconds of the verifier in a child."""

    seconds: float
    verifier_s: float
    tables_bytes: int

    @property
    def verifier_ms(self) -> float:
        """Processor time of the verifier in ms for each MB of tables."""
        return 1000 * self.verifier_s / (self.tables_bytes / 1e6)


def mounted_after_a_power_cut(root: Path, count: int) -> Mounted:
    """Fill a database, kill the process that holds it, and mount it as after a new start of the machine."""
    filling = multiprocessing.get_context("spawn").Process(target=_fill_and_die, args=(root, count))
    filling.start()
    filling.join()
    doubt_tables(root)
    tables_bytes = sum(file.stat().st_size for file in (root / "properties").glob("data.mdb"))
    database = Database(root, new_guid(random.Random(_GUID_SEED)), "Bench", DatabaseKind.MAILBOX_STORE)
    before_s, start = _children_s(), time.perf_counter()
    database.mount()
    seconds = time.perf_counter() - start
    database.dismount()
    return Mounted(seconds, _children_s() - before_s, tables_bytes)


def _fill_and_die(root: Path, count: int) -> None:
    with new_target(root) as target:
        target.deliver_all(_short_messages(count), processes=1)
        os.kill(os.getpid(), signal.SIGKILL)


def _short_messages(count: int) -> Iterator[bytes]:
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(_WORDS_COUNT)]
    for number in range(count):
        subject, body = rng.choice(words), " ".join(rng.choices(words, k=_WORDS_A_MESSAGE))
        yield (
            f"From: user{number % 977}@example.org\r\nTo: anna@example.org\r\nSubject: {number} {subject}\r\n"
            f"Message-ID: <{number}.{rng.getrandbits(60):x}@example.org>\r\n\r\n{body}\r\n"
        ).encode()


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def verdicts(mounted: Mounted) -> list[Verdict]:
    """The targets, for a million messages, and what was reached."""
    mount_s, verifier_ms = mounted.seconds, mounted.verifier_ms
    return [
        Verdict("the mount, s (at most)", mount_s, _MOUNT_S_AT_MOST, mount_s <= _MOUNT_S_AT_MOST),
        Verdict(
            "the verifier, ms of processor for a MB of tables (at most)",
            verifier_ms,
            _VERIFIER_MS_AT_MOST,
            verifier_ms <= _VERIFIER_MS_AT_MOST,
        ),
    ]


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code: 0, whether targets are met or not; 1 on an error."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="pillarbox-bench-", dir=options.dir) as made:
            mounted = mounted_after_a_power_cut(Path(made) / "database", options.count)
    except PillarboxError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    judged = verdicts(mounted)
    if options.json:
        told = asdict(mounted) | {"targets": [verdict._asdict() for verdict in judged]}
        print(json.dumps(told, indent=2))
        return 0
    print(f"{options.count:,} messages, {mounted.tables_bytes / 1e6:,.0f} MB of tables")
    for verdict in judged:
        word = "met" if verdict.met else "MISSED"
        print(f"{verdict.what:72s}{verdict.reached:8.2f}  target {verdict.wanted:6.2f}  {word}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pillarbox.tools.bench.power_cut", description=__doc__)
    parser.add_argument("count", type=at_least_one, nargs="?", default=COUNT, help="messages")
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    return parser


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
