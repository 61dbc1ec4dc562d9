"""The benchmark of served servers runs end to end on a little; what it measures is not judged here."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.tools.bench import replication_nodes, shaped_links


def test_where_there_are_no_namespaces_it_says_why_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shaped_links.os, "geteuid", lambda: 1000)
    assert replication_nodes.run(["link"]) == 0
    assert (
        capsys.readouterr().out == "replication_nodes: left out, network namespaces are made by root alone\n"
    )


needs_namespaces = pytest.mark.skipif(bool(shaped_links.why_not()), reason=shaped_links.why_not())


@pytest.mark.slow
@needs_namespaces
def test_every_measure_comes_out_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    little = ["--posts", "20", "--seconds", "2", "--peers", "2", "--cuts", "1", "--cut-seconds", "1"]
    measures = [name for name in replication_nodes.MEASURES if name != "chaos"]
    assert replication_nodes.run([*measures, *little, "--bits", "1000000", "--dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == measures
    assert "NOT EQUAL" not in "".join(told)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@needs_namespaces
def test_after_chaos_all_hold_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replication_nodes.run(["chaos", "--seconds", "10", "--dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "converged after" in told and "0 faults" in told
