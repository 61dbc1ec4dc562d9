"""`python -m pillarbox.tools.bench.replication_nodes MEASURE...`: servers that are served, and replicate.

Each server has a process and a network namespace of its own, each two sites a link that is shaped; bytes are
what the interface of the link counted, with all headers. It is run as root, where iproute2 is installed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.bench import nats_away, nodes_chaos
from pillarbox.tools.bench.packed_changes import packed_bytes
from pillarbox.tools.bench.report import at_least_one
from pillarbox.tools.bench.served_nodes import Node, Nodes, Reading, eventually, percentile, some_lines
from pillarbox.tools.bench.shaped_links import Link, Network, why_not
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus, resample

SIX: Final = {"a1": "aaa", "a2": "aaa", "a3": "aaa", "b1": "bbb", "b2": "bbb", "b3": "bbb"}
TWO: Final = {"a1": "aaa", "b1": "bbb"}
LINK: Final = ("aaa", "bbb")
FORUM: Final = "Forum"
OVERLOAD: Final = 10
PACKED_BYTES_A_POST: Final = 13_600  # of the corpus, as it crosses a link
_POSTED_AT_ONCE: Final = 500


class Options(NamedTuple):
    """The options of a run."""

    posts: int
    bits: int
    cuts: int
    cut_seconds: int
    peers: int
    seconds: int
    seed: int
    keep: bool
    corpus: Path
    root: Path | None


@contextmanager
def place(options: Options) -> Iterator[Path]:
    """A directory for the servers of a measure, which goes with it unless they are to be left."""
    root = Path(tempfile.mkdtemp(prefix="pillarbox-bench-", dir=options.root))
    try:
        yield root
    finally:
        if not options.keep:
            shutil.rmtree(root)


@contextmanager
def served(
    options: Options, sites: dict[str, str], *, are_apart: bool = True, has_large_packets: bool = False
) -> Iterator[Nodes]:
    """An organisation, all of it served."""
    with (
        place(options) as root,
        Network(has_large_packets=has_large_packets) as network,
        Nodes(root, network, sites, are_apart=are_apart) as nodes,
    ):
        nodes.serve()
        yield nodes


def mail(options: Options, count: int) -> Iterator[bytes]:
    """Real messages, each with an id of its own."""
    return resample(read_corpus(options.corpus), count)


# --- when a post is seen -----------------------------------------------------------------------------------


class Watch:
    """Looks at a folder at several servers, and notes how long after it was posted each message is there."""

    def __init__(self, folder: str, readings: dict[str, Reading], sites: dict[str, str]) -> None:
        self._folder, self._readings, self._sites = folder, readings, sites
        self._posted: dict[str, tuple[float, str]] = {}
        self._last_uid = dict.fromkeys(readings, 0)
        self._began = time.monotonic()
        self.here: list[float] = []  # seconds until a post was seen on another server of its site
        self.there: list[float] = []  # the same, of another site
        self.seen_count = 0

    def post(self, node: Node, number: int) -> None:
        """Post a message of some lines; it counts from the call on."""
        subject = f"post {number}"
        self._posted[subject] = (time.monotonic(), node.name)
        node.post(self._folder, [some_lines(subject)])

    def look(self) -> None:
        """Note what has come."""
        for name, reading in self._readings.items():
            for item in reading.arrived(self._folder, self._last_uid[name]):
                self._last_uid[name] = item.uid
                posted, by = self._posted[item.subject]
                if by != name:
                    is_near = self._sites[by] == self._sites[name]
                    (self.here if is_near else self.there).append(time.monotonic() - posted)
                    self.seen_count += 1


def visible(options: Options) -> str:
    """Posts one by one, at random servers of six."""
    rng = random.Random(1)
    with served(options, SIX) as nodes, ExitStack() as stack:
        nodes["a1"].share(FORUM, list(nodes)[1:])
        nodes.settle()
        watch = Watch(FORUM, {node.name: stack.enter_context(node.reading()) for node in nodes}, SIX)
        due = time.monotonic()
        for number in range(options.posts):
            while time.monotonic() < due:
                watch.look()
                time.sleep(0.02)
            watch.post(rng.choice(list(nodes)), number)
            due += rng.expovariate(2)
        _see_all(watch, options.posts * (len(SIX) - 1))
        cpu = sum(node.processor_seconds() for node in nodes)
        return (
            f"{options.posts} posts, two a second: {_latencies(watch)}; target 2 s; {cpu:.0f} s of processor"
        )


def urgent(options: Options) -> str:
    """Posts to an urgent folder, while ten times what the link carries is posted to another one."""
    with served(options, SIX) as nodes, ExitStack() as stack:
        first, others = nodes["a1"], list(nodes)[1:]
        first.share(FORUM, others)
        first.share("Flood", others)
        settings: dict[str, Any] = {"action": "", "subject": "", "rights": [], "overwrite": []}
        first.call(
            "folder.change_settings",
            folder=FORUM,
            schedule=None,
            priority="urgent",
            recursive=False,
            **settings,
        )
        nodes.settle()
        nodes.links[LINK].shape(options.bits)
        readings = {node.name: stack.enter_context(node.reading()) for node in nodes}
        watch = Watch(FORUM, readings, SIX)
        a_second = max(1, OVERLOAD * options.bits // 8 // PACKED_BYTES_A_POST // 3)
        flood = mail(options, 3 * a_second * options.seconds)
        began = time.monotonic()
        for second in range(options.seconds):
            for node in list(nodes)[:3]:
                node.post("Flood", islice(flood, a_second))
            if second % 2 == 0:
                watch.post(first, second)
            while time.monotonic() < began + second + 1:
                watch.look()
                time.sleep(0.02)
        took = time.monotonic() - began
        _see_all(watch, (options.seconds + 1) // 2 * len(others))
        offered = 3 * a_second * options.seconds
        crossed = readings["b1"].count("Flood")
        return (
            f"{offered} posts in {took:.0f} s over a link of {options.bits} bit/s, {crossed} of them across "
            f"when the last urgent one was seen; urgent ones: {_latencies(watch)}; target 15 s"
        )


def _see_all(watch: Watch, count: int) -> None:
    def all_seen() -> bool:
        watch.look()
        return watch.seen_count >= count

    eventually(all_seen, 600, every=0.02)


def _latencies(watch: Watch) -> str:
    shown = []
    for name, found in (("in the site", watch.here), ("on another site", watch.there)):
        late = sum(each > 2 for each in found) / len(found)
        values = ", ".join(
            f"{label} {percentile(found, share):.2f} s"
            for label, share in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
        )
        shown.append(f"{name} {values}, {late:.2%} later than 2 s")
    return "; ".join(shown)


# --- what crosses a link -----------------------------------------------------------------------------------


def link(options: Options) -> str:
    """A backlog of posts over a slow link, which may be cut while it drains."""
    folders = [f"Folder {number}" for number in range(20)]
    with served(options, TWO) as nodes, ExitStack() as stack:
        source, target = nodes
        for folder in folders:
            source.share(folder, [target])
        nodes.settle()
        line = nodes.links[LINK]
        line.shape(options.bits)
        before, began = line.sent_bytes(), time.monotonic()
        reading = stack.enter_context(target.reading())

        def arrived() -> int:
            return sum(reading.count(folder) for folder in folders)

        raws, rng = mail(options, options.posts), random.Random(2)
        while batch := list(islice(raws, _POSTED_AT_ONCE)):
            by_folder: dict[str, list[bytes]] = {}
            for raw in batch:
                by_folder.setdefault(rng.choice(folders), []).append(raw)
            for folder, posts in by_folder.items():
                source.post(folder, posts)
        posted = time.monotonic() - began
        _cut_on_the_way(options, line, arrived)
        eventually(lambda: arrived() >= options.posts, 20_000, every=0.5)
        took = time.monotonic() - began
        eventually(lambda: source.is_in_sync() and target.is_in_sync(), 1200, every=5)
        sent = _sent_since(line, before)
        stack.close()
        is_equal = _are_equal(nodes)
        source.end()
        ideal = packed_bytes(source.path, folders)
    return (
        f"{options.posts} posts, posted in {posted:.0f} s, over a link of {options.bits} bit/s, "
        f"{_cuts(options)}: {took:.0f} s; {sent[0] / 1e6:.2f} MB crossed it, {sent[0] / ideal:.3f} of the "
        f"{ideal / 1e6:.2f} MB of zstd-3 packs, target 1.15; {sent[1] / 1e6:.2f} MB back; "
        f"{'equal' if is_equal else 'NOT EQUAL'}"
    )


def _cut_on_the_way(options: Options, line: Link, arrived: Callable[[], int]) -> None:
    """Cut a link for a while, as often as is asked for, at equal shares of what is to arrive."""
    for cut in range(options.cuts):
        count = (cut + 1) / (options.cuts + 1) * options.posts
        eventually(lambda count=count: arrived() >= count, 20_000, every=0.5)  # type: ignore[misc]
        line.cut()
        time.sleep(options.cut_seconds)
        line.heal()


def _sent_since(line: Link, before: tuple[int, int]) -> list[int]:
    return [after - each for after, each in zip(line.sent_bytes(), before, strict=True)]


def _cuts(options: Options) -> str:
    return f"cut {options.cuts} times for {options.cut_seconds} s" if options.cuts else "not cut"


def _are_equal(nodes: Iterable[Node]) -> bool:
    found = []
    for node in nodes:
        with node.reading() as reading:
            found.append(reading.contents())
    return all(each == found[0] for each in found)


# --- backfill ----------------------------------------------------------------------------------------------


def backfill(options: Options) -> str:
    """All that one server holds, from it to an empty one, which may be killed meanwhile."""
    is_bounded = bool(options.bits or options.cuts)
    with served(options, TWO, has_large_packets=not is_bounded) as nodes, ExitStack() as stack:
        source, target = nodes
        source.call("folder.create", mailbox="/", folder=FORUM, parents=False)
        began, used = time.monotonic(), source.processor_seconds()
        source.post(FORUM, mail(options, options.posts))
        local = time.monotonic() - began
        local_cpu = source.processor_seconds() - used
        nodes.settle()
        line = nodes.links[LINK]
        if options.bits:
            line.shape(options.bits)
        before, began = line.sent_bytes(), time.monotonic()
        used = source.processor_seconds()
        source.call("replica.add", folder=FORUM, servers=[target.name], recursive=False)
        reading = stack.enter_context(target.reading())
        memory = [0, 0]

        def arrived() -> int:
            for number, node in enumerate(nodes):
                if node.is_served:
                    memory[number] = max(memory[number], node.memory()["RssAnon"])
            return reading.count(FORUM)

        _cut_on_the_way(options, line, arrived)
        eventually(lambda: arrived() >= options.posts, 20_000, every=0.2)
        took = time.monotonic() - began
        sent = _sent_since(line, before)
        source_cpu, target_cpu = source.processor_seconds() - used, target.processor_seconds()
        peak = [node.memory()["VmHWM"] for node in nodes]
        nodes.settle()
        stack.close()
        is_equal = _are_equal(nodes)
        source.end()
        ideal = packed_bytes(source.path, [FORUM])
    rate, local_rate = options.posts / took, options.posts / local
    return (
        f"{options.posts} messages, {_cuts(options)}: {took:.0f} s, {rate:.0f} a second, "
        f"{rate / local_rate:.2f} of {local_rate:.0f} at which they were posted in bulk, target 0.6; of the "
        f"processor {source_cpu:.0f} s at the source and {target_cpu:.0f} s at the receiver, "
        f"{local_cpu:.0f} s to post them; most memory {peak[0] / 1e6:.0f} and {peak[1] / 1e6:.0f} MB with "
        f"files that are mapped, {memory[0] / 1e6:.0f} and {memory[1] / 1e6:.0f} without, target 250; "
        f"{sent[0] / 1e6:.1f} MB on the link, {sent[0] / ideal:.3f} of zstd-3 packs of 300 KB; "
        f"{'equal' if is_equal else 'NOT EQUAL'}"
    )


# --- at rest -----------------------------------------------------------------------------------------------


def rest(options: Options) -> str:
    """A server among many, while nothing happens."""
    sites = {f"n{number}": f"site{number % 10}" for number in range(options.peers + 1)}
    with served(options, sites, are_apart=False) as nodes:
        first = nodes["n0"]
        first.share(FORUM, list(nodes)[1:])
        nodes.settle(seconds=1800)
        time.sleep(60)
        before, began = {node.name: node.processor_seconds() for node in nodes}, time.monotonic()
        time.sleep(options.seconds)
        seconds = time.monotonic() - began
        shares = [(node.processor_seconds() - before[node.name]) / seconds for node in nodes]
        resident = [node.memory()["VmRSS"] for node in nodes]
    return (
        f"{options.peers} peers in 10 sites, {seconds:.0f} s: {sum(shares) / len(shares):.2%} of a core on "
        f"average, {max(shares):.2%} at most, target 1 %; {sum(resident) / len(resident) / 1e6:.0f} MB on "
        f"average, {max(resident) / 1e6:.0f} at most, target 100"
    )


# --- chaos -------------------------------------------------------------------------------------------------


def chaos(options: Options) -> str:
    """Everything at once, by a seed."""
    with served(options, nodes_chaos.SITES) as nodes:
        happening = nodes_chaos.Chaos(nodes, options.seed)
        happening.run(options.seconds)
        try:
            took = f"converged after {happening.converge():.0f} s"
        except TimeoutError:
            took = "NOT CONVERGED: " + "; ".join(happening.differences() or ["a status says so"])
        faults = happening.faults()
        done = ", ".join(f"{kind} {count}" for kind, count in happening.done.most_common())
        refused = ", ".join(f"{kind} {count}" for kind, count in happening.refused.most_common())
        return (
            f"seed {options.seed}, {options.seconds} s: {took}; {len(faults)} faults {faults[:5]}; "
            f"{done}; refused: {refused}"
        )


# --- NATS in trouble ---------------------------------------------------------------------------------------


def nats(options: Options) -> str:
    """Links by NATS, whose server is restarted, killed, and away."""
    if reason := nats_away.why_not():
        return f"left out, {reason}"
    with place(options) as root, Network() as network, ExitStack() as stack:
        namespace, address = network.add_node("nats", TWO["a1"])
        process = nats_away.NatsProcess(root / "nats", namespace, address)
        stack.callback(process.end, signal.SIGKILL)
        process.start()
        settings = NatsSettings((f"{address}:{nats_away.PORT}",))
        nodes = stack.enter_context(Nodes(root, network, TWO, nats=settings))
        nodes.serve()
        nodes["a1"].share(FORUM, [nodes["b1"]])
        nodes.settle()
        trouble = nats_away.Trouble(nodes, process, FORUM)
        restarted, killed = trouble.restarted(), trouble.killed()
        away = trouble.away(options.seconds)
        is_equal = _are_equal(nodes)
    return (
        f"restarted: {restarted}; killed: {killed}; away for {options.seconds} s: {away}; "
        f"{'equal' if is_equal else 'NOT EQUAL'}"
    )


MEASURES: Final[dict[str, Callable[[Options], str]]] = {
    "visible": visible,
    "urgent": urgent,
    "link": link,
    "backfill": backfill,
    "rest": rest,
    "chaos": chaos,
    "nats": nats,
}


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code: 0, whether targets are met or not; 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m pillarbox.tools.bench.replication_nodes", description=__doc__
    )
    parser.add_argument("measures", nargs="+", choices=MEASURES, metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--posts", type=at_least_one, default=500, help="messages (500)")
    parser.add_argument(
        "--bits", type=int, default=0, help="bits a second of the link (as many as there can be)"
    )
    parser.add_argument("--cuts", type=int, default=0, help="how often the link is cut (0)")
    parser.add_argument("--cut-seconds", type=at_least_one, default=60, help="for how long (60)")
    parser.add_argument("--peers", type=at_least_one, default=50, help="servers beside the one at rest (50)")
    parser.add_argument(
        "--seconds", type=at_least_one, default=60, help="how long to overload, to rest, or to be away (60)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the chaos (1)")
    parser.add_argument("--keep", action="store_true", help="leave the servers and their logs")
    parser.add_argument("--corpus", type=Path, default=CORPUS_DEFAULT, help="folder of mbox, eml, tar.gz")
    parser.add_argument("--dir", type=Path, help="where the servers are made")
    given = parser.parse_args(arguments)
    if reason := why_not():
        print(f"replication_nodes: left out, {reason}")
        return 0
    options = Options(
        given.posts,
        given.bits,
        given.cuts,
        given.cut_seconds,
        given.peers,
        given.seconds,
        given.seed,
        given.keep,
        given.corpus,
        given.dir,
    )
    try:
        for name in given.measures:
            print(f"{name}: {MEASURES[name](options)}", flush=True)
    except PillarboxError as error:
        print(f"replication_nodes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
