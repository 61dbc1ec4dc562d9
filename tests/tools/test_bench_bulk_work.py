"""The benchmark of bulk work runs end to end on a little; what it measures is not judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pillarbox.tools.bench import bulk_work
from pillarbox.tools.bench.bulk_work import Growth, PurgeRound, Waits, run, verdicts


def test_every_measure_comes_out_of_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_work, "_WINDOW_S", 0.0)
    assert run(["20", "--rounds", "1", "--part", "1000", "--json", "--dir", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["purges"]) == 1 and len(told["growths"]) == 3
    assert len(told["targets"]) == 7
    assert not list(tmp_path.iterdir())


def test_the_median_of_the_rounds_and_the_longest_wait_are_judged() -> None:
    purges = [
        PurgeRound(1.0, beside_s, (100.0, 100.0), Waits(rate, longest, longest / 2))
        for beside_s, rate, longest in ((2.0, 90.0, 10.0), (2.5, 80.0, 300.0), (9.0, 10.0, 20.0))
    ]
    found = verdicts(purges, [Growth("grown", 1.0, 4.0)])
    assert [(verdict.reached, verdict.met) for verdict in found] == [
        (0.8, True),
        (300.0, False),
        (150.0, True),
        (2.5, True),
        (4.0, False),
    ]
