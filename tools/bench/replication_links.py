"""`python -m pillarbox.tools.bench.replication_links`: bytes and crossings over links, in a simulation.

Everything is production code but the network and the stores. Bundles are encoded and packed as on the wire,
with the raw messages in them, and their bytes are counted on each link with signatures, labels and receipts;
TLS and TCP are not.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from itertools import pairwise
from typing import Final

import zstandard

from pillarbox.replication.core import writing
from pillarbox.replication.core.preset import CLASSIC, DAY_MS, HOUR_MS, MINUTE_MS, PROMPT, Preset
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import MessageVersion, ObjectId, ReplicaState
from pillarbox.replication.organisation.topology import Connector
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.network import Freight
from pillarbox.replication.simulation.world import World
from pillarbox.replication.wire.encoding import encode_body
from pillarbox.replication.wire.frame import HEADER_BYTES, pack, pack_route
from pillarbox.replication.wire.messages import Bundle, Changes, Life, Message, Statement
from pillarbox.replication.wire.transport_frames import LABEL_BYTES, RECEIPT_BYTES
from pillarbox.store.change_number import CNSet
from pillarbox.store.content.blocks import digest_of
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus, resample

PACK_BYTES: Final = 300 << 10
ACTOR: Final = "bench"
WAYS: Final = {  # of each site's changes, in the organisation of `star`
    "a": ("a to b", "a to c", "c to d"),
    "b": ("b to a", "a to c", "c to d"),
    "c": ("c to a", "a to b", "c to d"),
    "d": ("d to c", "c to a", "a to b"),
}
NO_PAIR: Final = Pair(CNSet(), CNSet())
NO_STATEMENT: Final = Statement(Life(0, 0), CNSet(), CNSet())
SIGNATURE_BYTES: Final = 72


class Weighed(World):
    """An organisation on a network that loses nothing, where links carry what bundles are on the wire."""

    def __init__(self, sites: str, links: Sequence[tuple[str, str]], preset: Preset) -> None:
        super().__init__(1, 1, preset)
        self.network.loss = self.network.doubled = self.network.late = 0.0
        connectors = tuple(Connector(one + other, (one, other), 10) for one, other in links)
        self.organisation = replace(self.organisation, connectors=connectors, sites=tuple(sorted({*sites})))
        self.wires = connectors
        self.replays.every = 0
        self.contents: dict[bytes, bytes] = {}
        self.stores = [self.add_store(site, 7) for site in sites]
        self.run_until(self.now_ms + HOUR_MS)

    def weigh(self, bundle: Bundle, path: Sequence[str]) -> Freight:
        """The weight of a bundle as it is on the wire; within a site nothing is weighed."""
        freight = Freight.of(bundle.messages)
        if len(path) < 2:
            return freight
        contents = [raw for message in bundle.messages for raw in self._contents(message)]
        body_bytes = len(pack(encode_body(bundle.messages, contents)))
        outside = HEADER_BYTES + len(pack_route(bundle.tree)) + SIGNATURE_BYTES + LABEL_BYTES + RECEIPT_BYTES
        return freight._replace(content_bytes=body_bytes + outside)

    def _contents(self, message: Message) -> Iterator[bytes]:
        if isinstance(message.body, Changes):
            for _, versions in message.body.objects:
                for version in versions.siblings.values():
                    if isinstance(version, MessageVersion) and version.content in self.contents:
                        yield self.contents[version.content]

    def folders(self, count: int, stores: Iterable[Machine] | None = None) -> list[ObjectId]:
        """Make folders with replicas at these stores, all of them without, and let everything settle."""
        active = dict.fromkeys(
            (store.database for store in (self.stores if stores is None else stores)), ReplicaState.ACTIVE
        )

        def make(replica: Replica) -> list[ObjectId]:
            root = replica.tree.root
            return [writing.create_folder(replica, root, f"f{k}", active, ACTOR) for k in range(count)]

        made: list[ObjectId] = self.local(self.stores[0], make)
        self.run_until(self.now_ms + 6 * HOUR_MS)
        self.forget()
        return made

    def post(self, store: Machine, folder: ObjectId, raw: bytes) -> None:
        """Post a message at a store."""
        digest = digest_of(raw)
        self.contents[digest] = raw
        self.local(store, lambda replica: writing.post(replica, folder, digest, len(raw), ACTOR))

    def forget(self) -> None:
        """Count from now on."""
        for link in self.network.links.values():
            link.messages = link.content_bytes = link.crossings = 0
            link.distinct.clear()
        self.messages.clear()

    def over_links(self) -> Iterator[tuple[str, int, int, float]]:
        """Of each direction of each link: its name, messages, bytes, and the mean crossings of a change."""
        for (one, other), link in sorted(self.network.links.items()):
            if one != other:
                crossings = link.crossings / len(link.distinct) if link.distinct else 0.0
                yield f"{one} to {other}", link.messages, link.content_bytes, crossings

    def held(self, folders: Iterable[ObjectId]) -> set[int]:
        """Counts of the messages of these folders at the stores that are up: one when all are equal."""
        folders = list(folders)
        return {
            sum(len(store.objects.ids(folder)) for folder in folders)
            for store in self.running()
            if store.replicator.replica.held(folders[0])
        }


def show(world: Weighed, title: str) -> None:
    """Print what went over the links."""
    print(title)
    for name, messages, link_bytes, crossings in world.over_links():
        counted = f"{messages:,} messages, {link_bytes / 1000:,.0f} kB"
        print(f"  {name}: {counted}, {crossings:.3f} crossings a change")
    print("  " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(world.messages.items())))


def star() -> tuple[str, list[tuple[str, str]]]:
    """Four sites of three stores; the way from a to d leads over c."""
    return "aaabbbcccddd", [("a", "b"), ("a", "c"), ("c", "d")]


def backlog(scale: float) -> None:
    """A backlog of real posts in many folders, sent by a 15-minute schedule and by the prompt preset."""
    posts, folders_count = int(20_000 * scale), max(10, int(500 * scale))
    for name, preset in (("every 15 minutes", CLASSIC), ("prompt", PROMPT)):
        world = Weighed(*star(), preset)
        folders, rng = world.folders(folders_count), random.Random(4)
        ideal = dict.fromkeys((link for links in WAYS.values() for link in links), 0)
        made: dict[str, list[Message]] = {}
        for raw in resample(read_corpus(CORPUS_DEFAULT), posts):
            store = rng.choice(world.stores)
            folder = rng.choice(folders)
            world.post(store, folder, raw)
            site = world.organisation.servers[store.database].site
            made.setdefault(site, []).append(said(store, folder))
        world.run_until(world.now_ms + 2 * HOUR_MS)
        for site, messages in made.items():
            packed = packed_bytes(world, messages)
            for link in ideal:
                if link in WAYS[site]:
                    ideal[link] += packed
        show(world, f"{posts:,} posts in {folders_count} folders, {name}; equal: {world.held(folders)}")
        for link, _, link_bytes, _ in world.over_links():
            print(f"  {link}: {link_bytes / ideal[link]:.3f} of zstd-3 packs of 300 KB")


def said(store: Machine, folder: ObjectId) -> Message:
    """The last change of a store in a folder, as a message with that alone."""
    replica = store.replicator.replica
    number = max(store.objects.ids(folder), key=lambda each: (each.origin == replica.me.origin, each.counter))
    versions = store.objects.get(folder, number)
    assert versions is not None
    empty = replica.message(bytes(16), folder, Changes(((number, versions),), NO_PAIR))
    return replace(empty, statement=NO_STATEMENT)


def packed_bytes(world: Weighed, messages: Sequence[Message]) -> int:
    """The bytes of changes and their contents in zstd-3 packs of 300 KB after compression."""
    total, start, size = 0, 0, 100
    compressor = zstandard.ZstdCompressor(level=3)
    while start < len(messages):
        pack = b""
        while True:
            part = messages[start : start + size]
            raw = encode_body(part, [raw for message in part for raw in world._contents(message)])
            pack = compressor.compress(raw)
            if len(pack) >= PACK_BYTES or start + size >= len(messages):
                break
            size = int(size * max(1.1, PACK_BYTES / max(1, len(pack))))
        total += len(pack)
        start += size
    return total


def crossings(scale: float) -> None:
    """Crossings of a change when bridgeheads die or hang, a link is cut, and a site gets replicas at once."""
    posts = max(30, int(2_000 * scale))

    def run(title: str, trouble: Callable[[Weighed], None], wait_ms: int = 12 * HOUR_MS) -> None:
        world = Weighed(*star(), PROMPT)
        folders, rng = world.folders(20), random.Random(5)
        trouble(world)
        for number in range(posts):
            world.post(rng.choice(world.running()), rng.choice(folders), b"Subject: %d\r\n\r\n" % number * 20)
            world.run_until(world.now_ms + 1_000)
        world.run_until(world.now_ms + wait_ms)
        show(world, f"{title}; equal: {world.held(folders)}")

    run("nothing happens", lambda world: None)
    run("a server of each site is down", lambda world: world.down.update(_one_of_each(world)))

    def hang(world: Weighed) -> None:
        for database in _one_of_each(world):
            world.machines[database].deaf_until_ms = world.now_ms + DAY_MS

    run("a server of each site hangs for a day", hang)

    def cut(world: Weighed) -> None:
        for pair in (("a", "c"), ("c", "a")):
            world.network.link(*pair).cut_until_ms = world.now_ms + 10 * HOUR_MS

    run("the link from a to c is cut for ten hours", cut, DAY_MS)

    def slow(world: Weighed) -> None:
        for sites, link in world.network.links.items():
            link.bytes_per_ms = 0.2 if sites[0] != sites[1] else link.bytes_per_ms

    run("links take a tenth of what comes", slow, DAY_MS)
    five_at_once(max(1_000, int(20_000 * scale)))


def _one_of_each(world: Weighed) -> list[bytes]:
    return [store.database for store in world.stores[2::3]]


def five_at_once(messages: int) -> None:
    """All five stores of a site get a replica of a large folder at once."""
    world = Weighed("aaaaabbbbb", [("a", "b")], PROMPT)
    (folder,) = world.folders(1, world.stores[:5])
    for number in range(messages):
        world.post(world.stores[number % 5], folder, b"Subject: %d\r\n\r\n" % number * 20)
    world.run_until(world.now_ms + HOUR_MS)
    world.forget()
    added = {store.database: ReplicaState.ACTIVE for store in world.stores[5:]}
    world.local(
        world.stores[0], lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added)
    )
    world.run_until(world.now_ms + DAY_MS)
    show(world, f"five replicas of {messages:,} messages added at once; equal: {world.held([folder])}")


def dead_claims(scale: float) -> None:
    """Requests of a day for what only a store claims that died."""
    world = Weighed("aaabbb", [("a", "b")], PROMPT)
    folders = world.folders(max(20, int(10_000 * scale)))
    dead = world.stores[-1]

    def claim(replica: Replica) -> None:
        for folder in folders:
            writing.post(replica, folder, bytes(24), 10, ACTOR)

    world.local(dead, claim)
    claims = {folder: dead.record.folders[folder].knowledge.known for folder in folders}
    world.down.add(dead.database)
    for store in world.running():
        for folder, claimed in claims.items():
            rows = store.record.folders[folder].rows
            rows[dead.database] = replace(rows[dead.database], known=rows[dead.database].known | claimed)
        world.local(store, partial(_look_at, claims))
    world.run_until(world.now_ms + 2 * HOUR_MS)
    first = world.messages["BackfillRequest"]
    world.forget()
    world.run_until(world.now_ms + DAY_MS)
    requests = f"{first:,} requests in two hours, then {world.messages['BackfillRequest']:,} in a day"
    print(f"a dead store's claims on {len(folders):,} folders, five living stores: {requests}")


def _look_at(folders: Iterable[ObjectId], replica: Replica) -> None:
    for folder in folders:
        replica.state(folder)


def permissions(scale: float) -> None:
    """A permission is changed on many folders at once."""
    world = Weighed(*star(), PROMPT)
    folders = world.folders(max(20, int(10_000 * scale)), [])

    def change(replica: Replica) -> None:
        for folder in folders:
            writing.change_folder(replica, folder, ACTOR, properties={"rights anna": "author"})

    world.local(world.stores[0], change)
    world.run_until(world.now_ms + 10 * MINUTE_MS)
    show(world, f"a permission changed on {len(folders):,} folders, ten minutes")
    world.forget()
    world.run_until(world.now_ms + 10 * MINUTE_MS)
    show(world, "the next ten minutes")


def at_rest(scale: float) -> None:
    """Ten sites in a chain, without a change, then with a folder that changes each minute."""
    sites, rng = "abcdefghij", random.Random(5)
    per_site, folders_count = max(2, int(20 * scale)), max(50, int(10_000 * scale))
    world = Weighed("".join(site * per_site for site in sites), list(pairwise(sites)), PROMPT)
    databases = [store.database for store in world.stores]
    chosen = [rng.sample(databases, 5) for _ in range(folders_count)]
    title = f"10 sites of {per_site} stores, {folders_count:,} folders of 5 replicas"

    def make(replica: Replica) -> list[ObjectId]:
        lists = [dict.fromkeys(stores, ReplicaState.ACTIVE) for stores in chosen]
        root = replica.tree.root
        return [writing.create_folder(replica, root, f"f{k}", each, ACTOR) for k, each in enumerate(lists)]

    folders = world.local(world.stores[0], make)
    world.run_until(world.now_ms + 4 * HOUR_MS)
    world.forget()
    world.run_until(world.now_ms + HOUR_MS)
    _show_day(world, f"{title}, at rest")
    by_database = {store.database: store for store in world.stores}
    posted_bytes = 0
    world.forget()
    for minute in range(60):
        folder = rng.randrange(folders_count)
        raw = b"Subject: %d\r\n\r\n" % minute + rng.randbytes(500).hex().encode()
        posted_bytes += len(pack(raw))
        world.post(by_database[rng.choice(chosen[folder])], folders[folder], raw)
        world.run_until(world.now_ms + MINUTE_MS)
    _show_day(world, f"a post a minute, {24 * posted_bytes / 1e6:.2f} MB of content a day")


def _show_day(world: Weighed, title: str) -> None:
    name, messages, link_bytes, _ = max(world.over_links(), key=lambda link: link[2])
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(world.messages.items()))
    print(f"{title}: an hour {kinds}")
    print(f"  most from {name}: {24 * messages:,} messages, {24 * link_bytes / 1e6:.2f} MB a day")


MEASURES: Final = {
    "backlog": backlog,
    "crossings": crossings,
    "dead": dead_claims,
    "permissions": permissions,
    "rest": at_rest,
}


def main(arguments: Sequence[str]) -> None:
    """Run the measures that are named, all without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measures", nargs="*", choices=[*MEASURES, []], help="those to run; all without")
    parser.add_argument("--scale", type=float, default=0.1, help="the size: 1 is the whole; 0.1 without it")
    chosen = parser.parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a figure is seen as soon as there is one
    print(f"counts of posts, folders and, of `rest`, stores: {chosen.scale:g} of those that are aimed at")
    for name in chosen.measures or MEASURES:
        started = time.process_time()
        MEASURES[name](chosen.scale)
        print(f"{name}: {time.process_time() - started:,.0f} s of processor time")


if __name__ == "__main__":
    main(sys.argv[1:])
