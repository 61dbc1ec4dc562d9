"""Connectors with a schedule of their own: outside it they count as down, and their mail waits."""

from __future__ import annotations

from typing import Final

from pillarbox.replication.organisation.topology import Organisation

_NONE: Final[frozenset[str]] = frozenset()


def closed(organisation: Organisation, now_ms: int) -> frozenset[str]:
    """The connectors that their schedules close at `now_ms` (ms UTC)."""
    if not organisation.scheduled:
        return _NONE
    return frozenset(
        connector.name for connector in organisation.scheduled if not connector.schedule.is_open(now_ms)
    )


def next_change_ms(organisation: Organisation, now_ms: int) -> int | None:
    """The time after `now_ms` at which a connector opens or closes, None when none ever does."""
    if not organisation.scheduled:
        return None
    changes = (connector.schedule.next_change_ms(now_ms) for connector in organisation.scheduled)
    return min((change_ms for change_ms in changes if change_ms is not None), default=None)


def is_shut(organisation: Organisation, site: str, neighbour: str, now_ms: int) -> bool:
    """True when schedules close every connector that joins two neighbour sites."""
    if not organisation.scheduled:
        return False
    joining = organisation.joining(site, neighbour)
    return bool(joining) and not any(each.schedule.is_open(now_ms) for each in joining)
