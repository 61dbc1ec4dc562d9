"""Commands that read much of a database run in a child process: LMDB ends the process that meets a bent page.

The parent ends as the child does. A death by a fault becomes a `Corrupt` error in words.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pillarbox.store.errors import Corrupt

SUPERVISED: Final = frozenset({"check", "export", "backup", "recovery"})
_FAULTS: Final = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS})
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1
# As they were before a child changed what this process does with them.
_HANDLERS: Final = {number: signal.getsignal(number) for number in (signal.SIGINT, *_PASSED_ON)}


def run_supervised(run: Callable[[], None], fault_met: Callable[[str], None]) -> None:
    """Call `run` in a child process, and end as it ends.

    One that died of a fault is followed by another, once, and `fault_met` is told the signal: the mark that
    the first has left has the pages verified before anything reads them (`store/disk/death_mark`). So a
    restore replaces tables that end who reads them, and others name the bent pages. Raises Corrupt when the
    second died of a fault, too.
    """
    ending = _ending_of(run)
    if -ending in _FAULTS:
        fault_met(signal.Signals(-ending).name)
        ending = _ending_of(run)
    if ending >= 0:
        sys.exit(ending)
    if -ending in _FAULTS:
        raise Corrupt(
            f"reading the tables ended the process ({signal.Signals(-ending).name}): a page of them is bent",
            hint="dismount the database, run `pillarbox check`, then `pillarbox repair`",
        )
    signal.signal(-ending, signal.SIG_DFL)
    os.kill(os.getpid(), -ending)


def _ending_of(run: Callable[[], None]) -> int:
    """The exit code of a child process that calls `run`, or less than 0 the signal that ended it."""
    child = os.fork()
    if not child:
        for number in (signal.SIGINT, *_PASSED_ON):
            signal.signal(number, _HANDLERS[number])
        # A parent that is killed must not leave a child behind that holds a database.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        run()
        sys.exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it from the terminal too
    for passed_on in _PASSED_ON:
        signal.signal(passed_on, lambda number, _: _tell(child, number))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _tell(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)
