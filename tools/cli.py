"""The command `pillarbox`: its groups and commands by name. Exit codes are those of docs/operations.md."""

from __future__ import annotations

import logging

import click
from click.shell_completion import get_completion_class

from pillarbox.store.events import Event, EventId
from pillarbox.tools import (
    cmd_backup,
    cmd_capture,
    cmd_database,
    cmd_events,
    cmd_folder,
    cmd_group,
    cmd_limits,
    cmd_mail,
    cmd_mailbox,
    cmd_message,
    cmd_recovery,
    cmd_repository,
    cmd_server,
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


for command in (cmd_repository.init, cmd_repository.check, cmd_repository.copy, cmd_capture.capture_):
    cmd_backup.backup.add_command(command)
for command in (
    cmd_server.init,
    cmd_server.status,
    cmd_mail.import_,
    cmd_mail.export,
    cmd_message.list_,
    cmd_message.show_,
    cmd_server.check,
    cmd_server.repair,
    cmd_server.maintain,
    cmd_server.mount,
    cmd_server.dismount,
    cmd_group.group,
    cmd_database.database,
    cmd_mailbox.mailbox_,
    cmd_folder.folder_,
    cmd_message.message_,
    cmd_limits.limits_,
    cmd_events.events,
    cmd_backup.backup,
    cmd_recovery.recovery,
    completion,
):
    cli.add_command(command)
