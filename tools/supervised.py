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


def run_supervised(run: Callable[[], None]) -> None:
    """Call `run` in a child process, and end as it ends. Raises Corrupt when it died of a fault."""
    child = os.fork()
    if not child:
        # A parent that is killed must not leave a child behind that holds a database.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        run()
        sys.exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it from the terminal too
    for passed_on in _PASSED_ON:
        signal.signal(passed_on, lambda number, _: _tell(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        sys.exit(code)
    if -code in _FAULTS:
        raise Corrupt(
            f"reading the tables ended the process ({signal.Signals(-code).name}): a page of them is bent",
            hint="dismount the database, run `pillarbox check`, then `pillarbox repair`; "
            "or run a restore over it again",
        )
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def _tell(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)
