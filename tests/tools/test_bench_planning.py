"""The benchmark of planning runs end to end on a little; what it measures is not judged here."""

from __future__ import annotations

import pytest

from pillarbox.tools.bench import planning


def test_every_shape_is_planned(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MISSING_COUNT", 1000)
    assert planning.run(["10"]) == 0
    told = capsys.readouterr().out
    for shape in planning.shapes(10):
        assert f"{shape.name} " in told
        assert shape.needed.intervals_count() == 10
    assert "count_common" in told
