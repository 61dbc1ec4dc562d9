"""Commands whose modules are loaded when the command is called: help and completion load none of them."""

from __future__ import annotations

from importlib import import_module

import click


class LazyCommand(click.Command):
    """Stands for a command in the listings of its group. `load` gives the command itself."""

    def __init__(self, name: str, place: str, help: str) -> None:
        """`place` is `module:attribute`; `help` is the first sentence of the command's help."""
        super().__init__(name, help=help)
        self.place = place

    def load(self) -> click.Command:
        """The command, from its module."""
        module, _, attribute = self.place.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group with commands that may be lazy: a lazy one is loaded when the command line names it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest
