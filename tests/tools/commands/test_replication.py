"""Simulations of replication from the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox.replication.core import applying

if TYPE_CHECKING:
    from conftest import Pillarbox


def test_a_simulation_says_what_happened_in_it(pillarbox: Pillarbox) -> None:
    words = ("replication", "simulate", "--seed", 3, "--nodes", 3, "--sites", 1, "--steps", 30, "--seeds", 2)
    answer = pillarbox.answer(*words)
    assert answer["seeds"] == 2 and answer["violations"] == [] and answer["trace"] == []
    assert answer["messages"]["Status"] > 0 and answer["converged_ms_max"] > 0
    assert answer == pillarbox.answer(*words), "nothing in it is of the wall clock"
    assert "2 seeds" in pillarbox.run(*words).stdout


def test_a_violation_ends_with_1_and_the_trace_of_its_seed(
    pillarbox: Pillarbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_all_gaps(replica: Any, folder: Any, source: bytes, pair: Any) -> None:
        replica.state(folder).knowledge.claim(pair.gaps)

    monkeypatch.setattr(applying, "tell_gaps", take_all_gaps)
    result = pillarbox.run("replication", "simulate", "--seeds", 6)
    assert result.exit_code == 1
    assert re.search(r"^Seed \d: ", result.stdout, re.MULTILINE), "the first violated seed, with its trace"
    assert "VIOLATED" in result.stdout
