"""The organisation of a server: init, apply, export, export-ca, move-ca."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pillarbox
from pillarbox.store.errors import Refused
from pillarbox.tools.given_file import read_given, read_given_text
from pillarbox.tools.options import ACTOR, JSON, PATH, SERVER
from pillarbox.tools.output import show
from pillarbox.tools.serving.performing import operation

if TYPE_CHECKING:
    from pillarbox.replication.organisation.topology import Organisation

ADDRESS: Final = click.option(
    "--address",
    "addresses",
    metavar="HOST:PORT",
    multiple=True,
    help="Where others reach this server; may be said again.",
)
LISTEN: Final = click.option(
    "--listen",
    metavar="HOST:PORT",
    multiple=True,
    help="Where this server listens; may be said again. [as node.toml says, else 0.0.0.0:7337]",
)
PASSPHRASE_FILE: Final = click.option(
    "--passphrase-file", type=PATH, help="A file with the passphrase of the export."
)


@click.group()
def org() -> None:
    """The organisation that a server belongs to: servers, sites, connectors, and who signs certificates."""


@org.command("init")
@SERVER
@click.argument("organisation")
@click.option("--name", help="The name of this server in lists. [that of its directory]")
@click.option("--site", default="main", show_default=True, help="The site that it is in.")
@ADDRESS
@LISTEN
@JSON
def init(
    server: Path,
    organisation: str,
    name: str | None,
    site: str,
    addresses: tuple[str, ...],
    listen: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make ORGANISATION, with SERVER as its first server; others join it.

    The key that signs the certificates of all its servers is here: export it, and keep the export elsewhere.

    \b
    pillarbox org init /srv/mail Example --name b1 --site berlin \\
        --address b1.example.org:7337
    """
    with operation(server, "org.init") as perform:
        data = perform(
            organisation=organisation,
            name=name or server.resolve().name,
            site=site,
            addresses=list(addresses),
            listen=list(listen),
        )
    lines = [
        f"{data['server']} in site {data['site']} is the first server of {data['organisation']}.",
        f"Its authority is known by {data['authority']}",
        "Keep a copy of its key elsewhere: `pillarbox org export-ca`",
    ]
    show(data, lines, as_json)


@org.command("apply")
@SERVER
@click.argument("file", type=PATH)
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--lost", metavar="NAME", multiple=True, help="This server may go with all that it holds.")
@JSON
def apply(server: Path, file: Path, dry_run: bool, lost: tuple[str, ...], as_json: bool) -> None:
    """Change the organisation to what FILE says, and show the differences.

    What FILE does not list is taken out, so export it before you edit. A server that holds a replica is
    refused to go, unless it is --lost.

    \b
    pillarbox org export /srv/mail > example.toml
    pillarbox org apply /srv/mail example.toml --dry-run
    pillarbox org apply /srv/mail example.toml
    """
    text = read_given_text(file)
    with operation(server, "org.apply") as perform:
        found = perform(items=[text], file=str(file), lost=list(lost), dry_run=dry_run)
    show({"differences": found}, found or ["Nothing differs."], as_json)


@org.command("export")
@SERVER
@click.option("--over", type=PATH, help="Keep the comments and the order of this file.")
@JSON
def export(server: Path, over: Path | None, as_json: bool) -> None:
    """Print the organisation as a file that can be edited and applied.

    \b
    pillarbox org export /srv/mail > example.toml
    pillarbox org export /srv/mail --over example.toml > new.toml
    """
    from pillarbox.replication.organisation.organisation_export import format_organisation

    before = read_given_text(over) if over else ""
    text = format_organisation(stored_organisation(server), before)
    show({"file": text}, text.splitlines(), as_json)


@org.command("export-ca")
@SERVER
@click.argument("file", type=PATH)
@PASSPHRASE_FILE
@JSON
def export_ca(server: Path, file: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Write the key that signs all certificates to FILE, encrypted by a passphrase.

    Whoever has both can make a server of this organisation. It is needed when this server is lost.

    \b
    pillarbox org export-ca /srv/mail authority.pem --passphrase-file secret
    """
    from pillarbox.tools.new_file import write_new_file

    passphrase = _passphrase(passphrase_file, is_new=True)
    with operation(server, "org.export_authority") as perform:
        data = perform(items=[passphrase])
    write_new_file(file, data)
    show({"file": str(file)}, [f"{file} holds the authority's key, encrypted. Keep it elsewhere."], as_json)


@org.command("move-ca")
@SERVER
@click.argument("file", type=PATH, required=False)
@click.option("--new", "is_new", is_flag=True, help="The key is lost: make another authority.")
@PASSPHRASE_FILE
@JSON
def move_ca(
    server: Path, file: Path | None, is_new: bool, passphrase_file: Path | None, as_json: bool
) -> None:
    """Have SERVER sign the certificates of the organisation from now on, by the export FILE of the key.

    The server that had it before lets it go when it hears of this. Where no export is left, --new makes
    another authority, which signs all servers' keys anew.

    \b
    pillarbox org move-ca /srv/mail authority.pem --passphrase-file secret
    pillarbox org move-ca /srv/mail --new
    """
    if (file is None) != is_new:
        raise click.UsageError("name the FILE of an export, or say --new")
    items = []
    if file is not None:
        items = [read_given(file), _passphrase(passphrase_file, is_new=False)]
    with operation(server, "org.move_authority") as perform:
        data = perform(items=items, is_new=is_new)
    lines = [
        f"{server} signs the organisation's certificates now; {data['renewed']} were made anew.",
        f"The authority is known by {data['authority']}",
    ]
    show(data, lines, as_json)


def _passphrase(file: Path | None, *, is_new: bool) -> bytes:
    """The passphrase of an export, out of a file or typed. Raises Refused where it is empty, or cannot be
    typed."""
    if file is None:
        if not (sys.stdin and sys.stdin.isatty()):
            raise Refused(
                "there is no terminal to ask for the passphrase at", hint="say --passphrase-file FILE"
            )
        text = click.prompt("Passphrase", hide_input=True, confirmation_prompt=is_new, err=True)
    else:
        text = read_given_text(file).rstrip("\r\n")
    if not text:
        raise Refused("the passphrase is empty", hint="choose one that nobody guesses")
    return str(text).encode()


def stored_organisation(server: Path) -> Organisation:
    """The organisation as a server knows it. Raises Refused where it belongs to none."""
    from pillarbox.replication.organisation.entries import read_organisation

    return read_organisation(dict(_entries(server))).organisation


def _entries(server: Path) -> Iterator[tuple[str, Any]]:
    from pillarbox.replication.node.member_files import MemberFiles
    from pillarbox.replication.node.stored_organisation import joined_tree, stored_entries
    from pillarbox.tools.operations.replicating import joined_store

    with (
        pillarbox.Server.open(server, read_only=True) as opened,
        joined_store(opened).read(ACTOR) as read,
    ):
        tree = joined_tree(read)
        found = stored_entries(read, tree) if tree else {}
    yield from (found or MemberFiles(server).first_entries()).items()
