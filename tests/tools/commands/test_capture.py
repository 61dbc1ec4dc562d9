"""`pillarbox backup capture`: moments between backups, each to be restored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.errors import DiskFull, InvalidSetting, WriterBusy

ONE_MORE = b"Subject: one more\n\nthat came between two backups\n"


@pytest.fixture
def repository(pillarbox: Any, tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    assert pillarbox.run("backup", "init", path, "--no-encryption").exit_code == 0
    return path


def deliver(pillarbox: Any, server: Path, tmp_path: Path, number: int) -> None:
    mail = tmp_path / f"{number}.eml"
    mail.write_bytes(b"Message-ID: <%d@example.org>\n" % number + ONE_MORE)
    assert pillarbox.run("import", server, "anna", mail).exit_code == 0


def test_a_captured_moment_is_restored_by_its_time(
    pillarbox: Any, server: Path, repository: Path, tmp_path: Path
) -> None:
    pillarbox.answer("backup", "create", server, repository)
    made = []
    for number in range(2):
        deliver(pillarbox, server, tmp_path, number)
        made.append(pillarbox.answer("backup", "capture", server, repository, "--once"))
    kinds = [each["kind"] for each in pillarbox.answer("backup", "list", repository, "--captures")]
    assert kinds == ["full", "capture", "capture"]
    moment = datetime.fromtimestamp(made[0]["time_ms"] / 1000, UTC).isoformat(timespec="milliseconds")
    out = tmp_path / "out"
    pillarbox.answer("backup", "restore", repository, f"@{moment}", "--to", out)
    held = b"".join(path.read_bytes() for path in sorted(out.glob("*/*/stream/*.stm")))
    assert b"<0@example.org>" in held
    assert b"<1@example.org>" not in held


def test_nothing_is_stored_when_nothing_changed(pillarbox: Any, server: Path, repository: Path) -> None:
    pillarbox.answer("backup", "create", server, repository)
    assert pillarbox.answer("backup", "capture", server, repository, "--once")["snapshot"] is None
    assert len(pillarbox.answer("backup", "list", repository, "--captures")) == 1


def test_it_goes_on_over_what_another_try_may_mend_and_ends_with_what_none_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("click", reason="click (the extra `cli`) is not installed")
    from pillarbox.tools.commands.capture import capture_until

    outcomes: list[Exception | None] = [WriterBusy("in use"), None, DiskFull("full"), InvalidSetting("wrong")]

    def capture() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    with pytest.raises(InvalidSetting):
        capture_until(capture, lambda: False, as_json=False)
    assert outcomes == []
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == ["pillarbox: not captured: in use", "pillarbox: not captured: full"]


def test_it_ends_when_it_is_told_to() -> None:
    pytest.importorskip("click", reason="click (the extra `cli`) is not installed")
    from pillarbox.tools.commands.capture import capture_until

    told = iter([False, False, True])
    taken: list[int] = []
    capture_until(lambda: taken.append(1), lambda: next(told), as_json=False)
    assert len(taken) == 3
