"""The parts that all commands share: who asks, the arguments that each has, and how a mistake is shown."""

from __future__ import annotations

import io
import os
import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from pillarbox.store.access import Actor
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.error_data import error_data
from pillarbox.tools.lazy import LazyGroup
from pillarbox.tools.output import json_text, warn

if TYPE_CHECKING:
    pass

INTERRUPTED = 130  # as shells say of a command that SIGINT ended
NOBODY_READS = 141  # and of one that SIGPIPE ended


def account_name(user: int) -> str:
    """The name of a user of the system, as that knows it: environment variables can say anything."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


ACTOR = Actor.administrator(account_name(os.getuid()))


def _complete_directory(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


# Whether it may be read is not asked here, as a wrong call: who reads it says so, with a code of its own.
PATH: Final = click.Path(path_type=Path, readable=False)
SERVER = click.argument("server", type=PATH, shell_complete=_complete_directory)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class ErrorShowingGroup(LazyGroup):
    """Shows a person's mistakes as one line and a hint, with the exit code of their class.

    With --json a mistake is one JSON object on stderr: `error_data`.
    """

    def invoke(self, ctx: click.Context) -> Any:
        as_json = "--json" in ctx.args  # also where what else is said cannot be understood
        try:
            return super().invoke(ctx)
        except PillarboxError as error:
            end_with(error, as_json)
        except click.UsageError as error:
            if not as_json:
                raise
            hint = f"see `{error.ctx.command_path} --help`" if error.ctx else ""
            tell_error({**error_data(error), "error": error.format_message(), "hint": hint}, as_json=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            warn(["pillarbox: interrupted"])
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.stdout = io.StringIO()  # Python flushes stdout once more at its end, and would complain
            sys.exit(NOBODY_READS)
        except OSError as error:
            from pillarbox.store.disk.stream import disk_error  # here: it loads much, and seldom matters

            end_with(disk_error(error, str(error.filename or "the system")), as_json)


def end_with(error: PillarboxError, as_json: bool) -> NoReturn:
    tell_error(error_data(error), as_json=as_json)
    sys.exit(error.exit_code)


def tell_error(data: dict[str, Any], *, as_json: bool) -> None:
    """Tell of an error, of `error_data`, on stderr: a sentence and a hint, or one JSON object."""
    if as_json:
        warn([json_text(data)])
    else:
        first, *others = data["error"].split("\n")  # an organisation file can have many faults
        lines = [f"pillarbox: {first}", *(f"           {each}" for each in others)]
        warn([*lines, *([f"  {data['hint']}"] if data["hint"] else [])])
