"""Retention of backups: forget, prune, and run-due for timers; they are commands of `pillarbox backup`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import InvalidSetting
from pillarbox.store.ids import guid_text
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import confirm, counted, local_time, show, size_text, warn
from pillarbox.tools.parameters import YES, complete_group, duration
from pillarbox.tools.repository_options import GROUP, OF, REPOSITORY, keys, open_repository
from pillarbox.tools.snapshot_rows import snapshot_line, warn_unreadable
from pillarbox.tools.snapshot_source import open_source, raise_left_out

if TYPE_CHECKING:
    from pillarbox.backup.repository.prune import PruneReport
    from pillarbox.backup.repository.repository import Repository, Snapshot
    from pillarbox.backup.retention import Decision, HeldDatabase, KeepRules
    from pillarbox.backup.schedule import ScheduledRun

# -- by name


@click.command()
@REPOSITORY
@click.argument("snapshots", metavar="SNAPSHOT...", nargs=-1, required=True)
@GROUP
@OF
@YES
@keys
@JSON
def forget(
    repo: str,
    snapshots: tuple[str, ...],
    group_name: str | None,
    of: str | None,
    yes: bool,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Forget these snapshots, even the last ones that hold a database; the next prune frees their space.

    \b
    pillarbox backup forget /backup/mail 3f2a 77c0
    """
    repository = open_repository(repo, passphrase_file, key_file)
    chosen = list(dict.fromkeys(_id_of(repository, name, group_name, of) for name in snapshots))
    found = repository.snapshots()
    gone = [snapshot for snapshot in found if snapshot.id in chosen]
    last = _lost_with(found, gone)
    if not yes:
        warn([snapshot_line(snapshot) for snapshot in gone])
        warn(f"No other snapshot holds database {held.name}." for held in last)
    confirm(f"Forget {counted(len(chosen), 'snapshot')}?", yes)
    repository.forget(chosen)
    data = {"forgotten": chosen, "last_of": [_held_data(held) for held in last]}
    show(data, [f"{counted(len(chosen), 'snapshot')} forgotten; the next prune frees the space."], as_json)


def _id_of(repository: Repository, name: str, group_name: str | None, of: str | None) -> str:
    from pillarbox.backup.find_snapshot import find_snapshot, is_moment

    if is_moment(name):
        return find_snapshot(repository, name, group=group_name, of=of).id
    return repository.snapshot_id(name)


def _lost_with(snapshots: Sequence[Snapshot], gone: Sequence[Snapshot]) -> list[HeldDatabase]:
    """The databases that no snapshot holds any more once those of `gone` are forgotten."""
    from pillarbox.backup.retention import held_databases

    ids = {snapshot.id for snapshot in gone}
    return [
        held
        for held in held_databases(snapshots)
        if held.guid and ids.issuperset(snapshot.id for snapshot in held.snapshots)
    ]


def _held_data(held: HeldDatabase) -> dict[str, Any]:
    newest = held.snapshots[0]
    return {
        "database": held.name,
        "guid": guid_text(held.guid),
        "snapshot": newest.id,
        "time_ms": newest.time_ms,
    }


# -- by rules


def keeping(command: Any) -> Any:
    """The options that say which snapshots to keep."""
    captures = click.option(
        "--keep-captures",
        callback=duration,
        default="2d",
        show_default=True,
        metavar="TIME",
        help="Keep captured moments this long before the newest.",
    )
    gone = click.option(
        "--keep-gone",
        callback=duration,
        metavar="TIME",
        help="Keep databases that their server no longer has so long after their last backup, not for ever.",
    )
    command = gone(captures(command))
    for period in ("yearly", "monthly", "weekly", "daily", "hourly", "last"):
        what = "newest snapshots" if period == "last" else f"newest {period} snapshots"
        option = click.option(
            f"--keep-{period}", type=click.IntRange(0), default=0, help=f"Keep that many {what}."
        )
        command = option(command)
    return command


def _rules(options: dict[str, Any]) -> KeepRules | None:
    from pillarbox.backup.retention import KeepRules

    counts = {
        name: options[f"keep_{name}"] for name in ("last", "hourly", "daily", "weekly", "monthly", "yearly")
    }
    if not any(counts.values()):
        return None
    return KeepRules(**counts, captures_ms=options["keep_captures"], gone_ms=options["keep_gone"])


@click.command("prune")
@REPOSITORY
@keeping
@click.option("--dry-run", is_flag=True, help="Say what would go, and keep everything.")
@click.option("--forget-lost", is_flag=True, help="Forget snapshots too that are lost or damaged.")
@keys
@JSON
def prune_(
    repo: str,
    dry_run: bool,
    forget_lost: bool,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Forget the snapshots that no --keep option keeps, and free what only they needed.

    The rules count for each database by itself, in local time. The newest snapshot that holds a database
    stays whatever the rules say, also of one that its server no longer has, unless --keep-gone says for how
    long; `pillarbox backup forget` takes snapshots by name.

    \b
    pillarbox backup prune /backup/mail --keep-daily 7 --keep-monthly 12
    pillarbox backup prune /backup/mail --keep-last 3 --dry-run
    """
    from pillarbox.backup.repository.prune import prune
    from pillarbox.backup.retention import choose_kept
    from pillarbox.store.server import machine_zone

    rules = _rules(options)
    if rules is None:
        raise InvalidSetting(
            "nothing is said to be kept", hint="say at least one --keep option: --keep-daily 7"
        )
    repository = open_repository(repo, passphrase_file, key_file, only_reads=dry_run)
    decisions = choose_kept(repository.snapshots(), rules, machine_zone())
    gone = [each.snapshot for each in decisions if not each.is_kept]
    without_server = _without_server(decisions)
    unreadable = repository.unreadable_snapshots()
    if not dry_run:
        repository.forget([*(each.id for each in gone), *(unreadable if forget_lost else ())])
    ids = {each.id for each in gone}
    report = prune(repository, dry_run=dry_run, as_if_forgotten=ids, forgotten=gone)
    data = {
        "snapshots": [_decision_data(each) for each in decisions],
        "lost": list(unreadable),
        "gone": [_held_data(held) for held in without_server],
        **_prune_data(report),
        "dry_run": dry_run,
    }
    lines = [f"{snapshot_line(each.snapshot)}  {', '.join(each.reasons) or 'goes'}" for each in decisions]
    lines += _gone_lines(without_server, rules)
    show(data, [*lines, *_prune_lines(report, len(gone), dry_run)], as_json)
    if not forget_lost:
        warn_unreadable(unreadable)


def _without_server(decisions: Sequence[Decision]) -> list[HeldDatabase]:
    """The databases that their server no longer has, and of which something is kept."""
    from pillarbox.backup.retention import held_databases

    kept = [decision.snapshot for decision in decisions if decision.is_kept]
    return [held for held in held_databases(kept) if held.is_gone]


def _gone_lines(gone: Iterable[HeldDatabase], rules: KeepRules) -> Iterator[str]:
    until = "for ever: --keep-gone TIME ends that" if rules.gone_ms is None else "until --keep-gone is over"
    for held in gone:
        newest = held.snapshots[0]
        yield (
            f"{held.name}, which its server no longer has, stays in {newest.id[:12]}"
            f" of {local_time(newest.time_ms)} {until}."
        )


def _decision_data(decision: Decision) -> dict[str, Any]:
    return {
        "snapshot": decision.snapshot.id,
        "time_ms": decision.snapshot.time_ms,
        "kept": decision.is_kept,
        "reasons": list(decision.reasons),
    }


def _prune_data(report: PruneReport) -> dict[str, Any]:
    return {
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "packs_deleted": report.packs_deleted,
        "packs_repacked": report.packs_repacked,
    }


def _prune_lines(report: PruneReport, gone: int, dry_run: bool) -> Iterator[str]:
    sizes = f"from {size_text(report.bytes_before)} to {size_text(report.bytes_after)}"
    if dry_run:
        yield f"{counted(gone, 'snapshot')} would be forgotten; the repository would go {sizes}."
    else:
        yield f"{counted(gone, 'snapshot')} forgotten; the repository went {sizes}."


@click.command("run-due")
@SERVER
@REPOSITORY
@click.option(
    "--every", callback=duration, required=True, metavar="TIME", help="Between backups: 1d, 6h, 30m."
)
@click.option("--group", "group_name", shell_complete=complete_group, help="The storage group to back up.")
@keeping
@keys
@JSON
def run_due_(
    server: Path,
    repo: str,
    every: int,
    group_name: str | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Take a backup if one is due, and prune after it: for a timer that calls this often, or once a day.

    The repository itself tells when the last one was taken. Without a --keep option nothing is ever removed.

    \b
    pillarbox backup run-due /srv/mail /backup/mail --every 1d --keep-daily 7
    """
    from pillarbox.backup.schedule import Schedule, run_due
    from pillarbox.store.server import machine_zone

    repository = open_repository(repo, passphrase_file, key_file)
    schedule = Schedule(every, _rules(options))
    with open_source(server, group_name) as source:
        run = run_due(source, repository, schedule, clock=SystemClock(), zone=machine_zone())
    data = {
        "snapshot": run.snapshot and run.snapshot.id,
        "forgotten": [each.id for each in run.forgotten],
        "gone": [_held_data(held) for held in run.gone],
        "next_ms": run.next_ms,
    }
    show(data, _due_lines(run, schedule.keep), as_json)
    warn_unreadable(repository.unreadable_snapshots())
    if run.snapshot is not None:
        raise_left_out(source)


def _due_lines(run: ScheduledRun, rules: KeepRules | None) -> Iterator[str]:
    if run.snapshot is None:
        yield f"Nothing is due before {local_time(run.next_ms)}."
        return
    yield f"Snapshot {run.snapshot.id} was taken; the next is due {local_time(run.next_ms)}."
    if rules is not None and run.pruned is not None:
        yield from _gone_lines(run.gone, rules)
        yield from _prune_lines(run.pruned, len(run.forgotten), False)
