"""The place of the control socket: `<server>/control`, whatever the length of the server's path.

The address of a Unix socket holds 107 bytes. So it is named by way of the directory's descriptor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.stream import disk_error

CONTROL: Final = "control"


@contextmanager
def _address(server: Path) -> Iterator[str]:
    descriptor = os.open(server, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{CONTROL}"
    finally:
        os.close(descriptor)


def bound_socket(server: Path, mode: int) -> socket.socket:
    """A socket bound at a server's place, with a mode; nobody can connect before it listens.

    One that a killed process left is replaced: take the lock of the one that serves first. Raises
    PillarboxError when the system refuses it.
    """
    place = server / CONTROL
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        place.unlink(missing_ok=True)
        with _address(server) as address:
            bound.bind(address)
        place.chmod(mode)
    except OSError as error:
        bound.close()
        raise disk_error(error, str(place)) from error
    return bound


def remove_socket(server: Path) -> None:
    """Take the socket away from a server's place, before the lock of the one that serves is let go. One that
    the system keeps there refuses every call."""
    with suppress(OSError):
        (server / CONTROL).unlink()


def connected_socket(server: PathLike) -> socket.socket | None:
    """A socket that is connected to the process that serves a server; None when none does.

    Raises NoPermission when this user may not, PillarboxError.
    """
    path = as_path(server, "server")
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            connecting.connect(address)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        connecting.close()
        return None
    except OSError as error:
        connecting.close()
        raise disk_error(error, str(path / CONTROL)) from error
    return connecting
