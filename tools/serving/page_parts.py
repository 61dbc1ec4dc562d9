"""Parts of the status page that its sections share: tables, and cells of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from pillarbox.tools.output import local_time

_SPANS: Final = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000))
Cell = tuple[str, str]  # a class, and HTML


def table(title: str, names: Sequence[str], rows: Iterable[Iterable[Cell]]) -> str:
    """A table under a heading, or a word where it would be empty."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td class="{kind}">{html}</td>' for kind, html in row) + "</tr>" for row in rows
    )
    if not body:
        return f"<h2>{escape(title)}</h2><p class=dim>None.</p>"
    return (
        f"<h2>{escape(title)}</h2><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def text(value: str, kind: str = "") -> Cell:
    """A cell of text that may hold anything."""
    return kind, escape(value)


def age(time_ms: int | None, now_ms: int) -> Cell:
    """The age of something, with the time itself where a person points at it."""
    if time_ms is None:
        return "dim", "never"
    return "number", f'<span title="{escape(local_time(time_ms))}">{_ago(now_ms - time_ms)}</span>'


def _ago(age_ms: int) -> str:
    return "just now" if age_ms < 60_000 else f"{span(age_ms)} ago"


def span(span_ms: int) -> str:
    """A length of time in its largest unit."""
    for unit, unit_ms in _SPANS:
        if span_ms >= unit_ms:
            return f"{span_ms // unit_ms} {unit}"
    return f"{max(span_ms, 0) // 1000} s"
