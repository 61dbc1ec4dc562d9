"""The output of commands: lines for people, or JSON; questions, warnings and progress on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from pillarbox.store.errors import Refused
from pillarbox.store.events import Event, Severity

Step = Callable[[int, int, str], None]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = ("B", "KB", "MB", "GB", "TB", "PB")


# -- results, on stdout


def show(data: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print `data` as JSON, or `lines` for a person. Text from mail cannot steer the terminal."""
    if as_json:
        click.echo(json_text(data, indent=2))
        return
    for line in lines:
        click.echo(printable(line))


def show_each(
    rows: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str], as_json: bool, *, empty: str = ""
) -> None:
    """Print rows as they come: a JSON array with one row a line, or the `line` of each for a person.

    `empty` is said to a person when there are none.
    """
    count = 0
    for count, row in enumerate(rows, 1):
        if as_json:
            click.echo(("[\n" if count == 1 else ",\n") + json_text(row), nl=False)
        else:
            click.echo(printable(line(row)))
    if as_json:
        click.echo("\n]" if count else "[]")
    elif not count and empty:
        click.echo(printable(empty))


def json_text(data: Any, indent: int | None = None) -> str:
    """`data` as JSON that is readable and that a terminal takes for nothing but text."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def printable(line: str) -> str:
    """One line of `line`, in which what is no visible letter is a blank: no escape sequence survives."""
    return "".join(letter if letter.isprintable() else " " for letter in line)


def fitted(line: str, width: int) -> str:
    """`line` cut or filled up with blanks to `width` cells of a terminal, in which some letters take two."""
    from rich.cells import set_cell_size  # here: only listings need it

    return set_cell_size(line, width)


def size_text(size_bytes: int) -> str:
    """A size for a person: 512 B, 1.4 KB, 3.0 MB; a KB is 1024 bytes."""
    value, units = float(size_bytes), iter(_UNITS)
    unit = next(units)
    while value >= 1023.95 and unit != _UNITS[-1]:  # no more than 1023.9: 1024.0 KB is 1.0 MB
        value, unit = value / 1024, next(units)
    return f"{value:.0f} B" if unit == "B" else f"{value:,.1f} {unit}"


def counted(count: int, what: str) -> str:
    """A number of things for a person: 1 message, 2 messages, 2 mailboxes."""
    ending = "" if count == 1 else "es" if what.endswith("x") else "s"
    return f"{count:,} {what}{ending}"


def percent_text(part: int, whole: int) -> str:
    """The part that `part` is of `whole`, for a person."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def local_time(time_ms: int | None, precision: str = "minutes") -> str:
    """A time (ms UTC) on the clock of whoever looks, with its distance from UTC; "" for none. To the minute,
    or as precise as `datetime.isoformat` calls it."""
    if time_ms is None:
        return ""
    try:
        return (_EPOCH + timedelta(milliseconds=time_ms)).astimezone().isoformat(" ", precision)
    except (OverflowError, ValueError, OSError):
        return "?"  # a message may claim any year


def event_line(event: dict[str, Any]) -> str:
    """An event, as a dict of its fields, for a person."""
    severity = event["severity"] if event["severity"] != Severity.INFORMATION else "info"
    return f"{local_time(event['time_ms'])}  {event['event_id']:>5} {severity:7}  {event['text']}"


# -- remarks, questions and progress, on stderr


def warn(lines: Iterable[str]) -> None:
    """Print lines on stderr. Where that is not possible a command still ends with the code that it has."""
    with suppress(OSError):
        for line in lines:
            click.echo(printable(line), err=True)


def confirm(question: str, yes: bool) -> None:
    """Ask before something is gone for good, unless `yes`. Raises Refused on any answer but yes."""
    if yes:
        return
    click.echo(f"{printable(question)} [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline().strip().lower() if sys.stdin else ""
    if answer not in ("y", "yes"):
        raise Refused("nothing was done", hint="answer y, or say --yes")


def confirm_at_terminal(question: str, yes: bool) -> None:
    """`confirm` for what must not be answered by accident: where stdin is no terminal, only `yes` will do."""
    if not yes and not (sys.stdin and sys.stdin.isatty()):
        raise Refused("nothing was done: there is no terminal to ask at", hint="say --yes")
    confirm(question, yes)


@contextmanager
def progress(title: str, as_json: bool) -> Iterator[Step | None]:
    """A bar on stderr while the `with` block runs, to be moved by `step(done, total, what)`.

    Gives None where nobody looks: with --json, or when stderr is no terminal.
    """
    if as_json or not sys.stderr.isatty():
        yield None
        return
    # Loaded here: half of the commands' start-up time otherwise.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(), TaskProgressColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def step(done: int, total: int, what: str = "") -> None:
            description = f"{title} {printable(what)[-40:]}" if what else title
            bar.update(task, completed=min(done, total), total=total, description=description)

        yield step


def counting(step: Step, total: int) -> Callable[[int], None]:
    """A function that moves a bar of `progress` by each count. `total` may be an estimate, and too low."""
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        step(done, max(total, done), "")

    return told


class _EventsTo(logging.Handler):
    def __init__(self, show_event: Callable[[Event], None], severity_min: int) -> None:
        super().__init__(severity_min)
        self._show_event = show_event

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if isinstance(event, Event):
            self._show_event(event)


@contextmanager
def events_to(show_event: Callable[[Event], None], severity_min: int = logging.INFO) -> Iterator[None]:
    """Give every event of the library from a logging level up to a function, while the `with` block runs.

    In a block within another such block, the inner function takes them all.
    """
    logger = logging.getLogger("pillarbox")
    handler, level = _EventsTo(show_event, severity_min), logger.level
    outer = [each for each in logger.handlers if isinstance(each, _EventsTo)]
    for each in outer:
        logger.removeHandler(each)
    logger.addHandler(handler)
    logger.setLevel(min(severity_min, level or logging.WARNING))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        for each in outer:
            logger.addHandler(each)
