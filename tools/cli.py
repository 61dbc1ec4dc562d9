"""The command `pillarbox`: its groups and commands by name. Exit codes are those of docs/operations.md."""

from __future__ import annotations

import logging

import click
from click.shell_completion import get_completion_class

from pillarbox.store.events import Event, EventId
from pillarbox.tools.commands import (
    backup,
    capture,
    database,
    events,
    folder,
    group,
    limits,
    mail,
    mailbox,
    message,
    recovery,
    repository,
    server,
)
from pillarbox.tools.options import ErrorShowingGroup
from pillarbox.tools.output import events_to, warn

# What a command itself has to say, and says better.
_SAID_ALREADY = frozenset(
    {EventId.CHECK_FOUND_DAMAGE, EventId.IMPORT_FINISHED_DAMAGED, EventId.REPAIR_FINISHED}
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
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "pillarbox", "_PILLARBOX_COMPLETE").source())


for command in (repository.init, repository.check, repository.copy, capture.capture_):
    backup.backup.add_command(command)
for command in (
    server.init,
    server.status,
    mail.import_,
    mail.export,
    message.list_,
    message.show_,
    server.check,
    server.repair,
    server.maintain,
    server.mount,
    server.dismount,
    group.group,
    database.database,
    mailbox.mailbox_,
    folder.folder_,
    message.message_,
    limits.limits_,
    events.events,
    backup.backup,
    recovery.recovery,
    completion,
):
    cli.add_command(command)
