"""The benchmark of replication runs end to end on a little; what it measures is not judged here."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillarbox.tools.bench import replicating


def test_every_measure_comes_out_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replicating.run(["50", "--rounds", "1", "--dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == list(replicating.MEASURES)
    assert told[2].endswith("equal, 0 deleted ones back")
    assert not list(tmp_path.iterdir())
