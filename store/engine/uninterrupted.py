"""Work of several steps that an interrupt must not cut in two."""

from __future__ import annotations

import _thread
import operator
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class Uninterrupted:
    """Does works to their end, also when the caller is interrupted; those of the main thread one by one.

    Python raises KeyboardInterrupt in the main thread only, so work of that thread is done by another one,
    which keeps no program from ending. A work must not rely on the thread it runs in.
    """

    def __init__(self) -> None:
        self._last_ended = threading.Lock()

    def __call__(self, work: Callable[[], ResultT]) -> ResultT:
        """Return or raise what `work` does, once earlier works whose callers were interrupted have ended."""
        if threading.current_thread() is not threading.main_thread():
            return work()
        outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        before, ended = self._last_ended, threading.Lock()
        ended.acquire()

        def run() -> None:
            with before:
                pass
            try:
                outcome.put((work(), None))
            except BaseException as error:
                outcome.put((None, error))
            finally:
                ended.release()

        # Not threading.Thread: its `start` waits in Python code, which an interrupt leaves half done.
        begin: Callable[[], object] = partial(_thread.start_new_thread, run, ())
        keep: Callable[[], object] = partial(setattr, self, "_last_ended", ended)
        try:
            # C code calls both: no interrupt comes between them, and the next work waits for this one.
            list(map(operator.call, (begin, keep)))
        except RuntimeError:  # the interpreter ends, or the system has no more threads
            run()
        result, error = outcome.get()
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        return result  # type: ignore[no-any-return]
