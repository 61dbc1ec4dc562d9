"""A server of NATS that is restarted, killed, and away, while servers replicate by it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pillarbox.tools.bench.served_nodes import Node, Nodes, eventually, some_lines
from pillarbox.tools.bench.shaped_links import inside

PORT: Final = 4222
_POSTS_EVERY_SECONDS: Final = 1.0


def why_not() -> str:
    """Say why there can be no NATS here; nothing where there can."""
    if not shutil.which("nats-server"):
        return "nats-server (of Debian) is not installed"
    return "" if find_spec("nats") else "nats-py (the extra `nats`) is not installed"


class NatsProcess:
    """A server of NATS with JetStream in a namespace, whose streams are in a directory and stay there."""

    def __init__(self, directory: Path, namespace: str, address: str) -> None:
        directory.mkdir(parents=True)
        self._directory, self._namespace = directory, namespace
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "server.conf").write_text(
            f'listen: "{address}:{PORT}"\n'
            f'jetstream {{ store_dir: "{directory / "store"}", max_file_store: 2G }}\n'
        )

    def start(self) -> None:
        """Start it; servers connect to it when it listens."""
        command = ["nats-server", "-c", str(self._directory / "server.conf")]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(inside(self._namespace, command), stdout=log, stderr=log)

    def end(self, number: int) -> None:
        """End it by a signal."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


class Trouble:
    """Posts at two servers in turn, while something happens to the server of NATS between them."""

    def __init__(self, nodes: Nodes, nats: NatsProcess, folder: str) -> None:
        self._one, self._other = nodes
        self._nats, self._folder = nats, folder
        self._count = 0

    def restarted(self) -> str:
        """Stop it as its unit does, and start it at once."""
        return self._ended(signal.SIGTERM, 0)

    def killed(self) -> str:
        """Kill it, and start it at once."""
        return self._ended(signal.SIGKILL, 0)

    def away(self, seconds: int) -> str:
        """Kill it, and start it after a while."""
        return self._ended(signal.SIGKILL, seconds)

    def _ended(self, number: int, seconds: int) -> str:
        self._post_for(5)
        self._nats.end(number)
        self._post_for(seconds)
        self._nats.start()
        began = time.monotonic()
        self._post_for(5)
        took = eventually(self._are_all_there, 900, every=0.2) + time.monotonic() - began
        return f"all {self._count} posts at both servers {took:.0f} s after it was back"

    def _post_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            node = (self._one, self._other)[self._count % 2]
            self._count += 1
            node.post(self._folder, [some_lines(f"post {self._count}")])
            time.sleep(_POSTS_EVERY_SECONDS)

    def _are_all_there(self) -> bool:
        return all(self._posts_at(node) == self._count for node in (self._one, self._other))

    def _posts_at(self, node: Node) -> int:
        with node.reading() as reading:
            return len(reading.subjects(self._folder))
