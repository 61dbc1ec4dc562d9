"""Delays of the replicator (DOMAIN.md "Backfill array"; REPLICATION.md, presets)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pillarbox.replication.organisation.topology import PresetName

SECOND_MS: Final = 1000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True)
class Wait:
    """A delay in ms, where a source is in the same site and where all are in others."""

    same_site_ms: int
    other_site_ms: int


@dataclass(frozen=True)
class Preset:
    """All delays, in ms.

    A broadcast is sent `broadcast_quiet_ms` after the last change and at the latest `broadcast_latest_ms`
    after the first; once changes have gone on for `broadcast_burst_ms` without resting that long between
    them, at most every `broadcast_interval_ms`. A status follows the last change after `status_quiet_ms`, the
    first unstated one after `status_latest_ms` at the latest. A round at rest comes every `status_rest_ms`.
    Later retries double up to `retry_ms_max`.
    """

    broadcast_quiet_ms: int
    broadcast_latest_ms: int
    broadcast_burst_ms: int
    broadcast_interval_ms: int
    hierarchy_interval_ms: int
    status_quiet_ms: int
    status_latest_ms: int
    status_rest_ms: int
    first_request: Wait
    first_retry: Wait
    later_retry: Wait
    retry_ms_max: int
    purge_interval_ms: int
    silent_ms_max: int = 180 * DAY_MS


PROMPT: Final = Preset(
    broadcast_quiet_ms=200,
    broadcast_latest_ms=1 * SECOND_MS,
    broadcast_burst_ms=3 * SECOND_MS,
    broadcast_interval_ms=5 * SECOND_MS,
    hierarchy_interval_ms=5 * SECOND_MS,
    status_quiet_ms=5 * MINUTE_MS,
    status_latest_ms=30 * MINUTE_MS,
    status_rest_ms=15 * MINUTE_MS,
    first_request=Wait(1 * MINUTE_MS, 2 * MINUTE_MS),
    first_retry=Wait(2 * MINUTE_MS, 4 * MINUTE_MS),
    later_retry=Wait(4 * MINUTE_MS, 8 * MINUTE_MS),
    retry_ms_max=DAY_MS,
    purge_interval_ms=15 * MINUTE_MS,
)

CLASSIC: Final = Preset(
    broadcast_quiet_ms=15 * MINUTE_MS,
    broadcast_latest_ms=15 * MINUTE_MS,
    broadcast_burst_ms=0,
    broadcast_interval_ms=15 * MINUTE_MS,
    hierarchy_interval_ms=5 * MINUTE_MS,
    status_quiet_ms=5 * MINUTE_MS,
    status_latest_ms=30 * MINUTE_MS,
    status_rest_ms=DAY_MS,
    first_request=Wait(6 * HOUR_MS, 12 * HOUR_MS),
    first_retry=Wait(12 * HOUR_MS, 24 * HOUR_MS),
    later_retry=Wait(24 * HOUR_MS, 48 * HOUR_MS),
    retry_ms_max=48 * HOUR_MS,
    purge_interval_ms=DAY_MS,
)

PRESETS: Final = {PresetName.PROMPT: PROMPT, PresetName.CLASSIC: CLASSIC}
