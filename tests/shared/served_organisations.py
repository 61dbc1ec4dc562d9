"""Servers of an organisation, each served by a process of its own, and what people do there."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from organisations import make_organisation
from served import Served, serving

from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.store.clock import SystemClock

if TYPE_CHECKING:
    from click.testing import Result
    from conftest import Pillarbox

WAIT_MS = 150_000
SERVED_SECONDS = 400


def eventually(is_so: Callable[[], Any]) -> None:
    clock = SystemClock()
    until_ms = clock.monotonic_ms() + WAIT_MS
    while not is_so():
        assert clock.monotonic_ms() < until_ms, "it did not come about in time"
        clock.sleep_ms(50)


class Organisation:
    """Servers, the processes that serve them, and what people do."""

    def __init__(
        self, pillarbox: Pillarbox, place: Path, sites: dict[str, str], nats: NatsSettings | None = None
    ) -> None:
        self._pillarbox = pillarbox
        self.paths = make_organisation(place, sites, nats)
        self.place = place
        self._stacks: dict[str, ExitStack] = {}
        self.served: dict[str, Served] = {}

    def serve(self, name: str) -> None:
        stack = self._stacks[name] = ExitStack()
        (self.place / f"{name}-run").mkdir(exist_ok=True)
        self.served[name] = stack.enter_context(
            serving(self.paths[name], self.place / f"{name}-run", seconds_max=SERVED_SECONDS)
        )

    def end(self, name: str, number: int = signal.SIGTERM) -> int:
        code = self.served.pop(name).end(number)
        self._stacks.pop(name).close()
        return code

    def answer(self, name: str, *words: object) -> Any:
        command, *rest = words
        return self._pillarbox.answer(*str(command).split(), self.paths[name], *rest)

    def share(self, name: str, folder: str, *others: str) -> None:
        """Make a folder at a server with a replica at others, which have begun to hold it."""
        self.answer(name, "folder create", "/", folder)
        self.answer(name, "replica add", folder, *others)
        self.in_sync(name, folder)

    def in_sync(self, name: str, folder: str) -> None:
        self.answer(name, "replication status", folder, "--wait", WAIT_MS // 1000)

    def post(self, name: str, folder: str, subject: str) -> None:
        mail = self.place / "mail" / subject / folder
        mail.mkdir(parents=True)
        (mail / f"{subject}.eml").write_text(f"Subject: {subject}\n\n{subject}\n")
        self.answer(name, "import", "/", mail)

    def subjects(self, name: str, folder: str) -> list[str]:
        result = self._pillarbox.run("message", "list", self.paths[name], "/", folder, "--json")
        return sorted(each["subject"] for each in json.loads(result.stdout)) if result.exit_code == 0 else []

    def run(self, *words: object) -> Result:
        return self._pillarbox.run(*words)

    def close(self) -> None:
        for name in list(self.served):
            self.end(name)
