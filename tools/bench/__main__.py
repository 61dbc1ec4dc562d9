"""`python -m pillarbox.tools.bench`: Pillarbox and its peers, side by side in one run."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from pillarbox.store.errors import PillarboxError
from pillarbox.tools.bench.changes import changes
from pillarbox.tools.bench.peers import (
    dovecot_import,
    dovecot_lmtp,
    maildir,
    sqlite,
    sqlite_list,
    sqlite_read,
)
from pillarbox.tools.bench.pillarbox_side import (
    anonymous_memory_bytes,
    bulk,
    bulk_in_one_process,
    listing,
    new_target,
    random_reads,
    scale,
    single,
    threads,
)
from pillarbox.tools.bench.report import (
    DOVECOT_ONE_CORE,
    PILLARBOX_ONE_CORE,
    Figure,
    as_data,
    as_text,
    at_least_one,
    best_of,
    verdicts,
)
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus, resample

MEASURES: Final = ("bulk", "single", "threads", "list", "read", "changes")
_LIST_COUNT: Final = 20_000
_CHANGES_COUNT_MAX: Final = 10_000


def measure(root: Path, messages: Sequence[bytes], wanted: Sequence[str]) -> list[Figure]:
    """The measures that are wanted, each beside its peers. Files go below `root`."""
    figures: list[Figure | None] = []
    if "bulk" in wanted:
        figures += on_one_core(root, messages)
        figures += [dovecot_import(root, messages), maildir(root, messages)]
        figures.append(sqlite(root, messages, 64))
    if "single" in wanted:
        figures += [sqlite(root, messages, 1), single(root, messages)]
    with new_target(root / "bulk") as target:
        figures.append(bulk(target, messages))
        if "threads" in wanted:
            figures.append(bulk_in_one_process(root, messages))
            figures += [threads(root, messages), dovecot_lmtp(root, messages)]
        listed, items = listing(target, _LIST_COUNT)
        if "list" in wanted:
            figures += [listed, sqlite_list(root, items)]
        if "read" in wanted:
            order = random.Random(2).sample(range(len(items)), len(items))
            figures.append(random_reads(target, [items[at] for at in order]))
            figures.append(sqlite_read(root, messages, order))
    if "changes" in wanted:
        figures += changes(root, min(len(messages), _CHANGES_COUNT_MAX))
    return [figure for figure in figures if figure is not None]


def on_one_core(root: Path, messages: Sequence[bytes]) -> list[Figure | None]:
    """Bulk delivery where this process, and all that it starts, has one core; none without Dovecot."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    home = root / "one-core"
    home.mkdir()
    try:
        peer = dovecot_import(home, messages)
        if peer is None:
            return []
        own = bulk_in_one_process(home, messages, PILLARBOX_ONE_CORE)
        return [replace(peer, name=DOVECOT_ONE_CORE), own]
    finally:
        os.sched_setaffinity(0, cores)


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code: 0, whether targets are met or not; 1 on an error."""
    options = _parser().parse_args(arguments)
    memory = 0
    try:
        corpus = read_corpus(options.corpus)
        if options.scale:
            with _root(options.dir) as root:
                before = anonymous_memory_bytes()
                figures = scale(root, resample(corpus, options.scale), options.scale)
                memory = anonymous_memory_bytes() - before
        else:
            messages = list(resample(corpus, options.count))
            wanted = [options.only] if options.only else MEASURES
            rounds = []
            for _ in range(options.rounds):
                with _root(options.dir) as root:
                    rounds.append(measure(root, messages, wanted))
            figures = best_of(rounds)
    except PillarboxError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    judged = verdicts(figures, memory)
    print(json.dumps(as_data(figures, judged), indent=2) if options.json else as_text(figures, judged))
    return 0


@contextmanager
def _root(directory: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pillarbox-bench-", dir=directory) as made:
        Path(made).chmod(0o755)  # Dovecot reads and writes as a user of its own
        yield Path(made)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pillarbox.tools.bench", description=__doc__)
    parser.add_argument("count", nargs="?", type=at_least_one, default=5000, help="messages (5000)")
    parser.add_argument("--only", choices=MEASURES, help="one measure and its peers")
    parser.add_argument(
        "--rounds", type=at_least_one, default=1, help="runs, of which the best times count (1)"
    )
    parser.add_argument(
        "--scale", type=int, default=0, metavar="N", help="cost per delivery up to N messages"
    )
    parser.add_argument("--corpus", type=Path, default=CORPUS_DEFAULT, help="folder of mbox, eml, tar.gz")
    parser.add_argument("--dir", type=Path, help="where to write; of the disk that is to be measured")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    return parser


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
