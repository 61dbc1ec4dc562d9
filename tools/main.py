"""The console script `pillarbox`."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line; without the extra `cli` say how to get it."""
    try:
        from pillarbox.tools.cli import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("pillarbox: the command line needs click: install pillarbox with its extra `cli`")
    cli()
