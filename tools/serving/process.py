"""The serving process: a thin loop that starts what is due, each in a thread of its own, and waits.

What is due is decided in `due`, the work itself is that of the store and of `backup_run`. Whatever the
process is killed in, the store is whole, and each task finds out at the next start what there is left to do.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pillarbox
from pillarbox.store.clock import Clock
from pillarbox.store.disk.file_lock import FileLock
from pillarbox.store.errors import Dismounted, PillarboxError, Refused, WriterBusy
from pillarbox.store.events import Level
from pillarbox.store.server_config import read_config
from pillarbox.store.upkeep.time_of_day import RETRY_MS
from pillarbox.tools.serving.backup_plan import BackupPlan, read_backup_plan
from pillarbox.tools.serving.backup_run import BackupRuns
from pillarbox.tools.serving.control import ControlSocket
from pillarbox.tools.serving.due import LOOK_AGAIN_MS, Standing, Task, Work, choose_due
from pillarbox.tools.serving.following import Following
from pillarbox.tools.serving.lending import Lending
from pillarbox.tools.serving.log import ERROR, INFORMATION, WARNING, Log
from pillarbox.tools.serving.notices import Notices
from pillarbox.tools.serving.replicating import Replicating, make_node
from pillarbox.tools.serving.replication_status import Conflicts, Paths, replication_status
from pillarbox.tools.serving.status import complaints, server_status
from pillarbox.tools.serving.wakes import Wake, Wakes

if TYPE_CHECKING:
    from pillarbox.tools.serving.web import Address

SERVE_LOCK: Final = "serve.lock"
BUSY_AGAIN_MS: Final = 1_000


@contextmanager
def only_process(server: Path, clock: Clock) -> Iterator[None]:
    """Be the one process that serves a server. Raises WriterBusy when another one does."""
    try:
        lock = FileLock(server / SERVE_LOCK, "the server", clock)
    except WriterBusy as error:
        raise WriterBusy(
            f"{server} is served by another process", hint="one process serves a server: end that one first"
        ) from error
    with closing(lock):
        yield


class ServingProcess:
    """Holds an open server and runs what is due, until a wake asks it to stop."""

    def __init__(
        self,
        server: pillarbox.Server,
        *,
        log: Log,
        clock: Clock,
        wakes: Wakes,
        notices: Notices,
        plan: BackupPlan | None,
        lending: Lending,
        replicating: Replicating,
        environment: Mapping[str, str],
    ) -> None:
        """`plan` says which backups to take, `environment` is what they are run with."""
        self._server = server
        self._log = log
        self._clock = clock
        self._wakes = wakes
        self._notices = notices
        self._backups = BackupRuns(server.path, environment)
        self._plan = plan
        self._following = Following(server, lending.mount, replicating.released)
        self._replicating = replicating
        self._standings: dict[Task, Standing] = {
            Task(Work.SETTINGS): Standing(self._follow_again_ms(), clock.now_ms())
        }
        self._again: set[Task] = set()
        self._standing_lock = threading.Lock()
        self._refused = ""
        self._runs: dict[Work, Callable[[str], int]] = {
            Work.SETTINGS: self._follow,
            Work.SIZE_CHECK: lambda _: server.check_sizes(),
            Work.MAINTENANCE: lambda _: server.maintain(),
            Work.MEMBERSHIP: lambda _: replicating.renew(),
            Work.BACKUP: self._back_up,
        }

    def run(self) -> None:
        """Run what is due until asked to stop; then end backups that run. Closing the server is the caller's.

        Maintenance that runs is left to the close, which ends it at its next transaction.
        """
        self._notices.ready(f"serving {self._server.path}")
        while True:
            self._notices.alive()
            due = choose_due(self._tasks(), self.standings(), self._clock.now_ms())
            for task in due.tasks:
                self._begin(task)
            wakes = self._wakes.wait(self._rest_ms(due.wake_ms))
            if Wake.STOP in wakes:
                break
            if wakes & {Wake.RELOAD, Wake.SETTINGS_CHANGED}:
                self._look_at_settings(is_asked=Wake.RELOAD in wakes)
        self._notices.stopping()
        self._backups.end()

    def standings(self) -> dict[Task, Standing]:
        """The tasks that were begun, and where each stands."""
        with self._standing_lock:
            return dict(self._standings)

    def _rest_ms(self, wake_ms: int) -> int:
        rest_ms = wake_ms - self._clock.now_ms()
        alive_ms = self._notices.alive_every_ms
        return rest_ms if alive_ms is None else min(rest_ms, alive_ms)

    def _tasks(self) -> Iterator[Task]:
        for work in (Work.SETTINGS, Work.SIZE_CHECK, Work.MAINTENANCE):
            yield Task(work)
        if self._replicating.node is not None:
            yield Task(Work.MEMBERSHIP)
        if self._plan is not None:
            for name, group in list(self._server.groups.items()):
                if group.databases:
                    yield Task(Work.BACKUP, name)

    # -- one run of a task, in its thread

    def _begin(self, task: Task) -> None:
        with self._standing_lock:
            standing = self._standings.get(task, Standing())
            self._standings[task] = standing._replace(is_running=True)
        # Daemons: an end of the process waits for none of them. The server is closed before, under their
        # hands.
        threading.Thread(
            target=self._run_one, args=(task,), name=f"pillarbox-{task.work}", daemon=True
        ).start()

    def _run_one(self, task: Task) -> None:
        next_ms, failure = self._clock.now_ms() + RETRY_MS, ""
        try:
            next_ms = self._runs[task.work](task.subject)
        except PillarboxError as error:
            failure = str(error)
            self._log.say(WARNING, f"{self._named(task)} failed: {error}", hint=error.hint, work=task.work)
        except Exception as error:  # a fault of the program; the rest goes on
            failure = f"a fault of the program: {error}"
            self._log.say(ERROR, f"{self._named(task)} failed: {traceback.format_exc()}", work=task.work)
        with self._standing_lock:
            now_ms = self._clock.now_ms()
            self._standings[task] = Standing(0 if task in self._again else next_ms, now_ms, failure=failure)
            self._again.discard(task)
        self._wakes.wake(Wake.LOOK)

    def _named(self, task: Task) -> str:
        return f"{task.work} of {task.subject}" if task.subject else str(task.work)

    # -- the settings

    def _look_at_settings(self, *, is_asked: bool) -> None:
        if is_asked:
            self._refused = ""  # who asks is told again what is wrong
        task = Task(Work.SETTINGS)
        with self._standing_lock:
            if self._standings.get(task, Standing()).is_running:
                self._again.add(task)  # it may have read them already
            else:
                self._standings[task] = Standing()

    def _follow(self, _: str) -> int:
        try:
            plan = read_backup_plan(read_config(self._server.path).other)
            self._following.follow()
            self._replicating.follow_settings()
        except PillarboxError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                self._log.say(WARNING, f"{error}; the settings stay as they were", hint=error.hint)
        else:
            self._refused = ""
            self._take_over(plan)
        self._replicating.look()  # a store may have been mounted, or have joined an organisation
        return self._follow_again_ms()

    def _follow_again_ms(self) -> int:
        """When to follow server.toml next: soon where a command that ends in a moment has a database."""
        again_ms = BUSY_AGAIN_MS if self._following.has_busy() else LOOK_AGAIN_MS
        return self._clock.now_ms() + again_ms

    def _take_over(self, plan: BackupPlan | None) -> None:
        if plan == self._plan:
            return
        self._plan = plan
        with self._standing_lock:
            for task, standing in self._standings.items():
                if task.work is Work.BACKUP and not standing.is_running:
                    self._standings[task] = Standing()
        self._log.say(INFORMATION, "the settings of backups have changed", work=Work.BACKUP)

    # -- backups

    def _back_up(self, group: str) -> int:
        plan = self._plan
        if plan is None:
            return self._clock.now_ms() + LOOK_AGAIN_MS
        outcome = self._backups.run(plan, group)
        if outcome.snapshot:
            self._log.say(
                INFORMATION,
                f"backup of {group}: snapshot {outcome.snapshot} was taken",
                work=Work.BACKUP,
                snapshot=outcome.snapshot,
            )
        if outcome.complaint:
            self._log.say(
                WARNING, f"backup of {group}: {outcome.complaint}", hint=outcome.hint, work=Work.BACKUP
            )
        return outcome.next_ms


def serve(
    path: Path,
    *,
    log: Log,
    clock: Clock,
    wakes: Wakes,
    notices: Notices,
    address: Address | None,
    environment: Mapping[str, str],
) -> None:
    """Open a server, and serve it until a signal asks this process to end; over HTTP too at an `address`.

    All that lives as long as the server is open is entered in the stack, which is left before the server is
    closed. Raises NotFound, InvalidSetting and the like before it serves, WriterBusy when another process
    serves it.
    """
    plan = read_backup_plan(read_config(path).other)
    with (
        only_process(path, clock),
        wakes.of_signals(),
        wakes.of_changes(path),
        pillarbox.Server.open(path, diagnostics_min=Level.MINIMUM) as server,
        ExitStack() as stack,
    ):
        replicating = Replicating(server, log, make_node, clock)
        lending = Lending(server, replicating.released, replicating.look)
        process = ServingProcess(
            server,
            log=log,
            clock=clock,
            wakes=wakes,
            notices=notices,
            plan=plan,
            lending=lending,
            replicating=replicating,
            environment=environment,
        )
        count = _count_nothing
        if address is not None:
            from pillarbox.tools.serving.metrics import Metrics  # here, and `web`: of the extra `serve`
            from pillarbox.tools.serving.web import answering

            paths = Paths(server)

            def status() -> Mapping[str, Any]:
                found = replication_status(replicating.node, paths, replicating.refused)
                return server_status(server, process.standings(), lending, clock.now_ms(), found)

            conflicts = Conflicts(server)

            def shown() -> Mapping[str, Any]:
                found = dict(status())
                with suppress(Dismounted, Refused):  # the table of databases says so
                    if found["replication"] is not None:
                        found["replication"] = {**found["replication"], "conflicts": conflicts.rows()}
                return found

            metrics = Metrics(status)
            count = metrics.count
            wrong = partial(complaints, server, lending)
            host, port = stack.enter_context(answering(address, wrong, shown, metrics))
            log.say(INFORMATION, f"HTTP at {host}:{port}", port=port)
        stack.enter_context(replicating.running())
        stack.enter_context(ControlSocket(server, lending, log, clock, count, replicating).open())
        process.run()
        log.say(INFORMATION, f"{path} is being closed")
    log.say(INFORMATION, f"{path} is closed")


def _count_nothing(operation: str, seconds: float, error: str) -> None:
    """Stand in for metrics where nobody asks for them."""
