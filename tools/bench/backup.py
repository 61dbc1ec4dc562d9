"""`python -m pillarbox.tools.bench.backup`: backup of a store, beside restic, borg and `cp -a`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from pillarbox.backup.capture import Capture
from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.backup.repository.crypto import Credential, Passphrase
from pillarbox.backup.repository.repository import Repository
from pillarbox.backup.restore import restorable_databases, restore_records, restore_to_directory
from pillarbox.backup.snapshot import GroupSnapshot, SnapshotHook, SnapshotSource
from pillarbox.backup.snapshot_mount import open_snapshot_mount
from pillarbox.store.access import Actor
from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import NotFound, PillarboxError
from pillarbox.store.mail import folders
from pillarbox.tools.bench.backup_peers import BackupTool, copy_seconds, installed_peers
from pillarbox.tools.bench.pillarbox_side import Target, new_target
from pillarbox.tools.bench.report import Verdict, at_least_one, disk_bytes
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus, resample

CAPTURED_COUNTS: Final = (1, 100, 1000)
FREEZES_COUNT: Final = 5
PAGE_ROWS: Final = 50
CREDENTIAL: Final[Credential] = Passphrase("bench")
_CLOCK: Final = SystemClock()
_IO: Final = Path("/proc/self/io")


@dataclass
class ToolRun:
    """The cost of one tool: seconds, and bytes on the disk and read. None: not asked.

    The `opening_s` are parts of the times before them, in which the key was made of the passphrase: a server
    that backs up by a schedule pays it once, a command each time.
    """

    tool: str
    first_s: float = 0.0
    repository_bytes: int = 0
    further_s: float = 0.0
    further_opening_s: float = 0.0
    further_written_bytes: int = 0
    further_read_bytes: int | None = None
    restore_s: float = 0.0
    restore_opening_s: float = 0.0


@dataclass
class CaptureRun:
    """One capture: after how many new messages, how long it took, and what it wrote."""

    messages_count: int
    delivered_bytes: int
    seconds: float
    written_bytes: int


@dataclass
class MountRun:
    """A snapshot mounted from the repository, until its first page is listed; and its records copied."""

    records_bytes: int
    seconds: float
    copy_s: float


@dataclass
class BackupReport:
    """All that one run measured."""

    messages_count: int
    store_bytes: int = 0
    new_bytes: int = 0
    tools: list[ToolRun] = field(default_factory=list)
    copy_s: float = 0.0
    copy_flushed_s: float = 0.0
    freezes_ms: list[float] = field(default_factory=list)
    delivered_meanwhile: int = 0
    captures: list[CaptureRun] = field(default_factory=list)
    mount: MountRun = field(default_factory=lambda: MountRun(0, 0.0, 0.0))
    notes: list[str] = field(default_factory=list)


class Stopwatch(SnapshotHook):
    """Measures how long the freezes took, finer than the engine's clock counts."""

    def __init__(self) -> None:
        self.freezes_ms: list[float] = []
        self._started = 0.0

    def prepare(self) -> None:
        """Nothing to finish."""

    def freeze(self) -> None:
        self._started = time.perf_counter()

    def thaw(self) -> None:
        self.freezes_ms.append((time.perf_counter() - self._started) * 1000)

    def complete(self) -> None:
        """Nothing kept."""

    def abort(self) -> None:
        """Nothing kept."""


class Pillarbox:
    """Our own backup, of the mounted database."""

    name = "pillarbox"

    def __init__(self, root: Path, target: Target) -> None:
        self.repository = root / "pillarbox"
        self.opening_s = 0.0
        self.source = SnapshotSource("bench", "First", [target.database])

    def initialise(self) -> None:
        Repository.create(DirectoryBackend(self.repository), CREDENTIAL, clock=_CLOCK)

    def open(self) -> Repository:
        """The repository, opened anew with the passphrase as a command would."""
        start = time.perf_counter()
        repository = Repository.open(DirectoryBackend(self.repository), CREDENTIAL, clock=_CLOCK)
        self.opening_s = time.perf_counter() - start
        return repository

    def back_up(self, label: str) -> None:
        GroupSnapshot(self.source, self.open(), clock=_CLOCK).run()

    def restore(self, directory: Path) -> None:
        repository = self.open()
        restore_to_directory(repository, repository.snapshot("latest"), directory, clock=_CLOCK)


# --- measuring ----------------------------------------------------------------------------------------------


def measure(root: Path, corpus: list[bytes], count: int, *, with_peers: bool = True) -> BackupReport:
    """Everything, on a store of `count` messages below `root`."""
    report = BackupReport(count)
    further_count = max(1, count // 100)
    messages = resample(corpus, count + further_count + sum(CAPTURED_COUNTS))
    with new_target(root / "store") as target:
        target.deliver_all(islice(messages, count))
        target.database.checkpoint()
        own = Pillarbox(root, target)
        peers, report.notes = installed_peers(root, target.database.path) if with_peers else ([], [])
        tools: list[BackupTool] = [own, *peers]
        report.store_bytes = disk_bytes(target.database.path)
        _read_all(target.database.path)
        report.tools = [_first(tool) for tool in tools]
        before = _stream_bytes(target)
        target.deliver_all(islice(messages, further_count))
        target.database.checkpoint()
        report.new_bytes = _stream_bytes(target) - before
        for tool, run in zip(tools, report.tools, strict=True):
            _further(tool, run)
        for tool, run in zip(tools, report.tools, strict=True):
            run.restore_s = _seconds_of(partial(tool.restore, root / f"{tool.name}-restored"))
        report.tools[0].restore_opening_s = own.opening_s
        report.copy_s = copy_seconds(target.database.path, root / "copy", flush=False)
        report.copy_flushed_s = copy_seconds(target.database.path, root / "copy-flushed", flush=True)
        report.mount = _mount(root, own, target)
        report.captures = _captures(own, target, messages)
        report.freezes_ms, report.delivered_meanwhile = _freezes(own, target, corpus)
    return report


def best_of(reports: Sequence[BackupReport]) -> BackupReport:
    """Of several runs the least of each time, since others' work only ever adds; but every freeze."""
    best = reports[0]
    for other in reports[1:]:
        for run, again in zip(best.tools, other.tools, strict=True):
            run.first_s = min(run.first_s, again.first_s)
            run.further_s, run.further_opening_s = min(
                (run.further_s, run.further_opening_s), (again.further_s, again.further_opening_s)
            )
            run.restore_s, run.restore_opening_s = min(
                (run.restore_s, run.restore_opening_s), (again.restore_s, again.restore_opening_s)
            )
        best.copy_s = min(best.copy_s, other.copy_s)
        best.copy_flushed_s = min(best.copy_flushed_s, other.copy_flushed_s)
        for capture, captured_again in zip(best.captures, other.captures, strict=True):
            capture.seconds = min(capture.seconds, captured_again.seconds)
        best.mount.seconds = min(best.mount.seconds, other.mount.seconds)
        best.mount.copy_s = min(best.mount.copy_s, other.mount.copy_s)
        best.freezes_ms += other.freezes_ms
        best.delivered_meanwhile += other.delivered_meanwhile
    return best


def _seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _first(tool: BackupTool) -> ToolRun:
    tool.initialise()
    seconds = _seconds_of(lambda: tool.back_up("first"))
    return ToolRun(tool.name, seconds, disk_bytes(tool.repository))


def _further(tool: BackupTool, run: ToolRun) -> None:
    before, read = disk_bytes(tool.repository), _bytes_read()
    run.further_s = _seconds_of(lambda: tool.back_up("further"))
    run.further_written_bytes = disk_bytes(tool.repository) - before
    if isinstance(tool, Pillarbox):
        run.further_read_bytes = _bytes_read() - read
        run.further_opening_s = tool.opening_s


def _mount(root: Path, own: Pillarbox, target: Target) -> MountRun:
    """Records brought over, mounted, and the first page of the folder listed; then the records copied."""
    repository, place = own.open(), root / "mounted"
    start = time.perf_counter()
    stored = restorable_databases(repository.snapshot("latest"))[0]
    restore_records(repository, stored, place)
    with open_snapshot_mount(repository, stored, place) as mounted:
        with mounted.read(Actor.task("bench")) as read:
            listed = len(list(islice(folders.messages(read, target.folder_id), PAGE_ROWS)))
        seconds = time.perf_counter() - start
    copy_s = copy_seconds(place, root / "records-copy", flush=True)
    if not listed:
        raise NotFound("the mounted snapshot lists no message")
    return MountRun(disk_bytes(place), seconds, copy_s)


def _captures(own: Pillarbox, target: Target, messages: Iterator[bytes]) -> list[CaptureRun]:
    capture = Capture(own.source, own.open(), clock=_CLOCK)
    capture.capture()
    found = []
    for count in CAPTURED_COUNTS:
        before = _stream_bytes(target)
        target.deliver_all(islice(messages, count))
        delivered = _stream_bytes(target) - before
        size = disk_bytes(own.repository)
        seconds = _seconds_of(capture.capture)
        found.append(CaptureRun(count, delivered, seconds, disk_bytes(own.repository) - size))
    return found


def _freezes(own: Pillarbox, target: Target, corpus: Sequence[bytes]) -> tuple[list[float], int]:
    """Snapshots while another thread delivers: how long each froze, and how much came in meanwhile."""
    stopwatch, repository = Stopwatch(), own.open()
    with _deliveries(target, corpus) as delivered:
        for _ in range(FREEZES_COUNT):
            GroupSnapshot(own.source, repository, clock=_CLOCK, hooks=[stopwatch]).run()
        return stopwatch.freezes_ms, len(delivered)


@contextmanager
def _deliveries(target: Target, corpus: Sequence[bytes]) -> Iterator[list[None]]:
    """Another thread that delivers one message after the other, as long as the `with` block goes on."""
    ended, delivered = threading.Event(), list[None]()

    def deliver() -> None:
        while not ended.is_set():
            target.deliver_one(corpus[len(delivered) % len(corpus)])
            delivered.append(None)

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        yield delivered
    finally:
        ended.set()
        thread.join()


def _stream_bytes(target: Target) -> int:
    """The bytes in the stream, without the room ahead."""
    stream = target.database.stream
    with target.database.paused() as flushed:
        sealed = [number for number in stream.segments() if number < flushed.position.segment]
        return sum(map(stream.size, sealed)) + flushed.position.offset


def _read_all(path: Path) -> None:
    """Bring the files into memory, so that whoever comes first does not pay for all."""
    for found in path.rglob("*"):
        if found.is_file():
            found.read_bytes()


def _bytes_read() -> int:
    """The bytes that the process has read through system calls; 0 where the system does not tell."""
    try:
        lines = _IO.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("rchar:")), 0)


# --- telling ------------------------------------------------------------------------------------------------


def verdicts(report: BackupReport) -> list[Verdict]:
    """The targets, each as a ratio that should be at least so much."""
    own, *peers = report.tools
    own_open_s = own.further_s - own.further_opening_s
    own_restore_s = own.restore_s - own.restore_opening_s
    judged = [
        ("restore: rate over that of cp -a", report.copy_s / own.restore_s, 0.5),
        ("restore: rate over that of cp -a and sync", report.copy_flushed_s / own.restore_s, 0.5),
        ("restore: rate over that of cp -a, open", report.copy_s / own_restore_s, 0.5),
        (
            "mount and first page: time of copying the records over ours",
            report.mount.copy_s / report.mount.seconds,
            1.0,
        ),
        ("freeze: 50 ms over the longest", 50 / max(report.freezes_ms), 1.0),
    ]
    for peer in peers:
        judged += [
            (f"first backup: {peer.tool}'s time over ours", peer.first_s / own.first_s, 1.0),
            (f"repository: {peer.tool}'s size over ours", peer.repository_bytes / own.repository_bytes, 1.0),
            (f"1 % new: {peer.tool}'s time over ours, opening it", peer.further_s / own.further_s, 20.0),
            (f"1 % new: {peer.tool}'s time over ours, open", peer.further_s / own_open_s, 20.0),
        ]
    return [Verdict(what, reached, wanted, reached >= wanted) for what, reached, wanted in judged]


def as_text(report: BackupReport, judged: Sequence[Verdict]) -> str:
    """The report as a person reads it."""
    lines = [
        f"{report.messages_count} messages, store {_mb(report.store_bytes)}, 1 % new {_mb(report.new_bytes)}",
        *report.notes,
    ]
    for run in report.tools:
        read = ""
        if run.further_read_bytes is not None:
            read = (
                f", read {_mb(run.further_read_bytes)}, of the time {run.further_opening_s:.3f} s to open it"
            )
        lines.append(
            f"{run.tool:10s} first {run.first_s:7.2f} s, repository {_mb(run.repository_bytes)}; further "
            f"{run.further_s:6.3f} s, written {_mb(run.further_written_bytes)}{read}; "
            f"restore {run.restore_s:6.2f} s"
        )
    lines.append(f"cp -a {report.copy_s:.2f} s, with sync {report.copy_flushed_s:.2f} s")
    lines += [
        f"capture after {each.messages_count:5d} messages ({each.delivered_bytes / 1000:.0f} kB): "
        f"{each.seconds * 1000:.0f} ms, written {each.written_bytes / 1000:.0f} kB"
        for each in report.captures
    ]
    lines.append(
        f"mounted and first page listed {report.mount.seconds:.3f} s; "
        f"its records, {_mb(report.mount.records_bytes)}, copied {report.mount.copy_s:.3f} s"
    )
    freezes = ", ".join(f"{each:.2f}" for each in report.freezes_ms)
    lines += [f"freezes with deliveries going on ({report.delivered_meanwhile}): {freezes} ms", ""]
    for verdict in judged:
        word = "met" if verdict.met else "MISSED"
        lines.append(f"{verdict.what:60s}{verdict.reached:8.2f}  target {verdict.wanted:6.2f}  {word}")
    return "\n".join(lines)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code: 0, whether targets are met or not; 1 on an error."""
    parser = argparse.ArgumentParser(prog="python -m pillarbox.tools.bench.backup", description=__doc__)
    parser.add_argument("count", nargs="?", type=at_least_one, default=5000, help="messages (5000)")
    parser.add_argument(
        "--rounds", type=at_least_one, default=1, help="runs, of which the best times count (1)"
    )
    parser.add_argument("--corpus", type=Path, default=CORPUS_DEFAULT, help="folder of mbox, eml, tar.gz")
    parser.add_argument("--dir", type=Path, help="where to write; of the disk that is to be measured")
    parser.add_argument("--no-peers", action="store_true", help="neither restic nor borg")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse_args(arguments)
    try:
        corpus = read_corpus(options.corpus)
        reports = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="pillarbox-bench-", dir=options.dir) as made:
                reports.append(measure(Path(made), corpus, options.count, with_peers=not options.no_peers))
        report = best_of(reports)
    except PillarboxError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    judged = verdicts(report)
    data = {**asdict(report), "targets": [verdict._asdict() for verdict in judged]}
    print(json.dumps(data, indent=2) if options.json else as_text(report, judged))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
