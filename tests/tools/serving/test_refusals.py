"""Refusals in the log of a serving process: said at once, but by nobody without end."""

from __future__ import annotations

import io

from pillarbox.store.clock import VirtualClock
from pillarbox.tools.serving.log import Log
from pillarbox.tools.serving.refusals import REASONS_MAX, SAY_EVERY_MS, Refusals


class Said:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self._out = io.StringIO()
        self.refusals = Refusals(Log(self.clock, as_json=False, out=self._out), self.clock, "refused")

    def lines(self) -> list[str]:
        lines = [line.split("warning  ")[1] for line in self._out.getvalue().splitlines()]
        self._out.truncate(self._out.seek(0))
        return lines


def test_a_reason_is_said_at_once_and_then_every_ten_minutes_with_how_often() -> None:
    said = Said()
    for _ in range(1000):
        said.refusals.say("a stranger")
    said.refusals.say("another one")
    assert said.lines() == ["refused: a stranger", "refused: another one"]
    said.clock.advance_ms(SAY_EVERY_MS - 1)
    said.refusals.say("a stranger")
    assert said.lines() == []
    said.clock.advance_ms(1)
    said.refusals.say("a stranger")
    said.refusals.say("another one")
    assert said.lines() == [
        "refused: a stranger (1000 times more since the last line)",
        "refused: another one",
    ]


def test_reasons_without_end_are_counted() -> None:
    said = Said()
    for number in range(10_000):
        said.refusals.say(f"port {number}")
    assert len(said.lines()) == REASONS_MAX
    said.clock.advance_ms(SAY_EVERY_MS)
    said.refusals.say("port 0")
    others = 10_000 - REASONS_MAX
    assert said.lines() == [f"refused: port 0 (and {others} times for other reasons)"]
