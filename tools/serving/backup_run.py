"""A backup that is due, taken by `pillarbox backup run-due` in a process of its own.

Of its own, since LMDB ends the process that meets a bent page, and since a backup takes a core for its
digests, which the threads of one Python would take from deliveries. It reads beside the serving process as
any command does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.store import errors
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.serving.backup_plan import BackupPlan

PILLARBOX: Final = (sys.executable, "-c", "from pillarbox.tools.main import run; run()")
_END_SECONDS: Final = 3  # to let go of the repository's lock; then the process is killed


class BackupOutcome(NamedTuple):
    """The end of a look at the schedule: the id of the snapshot that was taken, empty when none was due, when
    to look again (ms UTC), and an error that did not stop it, with its hint.
    """

    snapshot: str
    next_ms: int
    complaint: str = ""
    hint: str = ""


class BackupRuns:
    """Runs backups of one server's storage groups, each in its process; `end` ends those that run."""

    def __init__(self, server: Path, environment: Mapping[str, str]) -> None:
        self._server = server
        self._environment = environment
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._has_ended = False

    def run(self, plan: BackupPlan, group: str) -> BackupOutcome:
        """Take the backup of a storage group if one is due. Raises what the command ended with."""
        words = [str(self._server), plan.repository, "--group", group, *plan.options(self._environment)]
        with self._lock:
            if self._has_ended:
                raise errors.Refused("the server is being closed")
            process = subprocess.Popen(
                [*PILLARBOX, "backup", "run-due", *words, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=dict(self._environment),
                start_new_session=True,
            )
            self._running.add(process)
        try:
            out, told = process.communicate()
        finally:
            self._running.discard(process)
        return outcome_of(process.returncode, out, told)

    def end(self) -> None:
        """End the backups that run; what they have stored is taken up by the next ones. No other begins."""
        with self._lock:
            self._has_ended = True
            running = list(self._running)
        for process in running:
            _tell(process, signal.SIGINT)
        for process in running:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                _tell(process, signal.SIGKILL)


def _tell(process: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)  # the command has a child that does the work


def outcome_of(code: int, out: str, told: str) -> BackupOutcome:
    """The outcome of `pillarbox backup run-due --json` by what it wrote.

    Raises the error that it ended with, unless it took a backup all the same.
    """
    try:
        found = json.loads(out)
        outcome = BackupOutcome(found["snapshot"] or "", int(found["next_ms"]))
    except (ValueError, TypeError, KeyError):
        raise _error_of(code, told) from None
    if code == 0:
        return outcome
    error = _error_of(code, told)
    return outcome._replace(complaint=str(error), hint=error.hint)


def _error_of(code: int, told: str) -> PillarboxError:
    for line in reversed(told.splitlines()):
        with suppress(ValueError, TypeError, KeyError):
            found = json.loads(line)
            kind = getattr(errors, str(found["class"]), PillarboxError)
            if isinstance(kind, type) and issubclass(kind, PillarboxError):
                return kind(str(found["error"]), hint=str(found["hint"]))
    last = told.strip().splitlines()[-1:] or [f"the backup ended with {code}"]
    return PillarboxError(last[0])
