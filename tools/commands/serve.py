"""The serving process: serve."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import InvalidSetting
from pillarbox.tools.options import JSON, PATH, SERVER
from pillarbox.tools.output import events_to

if TYPE_CHECKING:
    from pillarbox.tools.serving.web import Address


@click.command("serve")
@SERVER
@click.option("--http", metavar="HOST:PORT", help="Answer there: /healthz, /metrics, /status, and a page.")
@click.option("--http-token-file", type=PATH, help="A file with the token that HTTP asks for.")
@click.option(
    "--http-name",
    "http_names",
    multiple=True,
    metavar="NAME",
    help="Another name by which HTTP may be asked; may be said again.",
)
@JSON
def serve_(
    server: Path,
    http: str | None,
    http_token_file: Path | None,
    http_names: tuple[str, ...],
    as_json: bool,
) -> None:
    """Hold the databases of SERVER and run what is due, until told to end.

    Checks sizes each day, maintains the databases at night, and takes the backups that the table `backup` of
    server.toml asks for. Stays in the foreground and logs to stderr (one JSON object a line with --json).
    Other processes can read meanwhile. A database that another process has is waited for. SIGTERM and SIGINT
    end it cleanly, within 10 seconds. SIGHUP, or a change of server.toml, makes it read the settings again;
    broken ones are refused, and the old ones kept. docs/operations.md has the unit for systemd.

    \b
    pillarbox serve /srv/mail
    pillarbox serve /srv/mail --json
    pillarbox serve /srv/mail --http 127.0.0.1:8025
    """
    from pillarbox.tools.serving.log import Log, libraries_to
    from pillarbox.tools.serving.notices import Notices
    from pillarbox.tools.serving.process import serve
    from pillarbox.tools.serving.wakes import Wakes

    clock, wakes = SystemClock(), Wakes()
    log = Log(clock, as_json)
    environment = dict(os.environ)
    address = _address(http, http_token_file, http_names)
    with events_to(log.event), libraries_to(log):
        serve(
            server,
            log=log,
            clock=clock,
            wakes=wakes,
            notices=Notices(environment, os.getpid()),
            address=address,
            environment=environment,
        )
    if wakes.stop_signal == signal.SIGINT:
        raise KeyboardInterrupt


def _address(http: str | None, token_file: Path | None, names: tuple[str, ...]) -> Address | None:
    """The address to answer at; None when nobody asks for one. Raises as `read_address`."""
    if http is None:
        if token_file or names:
            raise click.UsageError("say --http HOST:PORT too")
        return None
    try:
        from pillarbox.tools.serving.web import read_address
    except ModuleNotFoundError as error:
        raise InvalidSetting(
            f"--http needs {error.name}", hint="install pillarbox with its extra `serve`"
        ) from error
    return read_address(http, token_file, names)
