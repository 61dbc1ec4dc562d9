"""Operators at random in the simulation: what a stop promises holds, and stores become equal after all."""

from __future__ import annotations

import os

import pytest

from pillarbox.replication.core import flow
from pillarbox.replication.simulation import campaign, operators
from pillarbox.replication.simulation.scenario import Settings

SETTINGS = Settings(commands=0.06)
IS_SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"
PART, COUNT = (15, 15) if IS_SHORT else (100, 400)  # a short run has too few to meet every command


@pytest.mark.parametrize("first", range(2))
def test_organisations_whose_operators_command_become_equal(first: int) -> None:
    summary = campaign.summarise(campaign.run_seeds([first], SETTINGS))
    assert not summary.violations


@pytest.mark.slow
@pytest.mark.parametrize("first", range(5000, 5000 + COUNT, PART))
def test_campaign_of_operators(first: int) -> None:
    summary = campaign.summarise(campaign.run_seeds(range(first, first + PART), SETTINGS))
    assert not summary.violations
    assert IS_SHORT or set(summary.rules) >= operators.COUNTED


def test_content_that_leaves_although_it_is_stopped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "sendable", lambda replica, effects: effects)
    for seed in range(10):
        [figures] = campaign.run_seeds([seed], SETTINGS)
        if "although it is stopped" in figures.violation:
            return
    pytest.fail("no seed found it")
