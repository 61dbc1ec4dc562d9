"""Public folder replication: status, explain, stop, resume, send again, conflicts, simulate."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pillarbox
from pillarbox.store.clock import Clock, SystemClock
from pillarbox.store.errors import Dismounted, PeerUnreachable, Retryable
from pillarbox.tools.commands.replica import FOLDER, RECURSIVE, is_unknown, replica_line
from pillarbox.tools.operations.replicating import shown_folder
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import Step, counted, local_time, progress, show, size_text
from pillarbox.tools.parameters import moment, size
from pillarbox.tools.serving.client import find_served
from pillarbox.tools.serving.performing import operation

if TYPE_CHECKING:
    from pillarbox.replication.simulation.campaign import Summary
    from pillarbox.replication.simulation.scenario import Figures, Settings

VIOLATED = 1
NOT_IN_SYNC: Final = 55
IN_SYNC: Final = "in sync"
_LOOK_EVERY_MS: Final = 250
_LOOK_SHARE: Final = 20
_SERVED: Final = "for a process that serves this server"
_MOUNTED: Final = "for its databases to be mounted"
TO: Final = click.option(
    "--to", "first", metavar="NAME...", multiple=True, required=True, help="To these servers."
)
MORE: Final = click.argument("more", metavar="[NAME...]", nargs=-1)  # an option takes but one of its names
DAYS: Final = click.option(
    "--days", type=click.IntRange(1, 36_500), required=True, help="What was changed in so many days."
)
FOLDER_OR_ALL: Final = click.argument("folder_path", metavar="[FOLDER]", default="")


@click.group()
def replication() -> None:
    """Public folder replication."""


@replication.command("status")
@SERVER
@FOLDER_OR_ALL
@click.option(
    "--wait",
    "wait_s",
    type=click.IntRange(0, 1_000_000),
    metavar="SECONDS",
    help="Wait until all are in sync, and ask the other servers meanwhile.",
)
@JSON
def status(server: Path, folder_path: str, wait_s: int | None, as_json: bool) -> None:
    """Say if the replicas of FOLDER, or of all folders that SERVER holds, are in sync.

    Ends with 0 when all are, with 55 when not. Without --wait it says what the others said last, which may be
    minutes ago; on a server that is not served that is from before it ended, however long ago. With --wait it
    takes no database: where no `pillarbox serve` answers it waits for one, and ends with 13 when none came.

    \b
    pillarbox replication status /srv/mail
    pillarbox replication status /srv/mail Forum --wait 60
    """
    if wait_s:
        with progress("waiting", as_json) as step:
            found = _awaited(server, folder_path, wait_s, SystemClock(), step)
    else:
        with operation(server, "replication.status") as perform:
            found = perform(folder=folder_path, ask=wait_s is not None)
    show(found, _status_lines(found), as_json)
    if not _is_in_sync(found):
        sys.exit(NOT_IN_SYNC)


def _awaited(
    server: Path, folder_path: str, wait_s: int, clock: Clock, step: Step | None
) -> list[dict[str, Any]]:
    """Look until all are in sync, or so many seconds are over; what was seen last.

    Only the process that serves is asked, in a call of its own each time: it may come, go and come again
    meanwhile. A database that this process had would keep it from replicating. Raises NotFound, and what kept
    the last look from being made.
    """
    from pillarbox.store.server_config import read_config

    read_config(server)  # a server that is not there is not waited for
    until_ms = clock.monotonic_ms() + 1000 * wait_s
    while True:
        began_ms = clock.monotonic_ms()
        try:
            found = _seen_by_process(server, folder_path)
        except (Retryable, Dismounted) as error:
            if clock.monotonic_ms() >= until_ms:
                raise
            waits_for = 0, 1, _MOUNTED if isinstance(error, Dismounted) else _SERVED
        else:
            is_told = not any(is_unknown(each["replicas"]) for each in found)
            if _is_in_sync(found) or not is_told or clock.monotonic_ms() >= until_ms:
                return found
            waits_for = _waited_for(found)
        if step:
            step(*waits_for)
        # Of very many folders a look takes the server a while, in which it does nothing else.
        now_ms = clock.monotonic_ms()
        rest_ms = max(_LOOK_EVERY_MS, _LOOK_SHARE * (now_ms - began_ms))
        clock.sleep_ms(max(0, min(rest_ms, until_ms - now_ms)))


def _seen_by_process(server: Path, folder_path: str) -> list[dict[str, Any]]:
    """The status as the process that serves has it, which asks the others. Raises PeerUnreachable where none
    does, and as `Connected.call`."""
    connected = find_served(server)
    if connected is None:
        raise PeerUnreachable(
            f"{server} is not served: nothing is replicated, and nobody is asked",
            hint="start `pillarbox serve`; without --wait you are told what the others said last",
        )
    with connected:
        found: list[dict[str, Any]] = connected.call("replication.status", folder=folder_path, ask=True)
    return found


def _is_in_sync(found: list[dict[str, Any]]) -> bool:
    return all(each["in_sync"] for each in found)


def _waited_for(found: list[dict[str, Any]]) -> tuple[int, int, str]:
    """The replicas that are in sync, all of them, and the first that is not, with what keeps it."""
    rows = [(each["folder"], row) for each in found for row in each["replicas"]]
    behind = [(folder, row) for folder, row in rows if row["state"] != IN_SYNC]
    folder, first = behind[0]
    left = f", lacks {first['lacks']:,}" if first["lacks"] else ""
    left += f", {first['offers']:,} missing here" if first["offers"] else ""
    return len(rows) - len(behind), len(rows), f"for {first['server']}: {shown_folder(folder)}{left}"


def _status_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    for each in found:
        told = "in sync" if each["in_sync"] else "not in sync"
        if is_unknown(each["replicas"]):
            told = "this server holds no replica of it, and is not told how far others are"
        yield f"{shown_folder(each['folder'])}: {told}"
        if not each["in_sync"]:
            yield from (f"  {replica_line(row)}" for row in each["replicas"])
    yield from dict.fromkeys(line for each in found for line in _held_back_lines(each))


def _held_back_lines(found: dict[str, Any]) -> Iterator[str]:
    if found["held_back"] == "stopped":
        until_ms = found["held_back_until_ms"]
        until = f" until {local_time(until_ms)}" if until_ms else "; see `pillarbox replication resume`"
        yield f"content is stopped in the whole organisation{until}"
    elif found["held_back"] == "hierarchy":
        yield "content waits for changes of the hierarchy that other servers hold"


@replication.command("explain")
@SERVER
@FOLDER_OR_ALL
@JSON
def explain(server: Path, folder_path: str, as_json: bool) -> None:
    """Say all that keeps FOLDER, or the hierarchy, from being in sync at SERVER.

    Which changes are missing, who has them, whom SERVER asks and why, and when next.

    \b
    pillarbox replication explain /srv/mail Forum
    """
    with operation(server, "replication.explain") as perform:
        data = perform(folder=folder_path)
    show(data, _explained_lines(data), as_json)


def _explained_lines(data: dict[str, Any]) -> Iterator[str]:
    folder = shown_folder(data["folder"])
    if not data["held"]:
        yield f"{folder}: this server holds no replica of it"
        return
    yield f"{folder}: {'in sync' if data['in_sync'] else 'not in sync'}"
    yield from _held_back_lines(data)
    for name in data["waits_for"]:
        yield f"nothing is sent before {name} has answered the hello of this start"
    for guid in data["quarantined"]:
        yield f"two copies of a server numbered changes under {guid}: see `pillarbox node adopt-as-truth`"
    yield f"{counted(data['missing']['count'], 'change')} missing here"
    for each in data["holders"]:
        heard = f"as of {local_time(each['heard_ms'])}" if each["heard_ms"] else "not heard of yet"
        silent = ", does not answer" if each["silent"] else ""
        has = f"has {each['has']:,} of them, lacks {each['lacks']:,} of ours"
        yield f"  {each['server']}: {has}, {heard}{silent}"
    for each in data["wanted"]:
        again = f"at {local_time(each['due_ms'])}" if each["due_ms"] else "once a source can be reached"
        yield (f"{counted(each['count'], 'change')} asked for {counted(each['tries'], 'time')}, next {again}")
    for each in data["plan"]:
        late = f", late: {each['late']}" if each["late"] else ""
        preferred = ", preferred" if each["preferred"] else ""
        yield (
            f"  {each['server']}: cost {each['cost']}, version {each['version']}, has {each['has']:,},"
            f" would be asked for {each['asked']:,}{preferred}{late}"
        )
    for each in data["set_aside"]:
        yield f"item {each['item']} is set aside since {local_time(each['since_ms'])}: {each['reason']}"


@replication.command("stop")
@SERVER
@JSON
def stop(server: Path, as_json: bool) -> None:
    """Stop replication of content in the whole organisation; the hierarchy goes on.

    \b
    pillarbox replication stop /srv/mail
    """
    with operation(server, "replication.stop") as perform:
        perform()
    show({"content": "stopped"}, ["Content is stopped, at each server as soon as it hears of it."], as_json)


@replication.command("resume")
@SERVER
@click.option("--at", "start_ms", callback=moment, metavar="TIME", help="From this time on, not at once.")
@click.option("--rate", callback=size, metavar="BYTES", help="Bytes a second over each connector at most.")
@JSON
def resume(server: Path, start_ms: int | None, rate: int | None, as_json: bool) -> None:
    """Let content be replicated again; what was changed meanwhile goes by the lists of then.

    \b
    pillarbox replication resume /srv/mail
    pillarbox replication resume /srv/mail --at 2026-12-01T22:00 --rate 500K
    """
    if rate == 0:
        raise click.UsageError("--rate 0 would let nothing through: leave it out for no limit")
    with operation(server, "replication.resume") as perform:
        perform(start_ms=start_ms or 0, rate_bytes=rate or 0)
    data = {"content": "running", "from_ms": start_ms, "rate_bytes": rate}
    show(data, [f"Content goes {'from ' + local_time(start_ms) + ' on' if start_ms else 'again'}."], as_json)


@replication.command("synchronize-hierarchy")
@SERVER
@JSON
def synchronize_hierarchy(server: Path, as_json: bool) -> None:
    """Ask all other servers what they have of the hierarchy, and even out.

    \b
    pillarbox replication synchronize-hierarchy /srv/mail
    """
    with operation(server, "replication.synchronize_hierarchy") as perform:
        perform()
    show({"asked": True}, ["All other servers are asked, until each has answered."], as_json)


@replication.command("send-hierarchy")
@SERVER
@MORE
@TO
@DAYS
@JSON
def send_hierarchy(
    server: Path, more: tuple[str, ...], first: tuple[str, ...], days: int, as_json: bool
) -> None:
    """Send the changes of the hierarchy of the last days to servers again.

    \b
    pillarbox replication send-hierarchy /srv/mail --to paris rome --days 2
    """
    with operation(server, "replication.send_hierarchy") as perform:
        data = perform(servers=[*first, *more], days=days)
    show(data, [f"{counted(data['items'], 'item')} on the way."], as_json)


@replication.command("send-contents")
@SERVER
@FOLDER
@MORE
@TO
@DAYS
@RECURSIVE
@JSON
def send_contents(
    server: Path,
    folder_path: str,
    more: tuple[str, ...],
    first: tuple[str, ...],
    days: int,
    recursive: bool,
    as_json: bool,
) -> None:
    """Send what was changed in FOLDER in the last days to servers with a replica of it again.

    \b
    pillarbox replication send-contents /srv/mail Forum --to paris --days 2
    pillarbox replication send-contents /srv/mail Forum --to paris rome \\
        --days 2 --recursive
    """
    with operation(server, "replication.send_contents") as perform:
        data = perform(folder=folder_path, servers=[*first, *more], days=days, recursive=recursive)
    lines = [f"{counted(data['items'], 'item')} of {counted(data['folders'], 'folder')} on the way."]
    show(data, lines, as_json)


@replication.command("prefer")
@SERVER
@click.option(
    "--from", "sources", metavar="NAME", multiple=True, help="Ask this server first; may be said again."
)
@click.option("--for", "name", metavar="NAME", default="", help="Say it for that server, not for SERVER.")
@JSON
def prefer(server: Path, sources: tuple[str, ...], name: str, as_json: bool) -> None:
    """Name the servers that SERVER asks before all others for what it lacks, whatever the way there costs.

    Without --from costs decide again. It holds for all folders, and replaces what was said before.

    \b
    pillarbox replication prefer /srv/mail --from b2
    pillarbox replication prefer /srv/mail --for p1 --from b1 --from b2
    pillarbox replication prefer /srv/mail
    """
    with operation(server, "replication.prefer") as perform:
        data = perform(server=name, sources=list(sources))
    first = f"{', '.join(sources)} first" if sources else "whoever costs least"
    show(data, [f"{data['server']} asks {first}."], as_json)


@replication.command("conflicts")
@SERVER
@JSON
def conflicts(server: Path, as_json: bool) -> None:
    """The messages that were changed in two places at once, with their versions.

    Of each version its id, when it was made, by whom and at which server, and its size. `pillarbox show`
    prints one byte for byte.

    \b
    pillarbox replication conflicts /srv/mail
    pillarbox show /srv/mail / 1-31
    """
    from pillarbox.tools.operations.replication import conflicts as conflicts_of

    with pillarbox.Server.open(server, read_only=True) as opened:
        found = conflicts_of(opened)
    show(found, _conflict_lines(found, server), as_json)


def _conflict_lines(found: list[dict[str, Any]], server: Path) -> Iterator[str]:
    if not found:
        yield "There are no conflicts."
        return
    for each in found:
        yield f"{each['folder']}: message {each['message']}"
        for version in each["versions"]:
            words = " ".join(version["flags"])
            yield (
                f"  {version['id']}  {local_time(version['changed_ms'], 'seconds')}  {version['actor']}"
                f" at {version['server']}  {size_text(version['size_bytes'])}  {version['subject']}  {words}"
            ).rstrip()
    yield ""
    yield f"Read a version:   pillarbox show {server} / VERSION-ID"
    yield f"End a conflict:   pillarbox replication resolve {server} MESSAGE-ID --keep VERSION-ID|all"


@replication.command("resolve")
@SERVER
@click.argument("message_id", metavar="MESSAGE-ID")
@click.option("--keep", required=True, metavar="ID", help="The version to keep, or `all`.")
@JSON
def resolve(server: Path, message_id: str, keep: str, as_json: bool) -> None:
    """Resolve a conflict: one version is kept and the others go, at all servers; or all become messages.

    \b
    pillarbox replication resolve /srv/mail 1-2f --keep 1-31
    pillarbox replication resolve /srv/mail 1-2f --keep all
    """
    with operation(server, "replication.resolve") as perform:
        data = perform(message=message_id, keep=keep)
    show(data, [f"Kept: {', '.join(each['id'] for each in data)}."], as_json)


@replication.command()
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The first seed; 0 without it.")
@click.option(
    "--nodes", type=click.IntRange(2, 200), default=4, help="Stores at the beginning; 4 without it."
)
@click.option(
    "--sites",
    type=click.IntRange(1, 50),
    default=2,
    help="Sites, in a chain, a star or a ring; 2 without it.",
)
@click.option("--steps", type=click.IntRange(min=1), default=150, help="Changes and faults; 150 without it.")
@click.option(
    "--folders", type=click.IntRange(1, 100_000), help="A large organisation, with so many folders at once."
)
@click.option(
    "--replicas", type=click.IntRange(1, 50), default=5, help="Of each of these folders; 5 without it."
)
@click.option(
    "--administered",
    is_flag=True,
    help="In each seed also 6 changes of replica lists, a stop and a resume of content, 2 moves of folders "
    "at two stores at once and 3 other commands of operators.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="Run so many seeds in a row.")
@JSON
def simulate(
    seed: int,
    nodes: int,
    sites: int,
    steps: int,
    folders: int | None,
    replicas: int,
    administered: bool,
    seeds: int,
    as_json: bool,
) -> None:
    """Run whole organisations in virtual time, with faults, and check them after every step.

    Messages are lost, doubled, late and out of order, links are cut for hours, machines crash, are lost or go
    back to old copies, clocks are wrong. Then the faults stop, and all stores must become equal. The same
    seed gives the same run on every machine. Ends with 1 when something was violated, and prints what
    happened in the first such seed. A large organisation (`--folders`) has few faults and rounds at rest
    once a day; it is checked at 20 moments and at the end.

    \b
    pillarbox replication simulate --seeds 20
    pillarbox replication simulate --seed 17 --nodes 9 --sites 3 --steps 500
    pillarbox replication simulate --seeds 90 --administered
    pillarbox replication simulate --nodes 200 --sites 20 --folders 10000
    """
    if sites > nodes:
        raise click.UsageError(
            f"{nodes} stores make at most {nodes} sites: say more --nodes, or fewer --sites"
        )
    from pillarbox.replication.simulation.campaign import summarise, trace_of
    from pillarbox.replication.simulation.large import LargeSettings
    from pillarbox.replication.simulation.scenario import Settings

    settings = Settings(stores=nodes, sites=sites, steps=steps)
    if folders:
        settings = LargeSettings(stores=nodes, sites=sites, steps=steps, folders=folders, replicas=replicas)
    settings = replace(settings, administered=administered)
    summary = summarise(_run(range(seed, seed + seeds), settings, as_json))
    trace = trace_of(summary.violations[0][0], settings) if summary.violations else []
    show(_data(summary, trace), _lines(summary, trace), as_json)
    if summary.violations:
        sys.exit(VIOLATED)


def _run(seeds: range, settings: Settings, as_json: bool) -> Iterator[Figures]:
    from pillarbox.replication.simulation.campaign import run_seeds

    with progress("Simulating", as_json) as step:
        for done, figures in enumerate(run_seeds(seeds, settings), 1):
            if step:
                step(done, len(seeds), f"seed {figures.seed}")
            yield figures


def _data(summary: Summary, trace: list[str]) -> dict[str, Any]:
    violations = [{"seed": seed, "text": text} for seed, text in summary.violations]
    return {**summary._asdict(), "violations": violations, "trace": trace}


def _lines(summary: Summary, trace: list[str]) -> Iterator[str]:
    yield from trace
    for seed, text in summary.violations:
        yield f"Seed {seed}: {text}"
    yield (
        f"{counted(summary.seeds, 'seed')}, {counted(summary.writes, 'write')}, "
        f"{counted(len(summary.violations), 'violation')}; equal after "
        f"{summary.converged_ms_mean / 60_000:,.0f} minutes of peace on average, "
        f"{summary.converged_ms_max / 60_000:,.0f} at most"
    )
    for title, counts in (
        ("Messages", summary.messages),
        ("Faults", summary.faults),
        ("Rules", summary.rules),
    ):
        yield f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())
    for link, link_bytes in summary.link_bytes.items():
        distinct = size_text(summary.link_bytes_distinct.get(link, 0))
        lost = size_text(summary.link_bytes_lost.get(link, 0))
        link_name = link.replace("-", " to ")
        yield f"Content from {link_name}: {size_text(link_bytes)}, distinct {distinct}, lost {lost}"
