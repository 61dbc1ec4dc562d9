"""The console script `pillarbox`."""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import Final

INTERRUPTED: Final = 130  # as shells say of a command that SIGINT ended
# Loading makes no garbage: looking for it as often as Python does is a tenth of a short command's time.
_GARBAGE_OBJECTS: Final = 50_000


def run() -> None:
    """Run the command line; without the extra `cli` say how to get it."""
    _open_missing_streams()
    try:
        _run()
    except KeyboardInterrupt:  # while it loads; later the commands see to it
        sys.exit(INTERRUPTED)


def _open_missing_streams() -> None:
    """Lead standard streams that were closed by the caller nowhere.

    A file of a database would take the number of one, and what is said on it would be written there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, mode))


def _say_that_it_begins_again(fault: str) -> None:
    if "--json" not in sys.argv:  # which promises JSON there
        print(f"A page of the tables is bent ({fault}): once more, with the pages verified.", file=sys.stderr)


def _run() -> None:
    gc.set_threshold(_GARBAGE_OBJECTS)
    try:
        from pillarbox.store.errors import Corrupt
        from pillarbox.tools.cli import cli
        from pillarbox.tools.options import end_with
        from pillarbox.tools.supervised import SUPERVISED, run_supervised

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(
                    errors="backslashreplace"
                )  # a letter that the locale lacks ends no listing
        if SUPERVISED & set(sys.argv[1:2]):
            run_supervised(lambda: cli(prog_name="pillarbox"), _say_that_it_begins_again)
        else:
            cli(prog_name="pillarbox")
    except Corrupt as error:
        end_with(error, "--json" in sys.argv)
    except ModuleNotFoundError as error:  # rich is loaded by the commands that use it
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("pillarbox: the command line needs click and rich: install pillarbox with its extra `cli`")
