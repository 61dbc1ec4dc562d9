"""Notices to systemd (sd_notify): that the process is ready, alive, stopping."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = "WATCHDOG_USEC"
_WATCHDOG_PROCESS: Final = "WATCHDOG_PID"


class Notices:
    """Notices to the service manager that started this process; to nobody where there is none."""

    def __init__(self, environment: Mapping[str, str], process_id: int) -> None:
        """`environment` says where they go, and how often one of life is expected of `process_id`."""
        name = environment.get(_SOCKET, "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        expected = environment.get(_WATCHDOG, "")
        is_for_this = environment.get(_WATCHDOG_PROCESS, str(process_id)) == str(process_id)
        limit_ms = int(expected) // 1000 if expected.isdecimal() and is_for_this else 0
        self.alive_every_ms = limit_ms // 2 or None
        """How often to call `alive`: half of the time after which the process counts as stuck; None:
        never.
        """

    def ready(self, status: str) -> None:
        """Tell that the server is open and everything listens."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Tell that the loop goes round."""
        if self.alive_every_ms is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell that the process was asked to end."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # A service manager that is stuck must not make this process stuck too: a notice is left out then.
            sender.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
