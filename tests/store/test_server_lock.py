"""No interrupt leaves the lock of a server, or a mailbox's move, held; also while its traceback is kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from interrupts import interrupted_at

from pillarbox.store.disk.file_lock import is_locked
from pillarbox.store.server import SERVER_LOCK, Server
from pillarbox.store.upkeep import move_mailbox

GUID = bytes(16)

# One that comes while the interpreter ends a turn Python prints and forgets.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def at_every_step(action: Callable[[], None], is_held: Callable[[], bool]) -> int:
    """Interrupt an action at each of its steps, with the traceback kept, and see that nothing is held."""
    kept: list[BaseException] = []
    step = 1
    while interrupted_at(step, action, kept):
        assert not is_held(), f"at step {step}: {kept}"
        step += 1
    return step - 1


@pytest.fixture
def server(tmp_path: Path) -> Server:
    Server.create(tmp_path / "server").close()
    return Server.open(tmp_path / "server", mount=False)


@pytest.mark.parametrize("name", ["_locked", "_changed"])
def test_an_interrupted_change_of_a_server_keeps_no_lock(server: Server, name: str) -> None:
    def change() -> None:
        with server._changing, getattr(server, name)():
            pass

    def is_free() -> bool:
        if not server._changing.acquire(blocking=False):
            return False
        server._changing.release()
        return True

    def is_held() -> bool:
        server._uninterrupted(lambda: None)  # what the interrupted caller waited for ends first
        with ThreadPoolExecutor(1) as other:
            return is_locked(server.path / SERVER_LOCK) or not other.submit(is_free).result()

    if name == "_changed":
        server._put_in_force = lambda config: None  # type: ignore[method-assign]
    assert at_every_step(change, is_held) > 10


def test_an_interrupted_move_keeps_no_mailbox_from_being_moved() -> None:
    def move() -> None:
        with move_mailbox.Alone(GUID):
            pass

    def is_held() -> bool:
        with move_mailbox.Alone(GUID) as is_alone:
            return not is_alone

    assert at_every_step(move, is_held) > 5
    with move_mailbox.Alone(GUID):
        assert is_held()
