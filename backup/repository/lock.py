"""Locks in a repository: many writers that only add, or one that removes.

A lock is a small file that its holder replaces now and then. It ends when its holder releases it, when its
holder is known to be dead (a process of this machine), or when it was not renewed for `EXPIRE_MS`: no lock
stays for ever. A holder that slept too long finds its lock gone at the next renewal, and stops before it does
harm.

Hosts that share a repository must agree on the time within half of `EXPIRE_MS`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from pillarbox.backup.repository.backend import Backend, FileKind
from pillarbox.backup.repository.crypto import Entropy, Sealer
from pillarbox.store.clock import Clock
from pillarbox.store.errors import Corrupt, NoPermission, NotFound, PillarboxError, ReadOnly, RepositoryLocked

EXPIRE_MS: Final = 30 * 60 * 1000
RENEW_MS: Final = 5 * 60 * 1000
WAIT_STEP_MS: Final = 1000
_LOCK_LETTER: Final = b"L"
_LOCK_BYTES_MAX: Final = 4096


@dataclass(frozen=True)
class Holder:
    """The holder of a lock. `machine` tells apart what has its own process numbers: boots, containers."""

    host: str
    machine: str
    pid: int


def this_process() -> Holder:
    """The holder that this process is."""
    machine = []
    for source in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        try:
            machine.append(str(source.readlink()) if source.is_symlink() else source.read_text().strip())
        except OSError:  # not Linux, or hidden: the host's name must do
            machine.append("")
    return Holder(platform.node(), "/".join(machine), os.getpid())


def is_process_alive(pid: int) -> bool:
    """True when a process of that number runs here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class LockContext:
    """The outside world as locking needs it.

    `without_lock` is for who only reads: where nothing may be written (a read-only medium, want of
    permission) it is told why, once for each shared lock, and the work goes on without one. Nobody sees it
    then, so that a prune may begin meanwhile. A writer is refused all the same.
    """

    clock: Clock
    entropy: Entropy
    holder: Holder
    is_alive: Callable[[int], bool] = is_process_alive
    without_lock: Callable[[PillarboxError], None] | None = None


@dataclass(frozen=True)
class _Found:
    """A lock as it lies in the repository."""

    exclusive: bool
    holder: Holder
    purpose: str
    renewed_ms: int

    def explain(self, now_ms: int) -> str:
        age_s = (now_ms - self.renewed_ms) // 1000
        return f"{self.purpose} by process {self.holder.pid} on {self.holder.host}, renewed {age_s} s ago"


class RepositoryLock:
    """A held lock. `hold_lock` makes and ends it."""

    def __init__(
        self, backend: Backend, sealer: Sealer, context: LockContext, exclusive: bool, purpose: str
    ) -> None:
        self._backend = backend
        self._sealer = sealer
        self._context = context
        self._exclusive = exclusive
        self._purpose = purpose
        self._name = ""
        self._unwritten: PillarboxError | None = None
        self._renewed_ms = self._renewed_monotonic_ms = 0

    def renew_if_due(self) -> None:
        """Renew when `RENEW_MS` are over, by either clock: one stands still while the machine sleeps."""
        if self._unwritten:
            return
        clock = self._context.clock
        wall_ms = abs(clock.now_ms() - self._renewed_ms)
        if max(wall_ms, clock.monotonic_ms() - self._renewed_monotonic_ms) >= RENEW_MS:
            self.renew()

    def renew(self) -> None:
        """Show that the holder lives. Raises: RepositoryLocked when the lock was taken away meanwhile;
        ReadOnly, NoPermission for who works without one, before they make others rely on it.

        The new file is stored before the old one is looked for. Whoever takes a lock away deletes it and then
        lists again, so either they see the new file or we miss the old one.
        """
        if self._unwritten:
            raise self._unwritten.anew()
        old, self._name = self._name, self._write()
        try:
            self._backend.size(FileKind.LOCK, old)
        except NotFound as error:
            self.release()
            raise RepositoryLocked(
                f"the lock for {self._purpose} was taken away: this process did not renew it in time",
                hint="start again; what was stored already is found and not stored twice",
            ) from error
        self._backend.delete(FileKind.LOCK, old)

    def release(self) -> None:
        """End the lock."""
        if not self._unwritten:
            self._backend.delete(FileKind.LOCK, self._name)

    def acquire(self) -> None:
        """Take the lock. Raises: RepositoryLocked, naming who holds one that stands against it."""
        try:
            self._name = self._write()
        except (ReadOnly, NoPermission) as error:
            self._go_on_without(error)
            return
        try:
            # Twice without change: one listing can miss both files of a lock that is renewed meanwhile.
            settled = 0
            while settled < 2:
                settled = 0 if self._remove_dead() else settled + 1
        except BaseException:
            self.release()
            raise

    def _go_on_without(self, reason: PillarboxError) -> None:
        if self._exclusive or self._context.without_lock is None:
            raise reason
        for info in list(self._backend.list(FileKind.LOCK)):
            with suppress(NotFound):  # released since the listing
                found = self._read(info.name)
                if found is not None and found.exclusive and not self._is_dead(found):
                    raise self._locked_by(found)
        self._unwritten = reason
        self._context.without_lock(reason)

    def _locked_by(self, found: _Found) -> RepositoryLocked:
        return RepositoryLocked(
            f"the repository is locked: {found.explain(self._context.clock.now_ms())}",
            hint="wait until it has ended; a lock that is not renewed ends by itself in half an hour",
        )

    def _remove_dead(self) -> bool:
        """Delete locks of the dead; whether any lock went, so that they must be listed again."""
        removed = False
        for info in list(self._backend.list(FileKind.LOCK)):
            if info.name == self._name:
                continue
            try:
                found = self._read(info.name)
            except NotFound:
                removed = True  # released or renewed since the listing
                continue
            if found is None or self._is_dead(found):
                self._backend.delete(FileKind.LOCK, info.name)
                removed = True
            elif found.exclusive or self._exclusive:
                raise self._locked_by(found)
        return removed

    def _is_dead(self, found: _Found) -> bool:
        mine = self._context.holder
        here = (found.holder.host, found.holder.machine) == (mine.host, mine.machine)
        if here and found.holder.pid != mine.pid and not self._context.is_alive(found.holder.pid):
            return True
        # A time far in the future is as wrong as an old one, and must not lock for ever either.
        return abs(self._context.clock.now_ms() - found.renewed_ms) > EXPIRE_MS

    def _write(self) -> str:
        clock, holder = self._context.clock, self._context.holder
        self._renewed_ms, self._renewed_monotonic_ms = clock.now_ms(), clock.monotonic_ms()
        fields = [self._exclusive, holder.host, holder.machine, holder.pid, self._purpose, self._renewed_ms]
        name = self._context.entropy(16).hex()
        self._backend.put(FileKind.LOCK, name, self._sealer.seal(_LOCK_LETTER, msgpack.packb(fields)))
        return name

    def _read(self, name: str) -> _Found | None:
        """A lock of the repository; None when it is damaged, and so says of nobody that they hold it."""
        if self._backend.size(FileKind.LOCK, name) > _LOCK_BYTES_MAX:
            return None
        data = self._backend.get(FileKind.LOCK, name)
        try:
            fields = msgpack.unpackb(self._sealer.open(_LOCK_LETTER, data, f"{FileKind.LOCK}/{name}"))
            return _decode(fields)
        except (Corrupt, ValueError, TypeError, msgpack.UnpackException):
            return None


def _decode(fields: Any) -> _Found:
    exclusive, host, machine, pid, purpose, renewed_ms = fields
    if type(pid) is not int or type(renewed_ms) is not int:
        raise ValueError("a lock without process or time")
    return _Found(bool(exclusive), Holder(str(host), str(machine), pid), str(purpose), renewed_ms)


@contextmanager
def hold_lock(
    backend: Backend,
    sealer: Sealer,
    context: LockContext,
    *,
    exclusive: bool,
    purpose: str,
    wait_ms: int = 0,
) -> Iterator[RepositoryLock]:
    """Hold a lock while the block runs; wait for it for up to `wait_ms`. `purpose` is told to who must wait.

    Raises: RepositoryLocked; ReadOnly and NoPermission where no lock can be written (`LockContext`).
    """
    lock = RepositoryLock(backend, sealer, context, exclusive, purpose)
    deadline_ms = context.clock.monotonic_ms() + wait_ms
    while True:
        try:
            lock.acquire()
            break
        except RepositoryLocked:
            if context.clock.monotonic_ms() >= deadline_ms:
                raise
        # Two that met each other both stepped back: uneven waits let one of them through.
        jitter_ms = int.from_bytes(context.entropy(2), "big") % WAIT_STEP_MS
        context.clock.sleep_ms(WAIT_STEP_MS + jitter_ms)
    try:
        yield lock
    finally:
        lock.release()
