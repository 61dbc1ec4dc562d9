"""The time that a process of this machine has run, as the system tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_STARTED: Final = 19  # of the fields behind the name in /proc/PID/stat: ticks from the machine's start


def process_age_ms(process_id: int, proc: Path = _PROC) -> int | None:
    """The time that a process has run, in ms; None when it is gone, or the system does not tell."""
    try:
        started = (proc / str(process_id) / "stat").read_text("latin-1").rpartition(")")[2].split()[_STARTED]
        up_s = (proc / "uptime").read_text().split()[0]
        return max(0, int(float(up_s) * 1000) - int(started) * 1000 // os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None
