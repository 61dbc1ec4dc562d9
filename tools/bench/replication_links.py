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
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from itertools import pairwise
from typing import Final

from pillarbox.replication.core import at_rest as rounds_at_rest
from pillarbox.replication.core import hierarchy, writing
from pillarbox.replication.core.preset import CLASSIC, DAY_MS, HOUR_MS, MINUTE_MS, PROMPT
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import Knowledge
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.wire.frame import pack
from pillarbox.replication.wire.messages import Message, RestPoll
from pillarbox.store.change_number import CNSet
from pillarbox.tools.bench.crossings import crossings
from pillarbox.tools.bench.find import tree_of
from pillarbox.tools.bench.packed_changes import alone, in_packs
from pillarbox.tools.bench.weighed import ACTOR, Weighed, show, star
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus, resample

WAYS: Final = {  # of each site's changes, in the organisation of `star`
    "a": ("a to b", "a to c", "c to d"),
    "b": ("b to a", "a to c", "c to d"),
    "c": ("c to a", "a to b", "c to d"),
    "d": ("d to c", "c to a", "a to b"),
}


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
            packed = in_packs(messages, world.contents_of)
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
    return alone(replica, folder, number)


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


def digests(scale: float) -> None:
    """Processor time of the rounds at rest at a store where ten folders change each second."""
    replica, _ = tree_of(max(50, int(10_000 * scale)))
    before = replica.organisation.servers
    sites = dict(zip(before, "aabbccddee", strict=True))
    servers = {
        guid: server._replace(site=sites[guid]) for guid, server in replica.organisation.servers.items()
    }
    replica.organisation = replace(replica.organisation, servers=servers)
    for folder in hierarchy.places(replica):
        state = replica.state(folder)
        state.is_held, state.knowledge = True, Knowledge(CNSet.full(b"B" * 16, folder.counter))
        hierarchy.match_rows(replica, folder)
    folders, rng, rounds, spent_s = list(replica.record.folders), random.Random(8), 4, 0.0
    for number in range(rounds + 1):
        began_s = time.process_time()
        rounds_at_rest.take(replica, replica.me.database, RestPoll({}, frozenset("abcde")))
        spent_s += time.process_time() - began_s if number else 0.0  # the first one makes all sums
        for _ in range(int(10 * PROMPT.status_rest_ms / 1000)):
            folder = rng.choice(folders)
            replica.record.folders[folder].knowledge.claim(CNSet.full(b"B" * 16, rng.randrange(100_000)))
            replica.rounds.sums.changed.add(folder)
    part = spent_s / (rounds * PROMPT.status_rest_ms / 1000)
    print(f"{len(folders):,} folders, 10 changes a second: sums take {100 * part:.3f} % of a core")


MEASURES: Final = {
    "backlog": backlog,
    "crossings": crossings,
    "dead": dead_claims,
    "digests": digests,
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
