"""Servers of one organisation, each served by a process in a network namespace of its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pillarbox
from pillarbox.replication.core import organisation_folder
from pillarbox.replication.ground.records import ReplicaState
from pillarbox.replication.membership.certificates import certify, new_authority, new_key
from pillarbox.replication.node.member_files import MemberFiles, NodeSettings
from pillarbox.replication.organisation.topology import Connector, Organisation, Server, TransportName
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.store.clock import SystemClock
from pillarbox.store.disk.tables import FolderRecord, ItemRecord
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.ids import id_text, new_guid
from pillarbox.store.upkeep.joining import join
from pillarbox.tools.bench.shaped_links import Link, Network, inside
from pillarbox.tools.operations.replicating import public_folder_stores, replicator_at_rest
from pillarbox.tools.serving.backup_run import PILLARBOX

PORT: Final = 7337
ACTOR: Final = pillarbox.Actor.task("bench")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Node:
    """A server of the organisation, and the process that serves it while one does."""

    def __init__(self, name: str, site: str, path: Path, namespace: str) -> None:
        self.name, self.site, self.path = name, site, path
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None
        self._calls: pillarbox.Connected | None = None

    # --- its process --------------------------------------------------------------------------------------

    @property
    def is_served(self) -> bool:
        return self._process is not None

    @property
    def process_id(self) -> int:
        """The id of the process that serves it."""
        assert self._process, f"{self.name} is not served"
        return self._process.pid

    def serve(self) -> None:
        """Start a process that serves it; return once it answers. Its log is beside the server."""
        command = inside(self._namespace, [*PILLARBOX, "serve", str(self.path)])
        with self.path.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log)

        def answers() -> bool:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended; its log: {self.path.with_suffix('.log')}")
            try:
                pillarbox.connect(self.path).close()
            except pillarbox.errors.NotFound:
                return False
            return True

        eventually(answers, 60)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End its process by a signal; nothing where there is none."""
        if self._calls:
            self._calls.close()
            self._calls = None
        if self._process:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """End its process at once, wherever it is."""
        self.end(signal.SIGKILL)

    def cut_off(self) -> None:
        """Let nothing through to it or from it."""
        subprocess.run(["ip", "-n", self._namespace, "link", "set", "eth0", "down"], check=True)

    def let_in(self) -> None:
        """Let all through again."""
        subprocess.run(["ip", "-n", self._namespace, "link", "set", "eth0", "up"], check=True)

    def memory(self) -> Mapping[str, int]:
        """Bytes of memory of its process: `VmHWM`, the most so far, and `RssAnon`, that of no file."""
        lines = Path(f"/proc/{self.process_id}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}

    def processor_seconds(self) -> float:
        """The processor time that its process has used."""
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    # --- what is asked of it ------------------------------------------------------------------------------

    def call(self, operation: str, *, items: Iterable[Any] = (), **arguments: Any) -> Any:
        """Do an operation by its control socket. Raises what that raises."""
        if self._calls is None:
            self._calls = pillarbox.connect(self.path)
        try:
            return self._calls.call(operation, items=items, **arguments)
        except pillarbox.errors.PeerUnreachable:
            self._calls = None
            raise

    def post(self, folder: str, raws: Iterable[bytes]) -> int:
        """Post messages to a folder; how many it took."""
        items = ([[folder], raw, [], 0, "bench", 0, ""] for raw in raws)
        done = self.call("message.import", mailbox="/", database="", lone=[], items=items)
        return int(done["imported"])

    def share(self, folder: str, others: Iterable[Node]) -> None:
        """Make a folder here with replicas at others too."""
        self.call("folder.create", mailbox="/", folder=folder, parents=True)
        self.call("replica.add", folder=folder, servers=[each.name for each in others], recursive=False)

    def is_in_sync(self, folder: str = "") -> bool:
        """Say whether all replicas that it knows of are in sync, and have those that are not asked."""
        return all(row["in_sync"] for row in self.call("replication.status", folder=folder, ask=True))

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Its public folders, read beside its process."""
        with pillarbox.Server.open(self.path, read_only=True) as server:
            (store,) = public_folder_stores(server)
            yield Reading(store)


class Reading:
    """The public folders of a server as they are from moment to moment."""

    def __init__(self, store: pillarbox.Database) -> None:
        self._store = store

    def count(self, folder: str) -> int:
        """The messages of a folder; 0 where it is not there."""
        with self._store.read(ACTOR) as read:
            found = _find(read, folder)
            return found.messages_count if found else 0

    def arrived(self, folder: str, after_uid: int) -> list[ItemRecord]:
        """The messages of a folder above a UID."""
        with self._store.read(ACTOR) as read:
            found = _find(read, folder)
            if found is None or found.uid_next <= after_uid + 1:
                return []
            items = (
                pillarbox.messages.get_by_uid(read, found.folder_id, uid)
                for uid in range(after_uid + 1, found.uid_next)
            )
            return [item for item in items if item is not None]

    def subjects(self, folder: str) -> dict[str, str]:
        """The ids of the messages of a folder, by subject."""
        with self._store.read(ACTOR) as read:
            found = _find(read, folder)
            items = pillarbox.folders.messages(read, found.folder_id) if found else ()
            return {item.subject: id_text(item.message_id) for item in items}

    def holds(self, folder: str) -> bool:
        """True where the server has an active replica of a folder."""
        with self._store.read(ACTOR) as read:
            found = _find(read, folder)
            replicas = {row[:2] for row in found.replicas} if found else set()
            return (self._store.guid, ReplicaState.ACTIVE) in replicas

    def contents(self) -> dict[str, list[bytes]]:
        """The content, flags and keywords, which have no order, of the messages of each folder, sorted."""
        with self._store.read(ACTOR) as read:
            return {
                "/".join(path): sorted(
                    repr((item.flags, sorted(item.keywords))).encode()
                    + pillarbox.messages.content(read, item)
                    for item in pillarbox.folders.messages(read, folder.folder_id)
                )
                for path, folder in pillarbox.public_folders.walk(read, "")
            }


def _find(read: Reader, folder: str) -> FolderRecord | None:
    try:
        return pillarbox.public_folders.find(read, folder)
    except pillarbox.errors.NotFound:
        return None


class Nodes:
    """All servers of an organisation, by name, with the links between its sites. Ends all at the end."""

    def __init__(
        self,
        root: Path,
        network: Network,
        sites: Mapping[str, str],
        *,
        are_apart: bool = True,
        nats: NatsSettings | None = None,
    ) -> None:
        """Make a server for each name, in the site that it is given; the sites are in a chain.

        All know each other from the beginning, as after each has joined. Where they are not `are_apart`,
        those of a site share a namespace: the kernel knows a thousand neighbours at most, of all together.
        With `nats` the links between sites are by NATS.
        """
        names = sorted({*sites.values()})
        self.links: dict[tuple[str, str], Link] = {}
        self._all: dict[str, Node] = {}
        rng, now_ms = random.Random(new_guid(random.Random())), SystemClock().now_ms()
        tree = new_guid(rng)
        authority, servers = new_authority(tree, now_ms), {}
        places: dict[str, tuple[str, str]] = {}
        for number, (name, site) in enumerate(sites.items()):
            place = name if are_apart else site
            if place not in places:
                places[place] = network.add_node(place, site)
            namespace, address = places[place]
            node = self._all[name] = Node(name, site, root / name, namespace)
            with pillarbox.Server.create(node.path) as server:
                (store,) = public_folder_stores(server)
                key, listen = new_key(), f"{address}:{PORT + number}"
                certificate = certify(authority, store.guid, key.public_key(), now_ms)
                files = MemberFiles(node.path)
                files.keep_key(key)
                files.keep_certificate(certificate)
                files.keep_settings(NodeSettings(listen=(listen,), nats=nats))
                servers[store.guid] = Server(
                    store.guid, name, site, 1, addresses=(listen,), certificates=(certificate.der,)
                )
                join(store, ACTOR, tree)
        chain = list(pairwise(names))
        self.links = {pair: network.join(*pair) for pair in chain}
        transport = TransportName.NATS if nats else TransportName.DIRECT
        organisation = Organisation(
            servers,
            tuple(Connector(f"{one}-{other}", (one, other), 10, transport=transport) for one, other in chain),
            sites=tuple(names),
            authorities=(authority.certificate.der,),
        )
        first, *others = self
        with pillarbox.Server.open(first.path) as server:
            performs = replicator_at_rest(server)
            performs.perform(lambda replica: organisation_folder.apply(replica, organisation, "bench"))
            entries = performs.perform(organisation_folder.entries)
        for node in others:  # did each write them, there would be as many versions of them as servers
            MemberFiles(node.path).keep_first_entries(entries)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._all.values())

    def __getitem__(self, name: str) -> Node:
        return self._all[name]

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *error: object) -> None:
        for node in self:
            node.kill()

    def serve(self) -> None:
        """Serve all, and wait until they agree on the hierarchy."""
        for node in self:
            node.serve()
        self.settle()

    def settle(self, folder: str = "", seconds: float = 600) -> None:
        """Wait until all that are served are in sync: of a folder, or of all that they hold."""
        for node in self:
            if node.is_served:
                eventually(lambda node=node: node.is_in_sync(folder), seconds, every=0.5)  # type: ignore[misc]


def some_lines(subject: str) -> bytes:
    """A message of some lines."""
    text = "some lines of text\n" * 40
    return f"Subject: {subject}\n\n{text}".encode()


def eventually(is_so: Callable[[], bool], seconds: float, every: float = 0.05) -> float:
    """Wait until something is so; the seconds that it took. Raises TimeoutError."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"it did not come about within {seconds:.0f} s")
        time.sleep(every)
    return time.monotonic() - began


def percentile(found: Sequence[float], share: float) -> float:
    """The value that so large a share of the found ones does not exceed."""
    ordered = sorted(found)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
