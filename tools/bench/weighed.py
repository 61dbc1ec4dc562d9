"""An organisation in a simulation whose links carry what bundles are on the wire, and are weighed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pillarbox.replication.core import writing
from pillarbox.replication.core.effects import Effect
from pillarbox.replication.core.preset import HOUR_MS, Preset
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import MessageVersion, ObjectId, ReplicaState
from pillarbox.replication.organisation.topology import Connector
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.network import Carried, Freight, IsHad, Link
from pillarbox.replication.simulation.world import World
from pillarbox.replication.wire.encoding import encode_body
from pillarbox.replication.wire.frame import HEADER_BYTES, pack, pack_route
from pillarbox.replication.wire.messages import Bundle, Changes, Message
from pillarbox.replication.wire.transport_frames import LABEL_BYTES, RECEIPT_BYTES
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.content.blocks import digest_of

ACTOR: Final = "bench"
SIGNATURE_BYTES: Final = 72
LINK_BYTES_PER_MS: Final = 100.0


@dataclass
class CountedLink(Link):
    """One direction between two sites, with how often each version crossed it."""

    times: Counter[Carried] = field(default_factory=Counter)

    def carry(self, freight: Freight, now_ms: int, is_had: IsHad) -> int:
        """Count what goes over the link; the time at which the link has taken it."""
        self.times.update(freight.versions.keys())
        return super().carry(freight, now_ms, is_had)


class Weighed(World):
    """An organisation on a network that loses nothing, where links carry what bundles are on the wire."""

    def __init__(self, sites: str, links: Sequence[tuple[str, str]], preset: Preset) -> None:
        super().__init__(1, 1, preset)
        self.network.loss = self.network.doubled = self.network.late = 0.0
        connectors = tuple(Connector(one + other, (one, other), 10) for one, other in links)
        self.organisation = replace(self.organisation, connectors=connectors, sites=tuple(sorted({*sites})))
        self.wires = connectors
        for one, other in links:
            for hop in ((one, other), (other, one)):
                self.network.links[hop] = CountedLink(LINK_BYTES_PER_MS)
        self.replays.every = 0
        self.posted_ms: dict[Carried, int] = {}
        self.latest_ms = 0  # the longest time from a post until a store had it
        self._had: dict[tuple[bytes, ObjectId], CNSet] = {}
        self.contents: dict[bytes, bytes] = {}
        self.watched: set[ObjectId] = set()
        self.stores = [self.add_store(site, 7) for site in sites]
        self.run_until(self.now_ms + HOUR_MS)

    def weigh(self, bundle: Bundle, path: Sequence[str]) -> Freight:
        """The weight of a bundle as it is on the wire; within a site nothing is weighed."""
        freight = Freight.of(bundle.messages)
        if len(path) < 2:
            return freight
        body_bytes = len(pack(encode_body(bundle.messages, [*self.contents_of(bundle.messages)])))
        outside = HEADER_BYTES + len(pack_route(bundle.tree)) + SIGNATURE_BYTES + LABEL_BYTES + RECEIPT_BYTES
        return freight._replace(content_bytes=body_bytes + outside)

    def contents_of(self, messages: Iterable[Message]) -> Iterator[bytes]:
        """The raw messages that go with the changes in messages."""
        bodies = (message.body for message in messages if isinstance(message.body, Changes))
        for _, versions in (each for body in bodies for each in body.objects):
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
        self.watched.update(made)
        self.run_until(self.now_ms + 6 * HOUR_MS)
        self.forget()
        return made

    def post(self, store: Machine, folder: ObjectId, raw: bytes) -> None:
        """Post a message at a store."""
        digest = digest_of(raw)
        self.contents[digest] = raw
        made: ObjectId = self.local(
            store, lambda replica: writing.post(replica, folder, digest, len(raw), ACTOR)
        )
        self.posted_ms[folder, made] = self.now_ms

    def do(self, machine: Machine, effects: list[Effect]) -> None:
        """Do what a machine's call wants done, and note how long what came by it was under way."""
        super().do(machine, effects)
        if self.posted_ms and machine.deaf_until_ms <= self.now_ms:
            for folder in machine.replicator.replica.touched & self.watched:
                self._note_arrivals(machine, folder)

    def _note_arrivals(self, machine: Machine, folder: ObjectId) -> None:
        place = machine.database, folder
        had, known = self._had.get(place, CNSet()), machine.record.folders[folder].knowledge.known
        self._had[place] = known
        new = known - had
        for origin in new.origins():
            for first, last in new.ranges(origin):
                for counter in range(first, last + 1):
                    since_ms = self.posted_ms.get((folder, ChangeNumber(origin, counter)), self.now_ms)
                    self.latest_ms = max(self.latest_ms, self.now_ms - since_ms)

    def slow_down(self, bytes_per_ms: float) -> None:
        """Let all links between sites take so many bytes a millisecond from now on."""
        for (one, other), link in self.network.links.items():
            if one != other:
                link.bytes_per_ms = bytes_per_ms

    def forget(self) -> None:
        """Count from now on."""
        for link in self.network.links.values():
            link.messages = link.content_bytes = link.crossings = 0
            link.distinct.clear()
            if isinstance(link, CountedLink):
                link.times.clear()
        self.messages.clear()

    def crossings(self) -> tuple[float, int]:
        """Count how often a change crossed a link that it crossed at all: the highest mean of a link, and the
        most of any change."""
        links = [link for link in self.network.links.values() if isinstance(link, CountedLink) and link.times]
        means = [link.times.total() / len(link.times) for link in links]
        return max(means, default=0.0), max((max(link.times.values()) for link in links), default=0)

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
            if store.deaf_until_ms <= self.now_ms and store.replicator.replica.held(folders[0])
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
