"""Links that are weighed count each change once, and how often it crossed."""

from __future__ import annotations

from pillarbox.replication.core.preset import MINUTE_MS, PROMPT
from pillarbox.tools.bench.weighed import Weighed


def test_a_change_that_crosses_once_counts_once_and_what_is_late_is_seen() -> None:
    world = Weighed("ab", [("a", "b")], PROMPT)
    folders = world.folders(1)
    world.network.link("a", "b").cut_until_ms = world.now_ms + 2 * MINUTE_MS
    world.post(world.stores[0], folders[0], b"Subject: 1\r\n\r\n")
    world.run_until(world.now_ms + 30 * MINUTE_MS)
    assert world.held(folders) == {1}
    assert world.crossings() == (1.0, 1)
    assert world.latest_ms >= 2 * MINUTE_MS
    before_ms, world.latest_ms = world.latest_ms, 0
    world.post(world.stores[0], folders[0], b"Subject: 2\r\n\r\n")
    world.run_until(world.now_ms + 30 * MINUTE_MS)
    assert world.latest_ms < before_ms
    world.forget()
    assert world.crossings() == (0.0, 0)
