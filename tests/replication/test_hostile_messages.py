"""Messages of an enemy are refused by name at a real store, and leave it as it is."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pillarbox.tools.bench.hostile_messages import exchange, hostile, measure

REASONS = {"size", "version", "tree", "sender", "signature", "form"}
IS_SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"


def refuse(root: Path, seed: int, count: int) -> None:
    receiver, originals = exchange(root)
    before = receiver.fingerprint()
    costs = measure(receiver, hostile(random.Random(seed), originals, count))
    assert receiver.fingerprint() == before
    receiver.close()
    replayed = costs.pop("replayed").refusals
    assert replayed == {"taken": replayed.total()}
    for kind, cost in costs.items():
        assert cost.refusals.keys() <= REASONS, kind
        assert cost.memory_bytes < 1_000_000, kind
    seen = {name for cost in costs.values() for name in cost.refusals}
    assert seen >= {"size", "sender", "signature", "form"}


def test_messages_of_an_enemy_change_nothing(tmp_path: Path) -> None:
    refuse(tmp_path, 2, 210)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_campaign_of_messages_of_an_enemy(tmp_path: Path, seed: int) -> None:
    refuse(tmp_path, seed, 700 if IS_SHORT else 10_000)
