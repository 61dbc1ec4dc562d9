"""Size limits from the command line: shown, set, looked at, and enforced by `limits watch`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox.store.clock import VirtualClock
from pillarbox.store.engine import database_limits
from pillarbox.store.engine.database import MountState
from pillarbox.store.engine.database_limits import GB, DatabaseLimits
from pillarbox.store.server import Server
from pillarbox.store.upkeep.time_of_day import DAY_MS

if TYPE_CHECKING:
    from conftest import Pillarbox

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.store.upkeep.sizes import above_limit_ms
from pillarbox.tools.commands.limits import watch
from pillarbox.tools.serving.following import Following

STORE = "Mailbox Store"
PILLARBOX = (sys.executable, "-c", "from pillarbox.tools.main import run; run()")


@contextmanager
def watching(server: Path) -> Iterator[subprocess.Popen[str]]:
    """`pillarbox limits watch` as a process of its own, once it has opened the server."""
    with subprocess.Popen(
        [*PILLARBOX, "limits", "watch", str(server), "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            while json.loads(process.stdout.readline())["event_id"] != 20000:
                pass
            yield process
        finally:
            process.kill()


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits counted in KB in place of GB."""
    monkeypatch.setattr(database_limits, "GB", 1 << 10)


# -- show, set


def test_limits_are_those_of_the_edition_until_set(pillarbox: Pillarbox, server: Path) -> None:
    mail, public = pillarbox.answer("limits", "show", server)
    assert mail["limit_bytes"] == public["limit_bytes"] == 18 * GB
    assert (mail["buffer_percent"], mail["check_time"]) == (10, "05:00")
    text = pillarbox.run("limits", "show", server, STORE).stdout
    assert "limit 18.0 GB, warning from 16.2 GB" in text and "Public" not in text


def test_limits_are_set_kept_and_given_back(pillarbox: Pillarbox, server: Path) -> None:
    words = ("--limit-gb", 50, "--buffer-percent", 20, "--check-time", "3:30", "--disk-warning-mb", 900)
    pillarbox.answer("limits", "set", server, STORE, *words)
    mail, public = pillarbox.answer("limits", "show", server)
    assert (mail["limit_bytes"], mail["threshold_bytes"]) == (50 * GB, 40 * GB)
    assert (mail["check_time"], mail["disk_warning_bytes"]) == ("03:30", 900 << 20)
    assert public["limit_bytes"] == 18 * GB
    pillarbox.answer("limits", "set", server, "--limit-gb", "default", "--check-time", "default")
    mail, _ = pillarbox.answer("limits", "show", server)
    assert (mail["limit_bytes"], mail["check_time"], mail["buffer_percent"]) == (18 * GB, "05:00", 20)


def test_a_limit_is_set_in_mb_to_rehearse_its_enforcement(pillarbox: Pillarbox, server: Path) -> None:
    mail, _ = pillarbox.answer("limits", "set", server, "--limit-mb", 20)
    assert mail["limit_bytes"] == 20 << 20
    assert "limit 20.0 MB" in pillarbox.run("limits", "show", server, STORE).stdout
    assert "--limit-mb cannot be" in pillarbox.refused(
        27, "limits", "set", server, "--limit-mb", 75 * 1024 + 1
    )
    pillarbox.refused(2, "limits", "set", server, "--limit-mb", 20, "--limit-gb", 20)
    assert pillarbox.answer("limits", "set", server, "--limit-mb", "default")[0]["limit_bytes"] == 18 * GB


@pytest.mark.parametrize(
    "words",
    [("--limit-gb", 76), ("--limit-gb", 0), ("--buffer-percent", 101), ("--disk-warning-mb", 10**11)],
)
def test_what_the_edition_does_not_allow_is_refused_and_changes_nothing(
    pillarbox: Pillarbox, server: Path, words: tuple[str, object]
) -> None:
    before = pillarbox.answer("limits", "show", server)
    option, value = words
    error, hint = pillarbox.refused(27, "limits", "set", server, STORE, *words).splitlines()
    assert error == f"pillarbox: {option} cannot be {value}"
    assert hint.startswith(f"  set {option} to a whole number from ")
    assert [{**each, "next_check_ms": 0} for each in pillarbox.answer("limits", "show", server)] == [
        {**each, "next_check_ms": 0} for each in before
    ]


def test_limits_that_do_not_fit_each_other_are_refused_by_the_names_of_their_options(
    pillarbox: Pillarbox, server: Path
) -> None:
    words = ("--disk-warning-mb", 100, "--disk-floor-mb", 200)
    stderr = pillarbox.refused(27, "limits", "set", server, STORE, *words)
    assert "set --disk-floor-mb to --disk-warning-mb or less" in stderr and "free_disk" not in stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--limit-gb", "big"),
        ("--limit-gb", "-1"),
        ("--check-time", "5"),
        ("--check-time", "5:0"),
        ("--check-time", "24:00"),
        ("--check-time", "5:60"),
    ],
)
def test_what_is_no_limit_is_a_mistake_of_usage(
    pillarbox: Pillarbox, server_with_mail: Path, words: tuple[str, ...]
) -> None:
    assert "Error: " in pillarbox.refused(2, "limits", "set", server_with_mail, *words)


# -- check


def test_a_size_within_its_limit_is_fine(pillarbox: Pillarbox, server: Path) -> None:
    mail, _ = pillarbox.answer("limits", "check", server)
    assert mail["state"] == "within limit" and 0 < mail["logical_size_bytes"] < mail["threshold_bytes"]
    assert "within limit" in pillarbox.run("limits", "check", server, STORE).stdout


@pytest.mark.usefixtures("small_limits")
def test_a_size_above_its_limit_is_told_and_nothing_is_done(pillarbox: Pillarbox, server: Path) -> None:
    result = pillarbox.run("limits", "check", server, "--json")
    assert result.exit_code == 23 and f"above the size limit: {STORE}" in result.stderr
    assert json.loads(result.stdout)[0]["state"] == "above limit"
    assert not pillarbox.answer("events", "list", server, "--id", 9689)


def test_a_size_near_its_limit_is_told(
    pillarbox: Pillarbox, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = pillarbox.answer("limits", "check", server, STORE)[0]["logical_size_bytes"]
    monkeypatch.setattr(database_limits, "GB", used + 1)
    pillarbox.answer("limits", "set", server, "--limit-gb", 1)
    (found,) = pillarbox.answer("limits", "check", server, STORE)
    assert found["state"] == "near limit"


def test_what_is_not_mounted_is_not_said_to_be_within_its_limit(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("dismount", server, STORE)
    assert f"not mounted: {STORE}" in pillarbox.refused(21, "limits", "check", server)


def test_databases_of_one_name_are_told_apart(pillarbox: Pillarbox, twins: Path) -> None:
    labels = ["First Storage Group/Mailbox Store", "Second Group/Mailbox Store"]
    for command in ("show", "check"):
        listed = [each["database"] for each in pillarbox.answer("limits", command, twins)]
        assert listed == [labels[0], "Public Folder Store", labels[1]]
        assert f"{labels[1]}:" in pillarbox.run("limits", command, twins).stdout


# -- watch


def days_of(server: Server, clock: VirtualClock, states: list[MountState], days: int) -> Any:
    """A wait that is over at the time it is given, notes the state before each check, and ends some day."""

    def wait(until_ms: int) -> bool:
        states.append(server.database(STORE).state)
        clock.advance_ms(until_ms - clock.now_ms())
        return len(states) < days

    return wait


@pytest.mark.usefixtures("small_limits")
def test_a_watch_dismounts_at_the_second_daily_check_above_the_limit(server: Path) -> None:
    clock = VirtualClock()
    states: list[MountState] = []
    with Server.open(server, clock=clock, zone=UTC) as opened:
        watch(opened, days_of(opened, clock, states, 3))
        assert states == [MountState.MOUNTED, MountState.DISMOUNTED, MountState.DISMOUNTED]
        assert not opened.is_to_be_mounted(STORE) and opened.mounts_at_startup(STORE)
        events = [each.event_id for each in opened.events.query(databases=[STORE], newest_first=False)]
    assert [each for each in events if each in (9688, 9689, 9690)] == [9688, 9689, 9688, 9690]


def test_a_watch_sleeps_until_the_next_daily_check(server: Path) -> None:
    clock = VirtualClock()
    waits: list[int] = []

    def wait(until_ms: int) -> bool:
        waits.append(until_ms - clock.now_ms())
        clock.advance_ms(waits[-1])
        return len(waits) < 3

    with Server.open(server, clock=clock, zone=UTC) as opened:
        watch(opened, wait)
    assert 0 < waits[0] <= DAY_MS and waits[1:] == [DAY_MS, DAY_MS]


def test_a_watch_follows_what_other_processes_set(pillarbox: Pillarbox, server: Path) -> None:
    with Server.open(server) as opened:
        database, following = opened.database(STORE), Following(opened)
        pillarbox.answer("limits", "set", server, STORE, "--limit-gb", 30)
        following.follow()
        assert database.limits == DatabaseLimits(30 * GB)
        pillarbox.answer("dismount", server, STORE)
        following.follow()
        assert database.state is MountState.DISMOUNTED
        pillarbox.answer("mount", server, STORE)
        following.follow()
        assert database.state is MountState.MOUNTED


@pytest.mark.usefixtures("small_limits")
def test_a_watch_does_not_mount_again_what_a_size_check_dismounted(server: Path) -> None:
    clock = VirtualClock()
    with Server.open(server, clock=clock, zone=UTC) as opened:
        following = Following(opened)
        watch(opened, days_of(opened, clock, [], 2))
        following.follow()
        assert opened.database(STORE).state is MountState.DISMOUNTED


def test_a_watch_goes_on_when_the_configuration_is_broken(
    server: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server.open(server) as opened:
        (server / "server.toml").write_text("broken")
        answers = iter((True, False))
        watch(opened, lambda _: next(answers))
        assert opened.database(STORE).state is MountState.MOUNTED
    assert "the settings stay as they were" in capsys.readouterr().err


@pytest.mark.usefixtures("small_limits")
def test_the_limits_bind_every_process_until_a_mount_by_command(pillarbox: Pillarbox, server: Path) -> None:
    for code in (9689, 9690):
        result = pillarbox.run("limits", "watch", server, "--once", "--json")
        assert result.exit_code == 23 and f"above the size limit: {STORE}" in result.stderr
        assert code in [json.loads(line)["event_id"] for line in result.stdout.splitlines()]
    mail = json.loads(pillarbox.run("status", server, "--json").stdout)[0]
    assert mail["state"] == "dismounted" and "above its size limit" in mail["error"]
    hint = pillarbox.refused(21, "import", server, "anna", server)
    assert "`pillarbox mount`" in hint and "`pillarbox limits set`" in hint
    pillarbox.refused(21, "list", server, "anna")
    assert "event 9689" in pillarbox.run("mount", server, STORE).stderr
    assert pillarbox.run("list", server, "anna").exit_code == 0
    assert pillarbox.run("mailbox", "create", server, "carl").exit_code == 0
    pillarbox.refused(23, "limits", "watch", server, "--once")
    pillarbox.refused(21, "list", server, "anna")


def test_an_open_or_a_command_neither_dismounts_nor_begins_the_grace_anew(
    pillarbox: Pillarbox, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_limits, "GB", 1 << 10)
    with Server.open(server, zone=UTC, clock=VirtualClock()) as opened:
        since_ms = above_limit_ms(opened.database(STORE))
    clock = VirtualClock()
    clock.advance_ms(3 * DAY_MS)
    with Server.open(server, zone=UTC, clock=clock) as opened:
        assert opened.database(STORE).state is MountState.MOUNTED
        assert above_limit_ms(opened.database(STORE)) == since_ms is not None
        opened.check_sizes()
        assert opened.database(STORE).state is MountState.DISMOUNTED


def test_a_watch_mounts_what_an_administrator_mounted_again(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_limits, "GB", 1 << 10)
    clock = VirtualClock()
    with Server.open(server, clock=clock, zone=UTC) as opened:
        following = Following(opened)
        watch(opened, days_of(opened, clock, [], 2))
        assert opened.database(STORE).state is MountState.DISMOUNTED
        with Server.open(server, mount=False, clock=clock, zone=UTC) as other:
            since_ms = above_limit_ms(other.mount(STORE))
        clock.advance_ms(1000)
        following.follow()
        assert opened.database(STORE).state is MountState.MOUNTED
        assert above_limit_ms(opened.database(STORE)) == since_ms


def test_a_watch_of_once_checks_says_nothing_of_what_is_well_and_ends(
    pillarbox: Pillarbox, server: Path
) -> None:
    before = pillarbox.answer("status", server)[0]["last_size_check_ms"]
    result = pillarbox.run("limits", "watch", server, "--once")
    assert (result.exit_code, result.stdout) == (0, "")
    assert pillarbox.answer("status", server)[0]["last_size_check_ms"] > before
    assert not pillarbox.answer("events", "list", server, "--id", 9523)


def test_a_watch_of_once_does_not_end_well_when_a_database_cannot_be_mounted(
    pillarbox: Pillarbox, server: Path
) -> None:
    with Server.open(server, mount=False) as opened:
        shutil.rmtree(opened.database(STORE).path)
    pillarbox.refused(40, "limits", "watch", server, "--once")


def test_a_watch_of_once_names_what_another_process_kept_it_from(pillarbox: Pillarbox, server: Path) -> None:
    with watching(server):
        stderr = pillarbox.refused(11, "limits", "watch", server, "--once")
        assert "not checked, another process has them: Mailbox Store, Public Folder Store" in stderr


@pytest.mark.usefixtures("small_limits")
def test_a_watch_tells_each_event_once_and_as_its_result(pillarbox: Pillarbox, server: Path) -> None:
    result = pillarbox.run("limits", "watch", server, "--once")
    told = [line for line in result.stdout.splitlines() if " 9689 error    Database Mailbox Store" in line]
    assert len(told) == 1 and "event" not in result.stderr
    assert (
        "event 9689: Database Mailbox Store holds" in pillarbox.run("mailbox", "create", server, "x").stderr
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_watch_lets_others_read_and_closes_cleanly_when_told_to_end(
    pillarbox: Pillarbox, server: Path, number: signal.Signals, code: int
) -> None:
    with watching(server) as process:
        mail = pillarbox.answer("status", server)[0]
        assert (mail["state"], mail["in_use"]) == ("mounted", True)
        assert len(pillarbox.answer("list", server, "anna", "lists")) == 24
        assert "another process" in pillarbox.refused(11, "folder", "create", server, "anna", "X")
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == code
    assert [json.loads(line)["event_id"] for line in out.splitlines()].count(9539) == 2
    (last, *_) = pillarbox.answer("events", "list", server, "--limit", 1)
    assert last["event_id"] == 9539
    pillarbox.answer("folder", "create", server, "anna", "X")
    assert not pillarbox.answer("events", "list", server, "--id", 20002), "it was not closed cleanly"
