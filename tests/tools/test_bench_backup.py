"""The backup benchmark runs end to end on a handful of messages; what it measures is not judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pillarbox.backup.repository.crypto import KeyFile
from pillarbox.tools.bench import backup
from pillarbox.tools.bench.backup import run


def test_backup_is_measured_in_one_run_without_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "CAPTURED_COUNTS", (1, 3))
    monkeypatch.setattr(backup, "FREEZES_COUNT", 2)
    monkeypatch.setattr(backup, "CREDENTIAL", KeyFile(bytes(range(32))))  # a passphrase takes its time
    assert run(["40", "--rounds", "2", "--no-peers", "--json", "--dir", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["tool"] for each in told["tools"]] == ["pillarbox"]
    assert [each["messages_count"] for each in told["captures"]] == [1, 3]
    assert all(each["written_bytes"] > 0 for each in told["captures"])
    assert len(told["freezes_ms"]) == 4
    assert not list(tmp_path.iterdir())


def test_a_peer_that_is_not_installed_is_left_out_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found, missing = backup.installed_peers(tmp_path, tmp_path)
    assert found == []
    assert [line.split()[0] for line in missing] == ["restic", "borg"]
