"""The command `pillarbox`: its groups and commands by name. Exit codes are those of docs/operations.md.

The module of a command is loaded when the command is called or its arguments are completed. It loads the
engine as the command runs: by a name of the public face (`pillarbox.Server`), or by an import in a function.
The first sentence of its help stands here too, for listings of the commands.
"""

from __future__ import annotations

import logging
from typing import Final

import click

from pillarbox.store.events import Event, EventId
from pillarbox.tools.lazy import LazyCommand
from pillarbox.tools.options import ErrorShowingGroup
from pillarbox.tools.output import events_to, warn

# What a command itself has to say, and says better.
_SAID_ALREADY = frozenset(
    {EventId.CHECK_FOUND_DAMAGE, EventId.IMPORT_FINISHED_DAMAGED, EventId.REPAIR_FINISHED}
)

# Name, place below `pillarbox.tools.commands`, first sentence of the help.
COMMANDS: Final = (
    ("init", "server:init", "Make a new server in the directory SERVER, which must be new or empty."),
    (
        "edition",
        "server:set_edition",
        "Change the edition of a server: how many storage groups and databases it may have, how large.",
    ),
    (
        "status",
        "server:status",
        "Databases, their sizes against their limits, their last backups, and mailboxes.",
    ),
    ("serve", "serve:serve_", "Hold the databases of SERVER and run what is due, until told to end."),
    (
        "rebuild",
        "rebuild:rebuild",
        "Make the server.toml of SERVER anew from its databases, when it is lost.",
    ),
    ("mount", "server:mount", "Prove that DATABASE can be mounted, and have it mounted from now on."),
    ("dismount", "server:dismount", "Keep DATABASE dismounted until `pillarbox mount`."),
    (
        "check",
        "upkeep:check",
        "Prove every database whole: each record, index, reference, counter, and byte of mail.",
    ),
    (
        "repair",
        "upkeep:repair",
        "Rebuild what `pillarbox check` finds wrong in DATABASE, from all that is whole; say what is lost.",
    ),
    (
        "maintain",
        "upkeep:maintain",
        "Do now what a database needs each day: purge, train a dictionary, give space back to the disk.",
    ),
    (
        "import",
        "mail:import_",
        "Import mbox files, Maildirs, EML files, and directories that hold any of these.",
    ),
    (
        "deliver",
        "deliver:deliver_message",
        "Deliver the message on standard input to the Inbox of each MAILBOX: to all, or to none.",
    ),
    ("export", "mail:export", "Write a mailbox to files in the directory OUT, which must be new or empty."),
    ("list", "message:list_", "The folders of a mailbox, or the messages of FOLDER."),
    (
        "show",
        "message:show_",
        "Print a message byte for byte as it came.",
    ),
    ("group", "group:group", "Storage groups: databases that are backed up together."),
    ("database", "database:database", "Databases: mailbox stores and public folder stores."),
    ("mailbox", "mailbox:mailbox_", "Mailboxes of a server."),
    ("folder", "folder:folder_", "Folders of a mailbox."),
    ("message", "message:message_", "Messages of a mailbox."),
    ("limits", "limits:limits_", "Size limits of databases, and their daily check."),
    ("events", "events:events", "The event log of a server (docs/operations.md lists all events)."),
    ("backup", "backup:backup", "Snapshots of storage groups in a repository, and restores."),
    (
        "recovery",
        "recovery:recovery",
        "The recovery storage group: recovered databases beside the live ones, which no client reaches.",
    ),
    (
        "org",
        "organisation:org",
        "The organisation that a server belongs to: servers, sites, connectors, and who signs certificates.",
    ),
    ("node", "node:node", "Servers of an organisation."),
    ("replica", "replica:replica", "Replicas of public folders."),
    ("replication", "replication:replication", "Public folder replication."),
)


@click.group(cls=ErrorShowingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pillarbox", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Keep mail in one durable store.

    SERVER is the directory of a server. Every command has examples in its --help; all but completion take
    --json.

    \b
    pillarbox init /srv/mail
    pillarbox import /srv/mail anna old-mail.mbox
    pillarbox status /srv/mail
    """
    ctx.with_resource(events_to(_warn_of, logging.WARNING))


def _warn_of(event: Event) -> None:
    if event.event_id not in _SAID_ALREADY:
        warn([f"pillarbox: event {event.event_id}: {event.text}"])


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, servers, databases, mailboxes and folders.

    \b
    pillarbox completion bash >> ~/.bashrc
    pillarbox completion zsh >> ~/.zshrc
    pillarbox completion fish > ~/.config/fish/completions/pillarbox.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "pillarbox", "_PILLARBOX_COMPLETE").source())


cli.add_command(completion)
for name, place, help_text in COMMANDS:
    cli.add_command(LazyCommand(name, f"pillarbox.tools.commands.{place}", help_text))
