"""Which errors are tried again, how often, and how long the waits are."""

from __future__ import annotations

from random import Random

import pytest

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.backend_retry import RetryBackend
from pillarbox.store.clock import VirtualClock
from pillarbox.store.errors import AlreadyExists, DiskFull, NotFound, PeerUnreachable, PillarboxError


class Fails:
    """A fault plan that fails so many times."""

    def __init__(self, times: int, error: PillarboxError) -> None:
        self.times = times
        self.error = error
        self.calls = 0

    def __call__(self, operation: str, kind: FileKind, name: str) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error


UNREACHABLE = PeerUnreachable("no answer")


class RecordingClock(VirtualClock):
    def __init__(self) -> None:
        super().__init__()
        self.sleeps: list[int] = []

    def sleep_ms(self, duration_ms: int) -> None:
        self.sleeps.append(duration_ms)
        super().sleep_ms(duration_ms)


def retrying(inner: MemoryBackend, clock: VirtualClock | None = None, attempts_max: int = 5) -> RetryBackend:
    return RetryBackend(
        inner,
        clock or VirtualClock(),
        Random(1),
        attempts_max=attempts_max,
        delay_ms_first=100,
        delay_ms_max=500,
    )


@pytest.mark.parametrize("operation", ["put", "get", "list", "size", "delete"])
def test_every_call_is_tried_again(operation: str) -> None:
    inner = MemoryBackend()
    inner.put(FileKind.PACK, "aa", b"x")
    inner.before = Fails(3, UNREACHABLE)
    backend = retrying(inner)
    calls = {
        "put": lambda: backend.put(FileKind.PACK, "bb", b"y"),
        "get": lambda: backend.get(FileKind.PACK, "aa"),
        "list": lambda: list(backend.list(FileKind.PACK)),
        "size": lambda: backend.size(FileKind.PACK, "aa"),
        "delete": lambda: backend.delete(FileKind.PACK, "aa"),
    }
    calls[operation]()
    assert inner.before.calls == 4


def test_the_last_error_is_told_after_so_many_attempts() -> None:
    inner = MemoryBackend(before=Fails(99, UNREACHABLE))
    with pytest.raises(PeerUnreachable):
        retrying(inner, attempts_max=5).get(FileKind.PACK, "aa")
    assert isinstance(inner.before, Fails)
    assert inner.before.calls == 5


def test_waits_double_up_to_a_bound_and_are_uneven() -> None:
    clock = RecordingClock()
    inner = MemoryBackend(before=Fails(99, UNREACHABLE))
    with pytest.raises(PeerUnreachable):
        retrying(inner, clock, attempts_max=7).get(FileKind.PACK, "aa")
    bounds = [100, 200, 400, 500, 500, 500]
    assert len(clock.sleeps) == len(bounds)
    assert all(bound // 2 <= sleep <= bound for sleep, bound in zip(clock.sleeps, bounds, strict=True))
    assert len(set(clock.sleeps[3:])) > 1


@pytest.mark.parametrize("error", [NotFound("none"), DiskFull("full"), AlreadyExists("there")])
def test_what_waiting_does_not_mend_is_told_at_once(error: PillarboxError) -> None:
    inner = MemoryBackend(before=Fails(1, error))
    clock = RecordingClock()
    with pytest.raises(type(error)):
        retrying(inner, clock).put(FileKind.PACK, "aa", b"x")
    assert clock.sleeps == []


def test_a_lost_answer_does_not_make_our_own_file_a_strangers() -> None:
    inner = MemoryBackend(after=Fails(1, UNREACHABLE))
    backend = retrying(inner)
    backend.put(FileKind.CONFIG, "config", b"mine", must_not_exist=True)
    assert inner.files[FileKind.CONFIG, "config"] == b"mine"


def test_a_strangers_file_is_still_a_strangers_after_a_retry() -> None:
    inner = MemoryBackend()
    inner.put(FileKind.CONFIG, "config", b"theirs")
    inner.before = Fails(1, UNREACHABLE)
    with pytest.raises(AlreadyExists):
        retrying(inner).put(FileKind.CONFIG, "config", b"mine", must_not_exist=True)
