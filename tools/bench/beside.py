"""`python -m pillarbox.tools.bench.beside`: a served server beside one in the own process.

Deliveries one at a time, through the control socket and in this process, in turn; a command that changes
something, with a serving process and without one, in turn; and what the serving process takes while nobody
asks it anything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import pillarbox
from pillarbox.tools.bench.report import at_least_one
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus, resample
from pillarbox.tools.serving.backup_run import PILLARBOX

MAILBOX: Final = "anna"
COST_MS_MAX: Final = 30
RATIO_MIN: Final = 0.5


def measure(
    root: Path, raws: Sequence[bytes], commands: int, rest_seconds: float, *options: str
) -> dict[str, Any]:
    """All measures, with two servers below `root`; `options` are those of the serving process."""
    for name in ("alone", "served"):
        with pillarbox.Server.create(root / name) as server:
            server.mailboxes.create(pillarbox.Actor.task("bench"), MAILBOX)
    with serving(root / "served", *options) as process_id:
        costs = _commands(root, commands)
        with pillarbox.Server.open(root / "alone") as server, pillarbox.connect(root / "served") as connected:
            rates = _deliveries(server, connected, raws)
        rest = _at_rest(process_id, rest_seconds)
    return {**rates, **costs, **rest}


@contextmanager
def serving(server: Path, *options: str) -> Iterator[int]:
    """A process that serves a server, once it listens; its id."""
    with subprocess.Popen([*PILLARBOX, "serve", str(server), *options], stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                try:
                    pillarbox.connect(server).close()
                    break
                except pillarbox.errors.NotFound:
                    time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()


def _deliveries(
    server: pillarbox.Server, connected: pillarbox.Connected, raws: Sequence[bytes]
) -> dict[str, float]:
    database, box = server.mailboxes.find(MAILBOX)
    own: list[float] = []
    through: list[float] = []
    for raw in raws:
        own.append(_seconds(pillarbox.deliver, database, pillarbox.Actor.transport(), [box.guid], raw))
        through.append(_seconds(connected.deliver, [MAILBOX], raw))
    return {
        "delivery_ms": median(through) * 1000,
        "delivery_alone_ms": median(own) * 1000,
        "deliveries_ratio": median(own) / median(through),
    }


def _seconds(deliver: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    deliver(*arguments)
    return time.perf_counter() - began


def _commands(root: Path, count: int) -> dict[str, float]:
    alone: list[float] = []
    beside: list[float] = []
    for number in range(count):
        for name, found in (("alone", alone), ("served", beside)):
            words = ["folder", "create", str(root / name), MAILBOX, f"Folder {number}", "--json"]
            began = time.perf_counter()
            subprocess.run([*PILLARBOX, *words], check=True, stdout=subprocess.DEVNULL)
            found.append((time.perf_counter() - began) * 1000)
    return {
        "command_ms": median(beside),
        "command_more_ms": median(one - other for one, other in zip(beside, alone, strict=True)),
    }


def _at_rest(process_id: int, seconds: float) -> dict[str, float]:
    before = _processor_seconds(process_id)
    time.sleep(seconds)
    used = _processor_seconds(process_id) - before
    status = Path(f"/proc/{process_id}/status").read_text()
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return {"rest_core_percent": 100 * used / seconds, "rest_megabytes": int(resident) / 1024}


def _processor_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(arguments: Sequence[str]) -> int:
    """Measure and print; 0, whether targets are met or not."""
    parser = argparse.ArgumentParser(prog="python -m pillarbox.tools.bench.beside", description=__doc__)
    parser.add_argument("count", nargs="?", type=at_least_one, default=1000, help="messages (1000)")
    parser.add_argument("--commands", type=at_least_one, default=20, help="commands on each side (20)")
    parser.add_argument("--rest", type=float, default=20, help="seconds at rest (20)")
    parser.add_argument("--http", action="store_true", help="serve over HTTP too")
    parser.add_argument("--corpus", type=Path, default=CORPUS_DEFAULT, help="folder of mbox, eml, tar.gz")
    parser.add_argument("--dir", type=Path, help="where to write; of the disk that is to be measured")
    options = parser.parse_args(arguments)
    raws = list(resample(read_corpus(options.corpus), options.count))
    with tempfile.TemporaryDirectory(prefix="pillarbox-bench-", dir=options.dir) as root:
        http = ("--http", "127.0.0.1:0") if options.http else ()
        found = measure(Path(root), raws, options.commands, options.rest, *http)
    found["met"] = found["deliveries_ratio"] >= RATIO_MIN and found["command_more_ms"] <= COST_MS_MAX
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
