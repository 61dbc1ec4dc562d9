"""The serving process: serve."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from pillarbox.store.clock import SystemClock
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import events_to


@click.command("serve")
@SERVER
@JSON
def serve_(server: Path, as_json: bool) -> None:
    """Hold the databases of SERVER and run what is due, until told to end.

    Checks sizes each day, maintains the databases at night, and takes the backups that the table `backup` of
    server.toml asks for. Stays in the foreground and logs to stderr (one JSON object a line with --json).
    Other processes can read meanwhile. A database that another process has is waited for. SIGTERM and SIGINT
    end it cleanly, within 10 seconds. SIGHUP, or a change of server.toml, makes it read the settings again;
    broken ones are refused, and the old ones kept. docs/operations.md has the unit for systemd.

    \b
    pillarbox serve /srv/mail
    pillarbox serve /srv/mail --json
    """
    from pillarbox.tools.serving.log import Log
    from pillarbox.tools.serving.notices import Notices
    from pillarbox.tools.serving.process import serve
    from pillarbox.tools.serving.wakes import Wakes

    clock, wakes = SystemClock(), Wakes()
    log = Log(clock, as_json)
    environment = dict(os.environ)
    with events_to(log.event):
        serve(
            server,
            log=log,
            clock=clock,
            wakes=wakes,
            notices=Notices(environment, os.getpid()),
            environment=environment,
        )
    if wakes.stop_signal == signal.SIGINT:
        raise KeyboardInterrupt
