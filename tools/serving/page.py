"""The status page: one page of HTML for a person, made of the status. It loads nothing, and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from pillarbox.tools.output import local_time, percent_text, size_text
from pillarbox.tools.serving.page_parts import Cell, age, span, table, text
from pillarbox.tools.serving.page_replication import replication_part
from pillarbox.tools.serving.status import DISMOUNTED, LET_GO, MOUNTED

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --bad: #c22; --warn: #b70; --good: #383; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; margin: 2rem auto; max-width: 76rem; }
body { padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
.dim { color: var(--dim); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.good { color: var(--good); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; }
th { font-weight: 600; white-space: nowrap; }
td { border-top: 1px solid var(--line); }
.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
meter { width: 8rem; }
svg { max-width: 100%; height: auto; font: 13px system-ui, "DejaVu Sans", sans-serif; }
"""
_OF_DATABASES: Final = (
    "Storage group", "Database", "State", "Used, of its limit", "On disk", "Disk free", "Wait to write",
    "Size checked", "Maintained",
)  # fmt: skip


def page(status: Mapping[str, Any]) -> str:
    """The page, in UTF-8."""
    name = escape(status["server"])
    complaint = sum(each["state"] not in (MOUNTED, DISMOUNTED, LET_GO) for each in status["databases"])
    head = (
        '<p class="good">All databases are mounted that should be.</p>'
        if not complaint
        else f'<p class="bad">{complaint} of the databases should be mounted and are not.</p>'
    )
    now_ms = status["time_ms"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="60">'
        f"<title>{name} - Pillarbox</title><style>{_STYLE}</style></head><body>"
        f"<h1>{name}</h1><p class=dim>Pillarbox {escape(status['version'])}, edition"
        f" {escape(status['edition'])}, as of {escape(local_time(now_ms))}</p>{head}"
        + table(
            "Databases",
            _OF_DATABASES,
            (_database(each, now_ms) for each in status["databases"]),
        )
        + table(
            "Backups",
            ("Database", "Snapshot", "Capture", "Repository checked", "Verified", "Needs attention"),
            (_backups(each, now_ms) for each in status["databases"]),
        )
        + table(
            "Work",
            ("Work", "Of", "Next", "Last failure"),
            (_work(each, now_ms) for each in status["work"]),
        )
        + (replication_part(status["replication"], now_ms) if status["replication"] else "")
        + "</body></html>\n"
    )


def _database(each: Mapping[str, Any], now_ms: int) -> Iterator[Cell]:
    yield text(each["group"])
    yield "", f"{escape(each['database'])}<br><span class=dim>{escape(each['kind'])}</span>"
    kind = {MOUNTED: "good", DISMOUNTED: "dim", LET_GO: "warn"}.get(each["state"], "bad")
    reason = f"<br>{escape(each['reason'])}" if each["reason"] else ""
    yield kind, f"{escape(each['state'])}{reason}"
    if each["state"] == MOUNTED:
        used, limit, threshold = each["logical_size_bytes"], each["limit_bytes"], each["threshold_bytes"]
        level = "bad" if used > limit else "warn" if used > threshold else ""
        yield (
            f"number {level}",
            f"{size_text(used)} of {size_text(limit)}, {percent_text(used, limit)}<br>"
            f'<meter max="{limit}" high="{threshold}" optimum="0" value="{used}"></meter>',
        )
        yield text(size_text(each["physical_size_bytes"]), "number")
        yield text(size_text(each["free_disk_bytes"]), "number" if each["disk"] == "ample" else "number bad")
        yield text(f"{each['waiting']:,}", "number warn" if each["waiting"] else "number")
        yield age(each["last_size_check_ms"], now_ms)
    else:
        yield text(f"limit {size_text(each['limit_bytes'])}", "number")
        yield from (text("") for _ in range(4))
    yield age(each["last_maintenance_ms"], now_ms)


def _backups(each: Mapping[str, Any], now_ms: int) -> Iterator[Cell]:
    backups = each["backups"]
    yield text(f"{each['group']}/{each['database']}")
    for what in ("snapshot", "capture", "check", "verification"):
        yield age(backups[f"{what}_ms"], now_ms)
    yield text("; ".join(concern["state"] for concern in backups["concerns"]), "warn")


def _work(each: Mapping[str, Any], now_ms: int) -> Iterator[Cell]:
    yield text(each["work"])
    yield text(each["subject"])
    if each["is_running"]:
        yield text("runs now", "good")
    else:
        left_ms = each["next_ms"] - now_ms
        yield text(f"in {span(left_ms)}" if left_ms >= 60_000 else "in a moment", "number")
    yield text(each["failure"], "bad")
