"""A work whose caller was interrupted is done to its end before the next one begins."""

from __future__ import annotations

import hashlib

from interrupts import interrupted_at

from pillarbox.store.engine.uninterrupted import Uninterrupted

MANY_BYTES = bytes(3_000_000)


def test_the_next_work_waits_for_one_whose_caller_was_interrupted_at_any_step() -> None:
    uninterrupted = Uninterrupted()
    done: list[str] = []

    def slow() -> None:
        hashlib.sha256(MANY_BYTES)  # lets other threads run meanwhile
        done.append("slow")

    step = 1
    while interrupted_at(step, lambda: uninterrupted(slow), []):
        uninterrupted(lambda: done.append("next"))
        assert done in (["next"], ["slow", "next"]), f"at step {step}"
        done.clear()
        step += 1
    assert step > 5
