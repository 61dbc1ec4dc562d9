"""The benchmark of a mount after a power cut runs end to end on a little; its figures are not judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pillarbox.tools.bench.power_cut import Mounted, run, verdicts


def test_a_killed_database_is_verified_and_mounted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["20", "--json", "--dir", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seconds"] > 0 and told["tables_bytes"] > 0
    assert len(told["targets"]) == 2
    assert not list(tmp_path.iterdir())


def test_time_and_the_verifier_s_share_are_judged() -> None:
    assert [(each.reached, each.met) for each in verdicts(Mounted(61.0, 2.0, 100_000_000))] == [
        (61.0, False),
        (20.0, True),
    ]
