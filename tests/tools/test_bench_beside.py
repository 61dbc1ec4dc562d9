"""The benchmark of a served server runs end to end on a little; what it measures is not judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.tools.bench.beside import run


@pytest.mark.slow
def test_every_measure_comes_out_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["100", "--commands", "1", "--rest", "0.1", "--dir", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["deliveries_ratio"] > 0 and told["rest_megabytes"] > 0 and "command_more_ms" in told
    assert not list(tmp_path.iterdir())
