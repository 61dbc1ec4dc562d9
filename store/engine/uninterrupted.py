"""Work of several steps that an interrupt must not cut in two."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


def uninterrupted(work: Callable[[], ResultT]) -> ResultT:
    """Return or raise what `work` does, which runs to its end also when the caller is interrupted.

    Python raises KeyboardInterrupt in the main thread only, so work of that thread is done by another one,
    which keeps no program from ending. `work` must not rely on the thread it runs in.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:
            outcome.put((None, error))

    try:
        # Not threading.Thread: its `start` waits in Python code, which an interrupt leaves half done.
        _thread.start_new_thread(run, ())
    except RuntimeError:  # the interpreter ends, or the system has no more threads
        run()
    result, error = outcome.get()
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame
    return result  # type: ignore[no-any-return]
