"""The part of the status page that is about replication: folders, what waits, links, and a map of sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from math import cos, pi, sin
from typing import Any, Final

from pillarbox.tools.operations.replicating import HIERARCHY, shown_folder
from pillarbox.tools.output import counted, size_text
from pillarbox.tools.serving.page_parts import Cell, age, span, table, text

_WIDTH: Final = 640
_HEIGHT: Final = 320
_BOX: Final = (150, 54)
_MARGIN: Final = 10
_KINDS: Final = {
    "in sync": "good",
    "not in sync": "warn",
    "not heard of yet": "dim",
    "delete pending": "warn",
}


def replication_part(found: Mapping[str, Any], now_ms: int) -> str:
    """The part as HTML."""
    head = f"<h2>Replication</h2>{_standing(found)}"
    if "folders" not in found:
        return head
    return (
        head
        + _map(found)
        + table(
            "Folders",
            ("Folder", "Here", "Missing here, up to", "Asked", "Next", "Replicas elsewhere"),
            (_folder(each, now_ms) for each in sorted(found["folders"], key=_in_order)),
        )
        + table(
            "Waiting for other sites",
            ("Site", "Changes", "Bundles on their way", ""),
            map(_site, found["sites"]),
        )
        + table(
            "Links",
            ("Server", "Site", "State", "Received", "Sent"),
            map(_link, found["links"]),
        )
        + table(
            "Conflicts",
            ("Folder", "Message", "Subject", "Versions"),
            map(_conflict, found.get("conflicts", ())),
        )
        + table("Refused", ("Reason", "Frames"), map(_refusal, found["refused"].items()))
    )


def _standing(found: Mapping[str, Any]) -> str:
    lines = []
    if found["state"] == "running":
        where = f" as {escape(found['server'])} in {escape(found['site'])}" if "server" in found else ""
        lines.append(("good", f"Runs{where}."))
    else:
        lines.append(("bad", f"{escape(found['state'].capitalize())}: {escape(found['reason'])}"))
    if found.get("content_stopped"):
        lines.append(("warn", "Content is stopped, or held back until the hierarchy is here."))
    if found.get("waits_for"):
        names = ", ".join(found["waits_for"])
        lines.append(("warn", f"Nothing is sent before they have answered: {escape(names)}."))
    if found.get("quarantined"):
        lines.append(("bad", "Two copies of a server numbered changes alike: an operator has to choose one."))
    return "".join(f'<p class="{kind}">{html}</p>' for kind, html in lines)


def _in_order(each: Mapping[str, Any]) -> tuple[bool, str, str]:
    return each["folder"] != HIERARCHY, each["folder"].casefold(), each["folder"]


def _folder(each: Mapping[str, Any], now_ms: int) -> Iterator[Cell]:
    yield text(shown_folder(each["folder"]))
    yield text(each["state"], _KINDS.get(each["state"], ""))
    aside = f", {counted(each['set_aside'], 'item')} set aside" if each["set_aside"] else ""
    yield ("warn" if each["missing"] or aside else "number", f"{each['missing']:,}{aside}")
    yield text(", ".join(each["asked"]))
    due_ms = each["due_ms"]
    yield text("" if due_ms is None else f"in {span(due_ms - now_ms)}", "number")
    yield "", "<br>".join(_peer(peer, now_ms) for peer in each["peers"])


def _peer(each: Mapping[str, Any], now_ms: int) -> str:
    lacks = f", lacks {each['lacks']:,}" if each["lacks"] else ""
    offers = f", has {each['offers']:,} more" if each["offers"] else ""
    heard = f", {age(each['heard_ms'], now_ms)[1]}" if each["heard_ms"] is not None else ""
    state = f'<span class="{_KINDS.get(each["state"], "")}">{escape(each["state"])}</span>'
    return f"{escape(each['server'])}: {state}{lacks}{offers}{heard}"


def _site(each: Mapping[str, Any]) -> Iterator[Cell]:
    yield text(each["site"])
    yield "number", f"{each['waiting']:,}"
    yield "number", f"{each['on_their_way']:,}"
    yield text("nobody there can be reached" if each["is_stalled"] else "", "bad")


def _link(each: Mapping[str, Any]) -> Iterator[Cell]:
    yield text(each["server"])
    yield text(each["site"])
    yield text("up", "good") if each["is_up"] else text("down", "bad")
    yield text(size_text(each["came_bytes"]), "number")
    yield text(size_text(each["went_bytes"]), "number")


def _conflict(each: Mapping[str, Any]) -> Iterator[Cell]:
    yield text(each["folder"])
    yield text(each["message"])
    yield text(each["subject"])
    yield text(f"{each['versions']:,}", "number warn")


def _refusal(each: tuple[str, int]) -> Iterator[Cell]:
    yield text(each[0])
    yield "number warn", f"{each[1]:,}"


# -- the map


def _map(found: Mapping[str, Any]) -> str:
    """The sites in a ring, their servers in them, and the connectors between them."""
    sites = found["map"]
    height = _HEIGHT if len(sites) > 2 else _BOX[1] + 2 * _MARGIN  # two are beside each other
    places = {each["site"]: _place(k, len(sites), height) for k, each in enumerate(sites)}
    lines = "".join(_connector(each, places) for each in found["connectors"])
    up = {each["server"] for each in found["links"] if each["is_up"]} | {found["server"]}
    boxes = "".join(_box(each, places[each["site"]], up, each["site"] == found["site"]) for each in sites)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" aria-label="Map of sites">'
        f"{lines}{boxes}</svg>"
    )


def _place(number: int, count: int, height: int) -> tuple[int, int]:
    if count == 1:
        return _WIDTH // 2, height // 2
    angle = 2 * pi * number / count + pi
    across, down = (_WIDTH - _BOX[0]) / 2 - _MARGIN, (height - _BOX[1]) / 2 - _MARGIN
    return round(_WIDTH / 2 + across * cos(angle)), round(height / 2 + down * sin(angle))


def _connector(each: Mapping[str, Any], places: Mapping[str, tuple[int, int]]) -> str:
    if any(site not in places for site in each["sites"]):
        return ""
    (x1, y1), (x2, y2) = (places[site] for site in each["sites"])
    stroke = "var(--good)" if each["is_up"] else "var(--bad)"
    dashes = "" if each["is_up"] else ' stroke-dasharray="6 6"'
    state = "up" if each["is_up"] else "down"
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{stroke}" stroke-width="2"{dashes}>'
        f"<title>{escape(each['name'])}: {state}</title></line>"
        f'<text x="{(x1 + x2) // 2}" y="{(y1 + y2) // 2 + 4}" text-anchor="middle" fill="currentColor"'
        f' stroke="Canvas" stroke-width="8" paint-order="stroke">'
        f"{escape(each['name'])}, cost {each['cost']}</text>"
    )


def _box(each: Mapping[str, Any], place: tuple[int, int], up: set[str], is_here: bool) -> str:
    (x, y), (width, height) = place, _BOX
    shown = each["servers"][:3]
    more = f" and {len(each['servers']) - 3} more" if len(each["servers"]) > 3 else ""
    names = ", ".join(
        f'<tspan fill="{"currentColor" if name in up else "var(--bad)"}">{escape(name)}</tspan>'
        for name in shown
    )
    return (
        f'<rect x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" rx="8"'
        f' fill="Canvas" stroke="currentColor" stroke-width="{2 if is_here else 1}"/>'
        f'<text x="{x}" y="{y - 6}" text-anchor="middle" fill="currentColor" font-weight="600">'
        f"{escape(each['site'])}</text>"
        f'<text x="{x}" y="{y + 14}" text-anchor="middle" fill="currentColor">{names}{more}</text>'
    )
