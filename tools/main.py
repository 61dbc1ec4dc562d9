"""The console script `pillarbox`."""

from __future__ import annotations

import io
import sys


def run() -> None:
    """Run the command line; without the extra `cli` say how to get it."""
    try:
        from pillarbox.tools.cli import cli
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit("pillarbox: the command line needs click and rich: install pillarbox with its extra `cli`")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a letter that the locale lacks ends no listing
    cli(prog_name="pillarbox")
