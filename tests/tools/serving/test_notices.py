"""Notices to systemd, received where systemd would receive them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pillarbox.tools.serving.notices import Notices


@pytest.fixture(params=["path", "abstract"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The value of NOTIFY_SOCKET, and the socket that is there."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name if request.param == "path" else f"\0{name}")
        bound.settimeout(10)
        yield (name if request.param == "path" else f"@{name}"), bound


def test_each_notice_comes_to_the_socket_that_the_environment_names(
    receiver: tuple[str, socket.socket],
) -> None:
    name, bound = receiver
    notices = Notices({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 7)
    notices.ready("serving")
    notices.alive()
    notices.stopping()
    assert [bound.recv(100) for _ in range(3)] == [b"READY=1\nSTATUS=serving", b"WATCHDOG=1", b"STOPPING=1"]
    assert notices.alive_every_ms == 1500


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}])
def test_nobody_is_told_where_nobody_waits(environment: dict[str, str]) -> None:
    notices = Notices(environment, 7)
    notices.ready("serving")
    notices.alive()
    assert notices.alive_every_ms is None


def test_a_systemd_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    Notices({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 7).ready("serving")


def test_a_systemd_that_reads_nothing_holds_nobody_up(receiver: tuple[str, socket.socket]) -> None:
    notices = Notices({"NOTIFY_SOCKET": receiver[0], "WATCHDOG_USEC": "3000000"}, 7)
    for _ in range(2000):  # more than any queue of datagrams holds
        notices.alive()
