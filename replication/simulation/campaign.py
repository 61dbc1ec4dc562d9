"""Many seeds in a row, and what they show together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pillarbox.replication.simulation.kinds import CONFLICTS, LIST_STATES
from pillarbox.replication.simulation.large import LargeScenario, LargeSettings
from pillarbox.replication.simulation.scenario import Figures, Scenario, Settings
from pillarbox.replication.simulation.world import Trace

MESSAGES: Final = frozenset(
    {
        "Answer",
        "BackfillRequest",
        "Broadcast",
        "Fetching",
        "Hello",
        "HelloAnswer",
        "LinkReport",
        "Receipt",
        "ReconcileAnswer",
        "ReconcileQuestion",
        "Status",
        "StatusRequest",
    }
)
FAULTS: Final = frozenset(
    {
        "begun elsewhere",
        "clock in 2099",
        "clock skew",
        "copy",
        "crash",
        "cut",
        "cut both ways",
        "cut for ten hours",
        "cut one way",
        "doubled",
        "items refused",
        "drain over 30 minutes",
        "expiry",
        "hangs",
        "loss",
        "lost for good",
        "maintenance",
        "not there",
        "put back",
        "put back running",
        "reordered",
        "restart",
        "restore",
        "slow",
        "store added",
    }
)
# The rules as they act, each by the names under which the core counts them.
RULES: Final = {
    "gaps on condition": ("gaps_waited", "backfill_request"),
    "siblings": ("sibling", "edited_apart"),
    "deletes by knowledge": (
        "bare_context",
        "hole_closed",
        "purge",
        "reconcile",
        "reconcile_again",
        "refused",
    ),
    "canonical knowledge": ("gaps_filled",),
    "one transaction": ("crash_lost",),
    "merged entries": ("stamp_ahead",),
    "expiry": ("assumed_expired", "expire", "expired_lost", "held_again"),
    "folders": ("came_before_its_folder", "circle", "folder_came_back", "folder_deleted"),
    "last copies": (
        "acknowledged",
        "last_copy_kept",
        "not_acknowledged",
        "replica_added",
        "replica_back_to_leaving",
        "replica_dropped",
        "replica_removed",
    ),
    "conflicts": (
        *sorted(CONFLICTS),
        "conflict",
        "conflict_resolved",
        "design_conflict",
        "folders_in_circle",
    ),
    "list states": tuple(sorted(LIST_STATES)),
    "one item alone": ("set_aside", "set_aside_retried"),
    "identity": ("numbered_anew", "numbering_ended", "went_back"),
    "once over a link": ("handed_on", "receipt_asked", "receipt_overdue", "second_copy"),
    "links that are seen": ("link_seen_down", "link_seen_up"),
    "replays": ("replayed",),
}


class Summary(NamedTuple):
    """The figures of many seeds. `violations` are (seed, what was violated)."""

    seeds: int
    violations: tuple[tuple[int, str], ...]
    converged_ms_mean: int
    converged_ms_max: int
    writes: int
    messages: dict[str, int]
    faults: dict[str, int]
    rules: dict[str, int]
    link_bytes: dict[str, int]
    link_bytes_distinct: dict[str, int]
    link_bytes_lost: dict[str, int]

    def crossings(self) -> float:
        """Crossings of links by content, against one for each change and one more for each that was lost:
        with what carried it, or with all behind the link that had got it."""
        needed_bytes = sum(self.link_bytes_distinct.values()) + sum(self.link_bytes_lost.values())
        return sum(self.link_bytes.values()) / max(1, needed_bytes)

    def never_happened(self) -> list[str]:
        """The faults, message types and rules that no seed met: a campaign that misses one proves little."""
        counts = {**self.messages, **self.faults, **self.rules}
        rules = (name for names in RULES.values() for name in names)
        return sorted(name for name in {*MESSAGES, *FAULTS, *rules} if not counts.get(name))


def run_seeds(seeds: Iterable[int], settings: Settings) -> Iterator[Figures]:
    """Run seeds one after the other; each gives its figures as soon as it ends."""
    for seed in seeds:
        yield scenario_of(seed, settings).run()


def scenario_of(seed: int, settings: Settings, trace: Trace | None = None) -> Scenario:
    """The scenario of a seed, of the kind that the settings are of."""
    if isinstance(settings, LargeSettings):
        return LargeScenario(seed, settings, trace)
    return Scenario(seed, settings, trace)


def trace_of(seed: int, settings: Settings) -> list[str]:
    """All that happens in a seed, a line each: the same for the same seed and settings."""
    lines: list[str] = []
    scenario_of(seed, settings, lines.append).run()
    return lines


def summarise(figures: Iterable[Figures]) -> Summary:
    """Add the figures of seeds up."""
    seeds, writes, violations, converged = 0, 0, [], []
    totals: tuple[Counter[str], ...] = tuple(Counter() for _ in range(6))
    for figure in figures:
        seeds += 1
        writes += figure.writes
        if figure.violation:
            violations.append((figure.seed, figure.violation))
        else:
            converged.append(figure.converged_ms)
        counts = (
            figure.messages,
            figure.faults,
            figure.rules,
            figure.link_bytes,
            figure.link_bytes_distinct,
            figure.link_bytes_lost,
        )
        for total, count in zip(totals, counts, strict=True):
            total.update(count)
    messages, faults, rules, *of_links = (dict(sorted(total.items())) for total in totals)
    return Summary(
        seeds,
        tuple(violations),
        sum(converged) // max(1, len(converged)),
        max(converged, default=0),
        writes,
        messages,
        faults,
        rules,
        *of_links,
    )
