"""Chaos among served servers: what people and operators do while processes are killed, links are cut and
servers are restored from backups; in the end all must hold the same.

What is done follows from a seed; when, and so what comes of it, from the machine.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from pillarbox.store.errors import PeerUnreachable, PillarboxError
from pillarbox.tools.bench.served_nodes import Node, Nodes, Reading, eventually
from pillarbox.tools.serving.backup_run import PILLARBOX

SITES: Final = {"a1": "aaa", "a2": "aaa", "b1": "bbb", "b2": "bbb", "c1": "ccc"}
FOLDERS: Final = tuple(f"Folder {number}" for number in range(6))
PAUSE_SECONDS: Final = 1.0  # on average between two steps
AWAY_SECONDS: Final = 20.0  # on average until what was taken away is back
CONVERGE_SECONDS: Final = 1800

_WEIGHTS: Final = {
    "post": 40,
    "delete": 14,
    "flag": 10,
    "edit": 5,
    "kill": 4,
    "end": 2,
    "cut_link": 3,
    "cut_off": 3,
    "back_up": 3,
    "restore": 2,
    "add_replica": 3,
    "remove_replica": 2,
    "stop_content": 1,
    "command": 6,
}


class Text(NamedTuple):
    """A message that somebody has posted: where, and under which subject."""

    folder: str
    subject: str


class Chaos:
    """An organisation to which things happen, and what must hold of it in the end.

    Of each message that was posted or deleted it is known who has seen so; where a server is put back, what
    it alone knew of is lost rightly, and no longer asked for.
    """

    def __init__(self, nodes: Nodes, seed: int) -> None:
        self._nodes, self._rng = nodes, random.Random(seed)
        self._count = 0
        self._back: list[tuple[float, Callable[[], None]]] = []  # what is undone, and when
        self._backed_up: set[str] = set()
        self._posted: dict[Text, set[str]] = {}  # who was seen with it
        self._deleted: dict[Text, set[str]] = {}  # who was seen without it, after having had it
        self._unsure: set[Text] = set()  # was deleted, unless that was lost with all who were seen to know
        self._seen: dict[str, set[Text]] = {node.name: set() for node in nodes}
        self._was_removed: set[tuple[str, str]] = set()  # a server and a folder: it proves nothing any more
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    # --- what happens -------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let things happen for so long, then undo what was cut off or stopped."""
        first, *others = self._nodes
        for folder in FOLDERS:
            first.share(folder, others)
        self._nodes.settle()
        until = time.monotonic() + seconds
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        while time.monotonic() < until:
            self._undo(time.monotonic())
            (kind,) = self._rng.choices(kinds, weights)
            try:
                getattr(self, f"_{kind}")()
                self.done[kind] += 1
            except (PillarboxError, subprocess.CalledProcessError) as error:
                self.refused[f"{kind}: {_reason(error)}"] += 1
            time.sleep(self._rng.expovariate(1 / PAUSE_SECONDS))
        self._undo(float("inf"))
        for node in self._nodes:
            if not node.is_served:
                node.serve()
        first.call("replication.resume", start_ms=0, rate_bytes=0)

    def _later(self, undo: Callable[[], None]) -> None:
        self._back.append((time.monotonic() + self._rng.expovariate(1 / AWAY_SECONDS), undo))

    def _undo(self, now: float) -> None:
        due = [each for each in self._back if each[0] <= now]
        self._back = [each for each in self._back if each[0] > now]
        for _, undo in due:
            undo()

    def _any(self) -> Node:
        served = [node for node in self._nodes if node.is_served]
        if not served:
            raise PeerUnreachable("nobody is served")
        return self._rng.choice(served)

    def _post(self) -> None:
        node, folder = self._any(), self._rng.choice(FOLDERS)
        raws, texts = [], []
        for _ in range(self._rng.randint(1, 5)):
            self._count += 1
            kind = self._rng.choice(("plain", "plain", "flagged", "edited"))
            texts.append(Text(folder, f"{kind} {self._count}"))
            body = self._rng.randbytes(self._rng.randint(10, 20_000)).hex()
            raws.append(f"Subject: {texts[-1].subject}\n\n{body}\n".encode())
        node.post(folder, raws)
        for text in texts:
            self._posted[text] = {node.name}
            self._seen[node.name].add(text)

    def _delete(self) -> None:
        """Delete a message that nobody changes: a change that did not know of it would bring it back."""
        node, text, number = self._some("plain")
        self._unsure.add(text)  # a call that fails may have done its work
        node.call("message.delete", mailbox="/", messages=[number])
        self._deleted[text] = {node.name}

    def _flag(self) -> None:
        node, _, number = self._some("flagged")
        word = f"word{self._rng.randrange(5)}"
        given = {"add": [word], "remove": []} if self._rng.random() < 0.7 else {"add": [], "remove": [word]}
        node.call("message.flag", mailbox="/", messages=[number], **given)

    def _edit(self) -> None:
        node, text, number = self._some("edited")
        raw = f"Subject: {text.subject}\n\nedited at {node.name}, {self._rng.random()}\n".encode()
        node.call("message.edit", mailbox="/", message=number, items=[raw])

    def _some(self, kind: str) -> tuple[Node, Text, str]:
        """A server, and a message of a kind that it has."""
        node = self._any()
        with node.reading() as reading:
            found = [
                (Text(folder, subject), number)
                for folder in FOLDERS
                for subject, number in reading.subjects(folder).items()
                if subject.startswith(kind)
            ]
        if not found:
            raise PeerUnreachable(f"{node.name} has none")
        return (node, *self._rng.choice(found))

    def _kill(self) -> None:
        node = self._any()
        node.kill()
        self._later(node.serve)

    def _end(self) -> None:
        node = self._any()
        node.end()
        self._later(node.serve)

    def _cut_link(self) -> None:
        link = self._rng.choice(list(self._nodes.links.values()))
        link.cut()
        self._later(link.heal)

    def _cut_off(self) -> None:
        node = self._rng.choice(list(self._nodes))
        node.cut_off()
        self._later(node.let_in)

    def _back_up(self) -> None:
        node = self._any()
        repository = node.path.with_suffix(".backup")
        if node.name not in self._backed_up:
            _command("backup", "init", repository, "--no-encryption")
            self._backed_up.add(node.name)
        _command("backup", "create", node.path, repository)

    def _restore(self) -> None:
        """Put a server back to its last backup, served or not."""
        if not self._backed_up:
            raise PeerUnreachable("there is no backup")
        node = self._nodes[self._rng.choice(sorted(self._backed_up))]
        self._forget_what_goes_with(node)
        repository = node.path.with_suffix(".backup")
        _command("backup", "restore", repository, "latest", "--server", node.path, "--all", "--yes")
        _command("backup", "discard-replaced", node.path, "--yes")

    def _add_replica(self) -> None:
        name = self._rng.choice(list(SITES))
        self._any().call("replica.add", folder=self._rng.choice(FOLDERS), servers=[name], recursive=False)

    def _remove_replica(self) -> None:
        name, folder = self._rng.choice(list(SITES)), self._rng.choice(FOLDERS)
        self._any().call("replica.remove", folder=folder, servers=[name], recursive=False)
        self._was_removed.add((name, folder))
        self._forget(name, folder)

    def _stop_content(self) -> None:
        self._any().call("replication.stop")
        self._later(lambda: self._any().call("replication.resume", start_ms=0, rate_bytes=0))

    def _command(self) -> None:
        node, folder = self._any(), self._rng.choice(FOLDERS)
        name = self._rng.choice(list(SITES))
        given: dict[str, Any]
        operation, given = self._rng.choice(_COMMANDS)
        asked = {"folder": folder, "servers": [name]}
        given = {key: asked[key] if value is ... else value for key, value in given.items()}
        node.call(operation, **given)

    # --- what must hold -----------------------------------------------------------------------------------

    def _forget_what_goes_with(self, node: Node) -> None:
        """A server is about to be put back: what nobody else was seen to know of may be lost with it."""
        self._look()
        for folder in FOLDERS:
            self._forget(node.name, folder)
        self._seen[node.name].clear()

    def _forget(self, name: str, folder: str) -> None:
        """A server is no proof any more of what it knew of a folder."""
        for known in (self._posted, self._deleted):
            for text, by in list(known.items()):
                if text.folder == folder:
                    by.discard(name)
                    if not by:
                        del known[text]

    def _look(self) -> None:
        """Note who has seen what by now."""
        for node in self._nodes:
            with node.reading() as reading:
                here = _texts(reading)
                proves = {
                    folder
                    for folder in FOLDERS
                    if reading.holds(folder) and (node.name, folder) not in self._was_removed
                }
            for text in here & self._posted.keys():
                if text.folder in proves:
                    self._posted[text].add(node.name)
            for text in self._seen[node.name] & self._deleted.keys() - here:
                if text.folder in proves:
                    self._deleted[text].add(node.name)
            self._seen[node.name] |= here

    def converge(self) -> float:
        """Wait until all replicas hold the same, and all say so; the seconds that it took. Raises
        TimeoutError."""
        return eventually(self._is_converged, CONVERGE_SECONDS, every=5)

    def _is_converged(self) -> bool:
        try:
            in_sync = all(node.is_in_sync() for node in self._nodes)
        except PillarboxError:
            return False
        return in_sync and not self.differences()

    def differences(self) -> list[str]:
        """The folders in which two replicas do not hold the same, byte for byte."""
        found = []
        contents = {}
        for node in self._nodes:
            with node.reading() as reading:
                contents[node.name] = reading.contents()
        paths = {frozenset(each) for each in contents.values()}
        if len(paths) > 1:
            found.append("the servers do not have the same folders")
        for folder in FOLDERS:
            rows = self._nodes["a1"].call("replica.list", folder=folder)
            names = [row["server"] for row in rows]
            if len({json.dumps([*map(bytes.hex, contents[name].get(folder, ()))]) for name in names}) > 1:
                found.append(f"{folder} differs at {', '.join(names)}")
        return found

    def faults(self) -> list[str]:
        """The messages that were lost, and those that were deleted and are back."""
        here = set()
        for node in self._nodes:
            with node.reading() as reading:
                here |= _texts(reading)
        edited = {text for text in self._posted if text.subject.startswith("edited")}  # perhaps in conflict
        lost = self._posted.keys() - self._unsure - here - edited
        back = here & self._deleted.keys()
        return [f"lost: {text}" for text in sorted(lost)] + [f"back: {text}" for text in sorted(back)]


_COMMANDS: Final[Sequence[tuple[str, dict[str, Any]]]] = (
    ("replication.status", {"folder": "", "ask": True}),
    ("replication.explain", {"folder": ...}),
    ("replication.synchronize_hierarchy", {}),
    ("replication.send_hierarchy", {"servers": ..., "days": 1}),
    ("replication.send_contents", {"folder": ..., "servers": ..., "days": 1, "recursive": False}),
    ("folder.create", {"mailbox": "/", "folder": "Others", "parents": True}),
    ("folder.settings", {"folder": ...}),
    ("replica.list", {"folder": ...}),
)


def _texts(reading: Reading) -> set[Text]:
    return {Text(folder, subject) for folder in FOLDERS for subject in reading.subjects(folder)}


def _command(*words: object) -> None:
    command = [*PILLARBOX, *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return str(error.stderr).strip().splitlines()[-1][:120] if error.stderr else str(error)
    return type(error).__name__
