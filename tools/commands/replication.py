"""Public folder replication: simulate."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pillarbox.tools.options import JSON
from pillarbox.tools.output import counted, progress, show, size_text

if TYPE_CHECKING:
    from pillarbox.replication.simulation.campaign import Summary
    from pillarbox.replication.simulation.scenario import Figures, Settings

VIOLATED = 1


@click.group()
def replication() -> None:
    """Public folder replication."""


@replication.command()
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The first seed; 0 without it.")
@click.option(
    "--nodes", type=click.IntRange(2, 200), default=4, help="Stores at the beginning; 4 without it."
)
@click.option("--sites", type=click.IntRange(1, 50), default=2, help="Sites, in a chain; 2 without it.")
@click.option("--steps", type=click.IntRange(min=1), default=150, help="Changes and faults; 150 without it.")
@click.option(
    "--folders", type=click.IntRange(1, 100_000), help="A large organisation, with so many folders at once."
)
@click.option(
    "--replicas", type=click.IntRange(1, 50), default=5, help="Of each of these folders; 5 without it."
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
    seeds: int,
    as_json: bool,
) -> None:
    """Run whole organisations in virtual time, with faults, and check them after every step.

    Messages are lost, doubled, late and out of order, links are cut for hours, machines crash, are lost or go
    back to old copies, clocks are wrong. Then the faults stop, and all stores must become equal. The same
    seed gives the same run on every machine. Ends with 1 when something was violated, and prints what
    happened in the first such seed. A large organisation (`--folders`) has few faults and statuses at rest
    once a day; it is checked at 20 moments and at the end.

    \b
    pillarbox replication simulate --seeds 20
    pillarbox replication simulate --seed 17 --nodes 9 --sites 3 --steps 500
    pillarbox replication simulate --nodes 200 --sites 20 --folders 10000
    """
    from pillarbox.replication.simulation.campaign import summarise, trace_of
    from pillarbox.replication.simulation.large import LargeSettings
    from pillarbox.replication.simulation.scenario import Settings

    settings = Settings(stores=nodes, sites=sites, steps=steps)
    if folders:
        settings = LargeSettings(stores=nodes, sites=sites, steps=steps, folders=folders, replicas=replicas)
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
        yield f"Content from {link.replace('-', ' to ')}: {size_text(link_bytes)}, distinct {distinct}"
