"""The benchmark of Find runs, and its searches find what they look for."""

from __future__ import annotations

import pytest

from pillarbox.tools.bench import find


def test_the_benchmark_prints_each_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert find.run(["200"]) == 0
    printed = capsys.readouterr().out
    assert all(search.name in printed for search in find.SEARCHES)


def test_every_search_finds_some_folders() -> None:
    replica, top = find.tree_of(5_000)
    replica.wall_ms += 3 * find.DAY_MS
    assert all(find.cost_ms(replica, search, top)[1] for search in find.SEARCHES[::2])
