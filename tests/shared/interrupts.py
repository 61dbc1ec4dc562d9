"""Interrupts at each step of an action, as a signal brings them."""

from __future__ import annotations

import sys
from collections.abc import Callable


def interrupted_at(step: int, action: Callable[[], None], kept: list[BaseException]) -> bool:
    """Interrupt `action` at its `step`th call, where a signal could; False when it has fewer.

    The interrupt is kept with its traceback, which keeps the frames that it went through.
    """
    left = step
    kept.clear()

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    sys.setprofile(count)
    try:
        action()
    except KeyboardInterrupt as error:
        kept.append(error)
    finally:
        sys.setprofile(None)
    return left <= 0
