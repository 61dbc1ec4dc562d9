"""A snapshot as commands print it: as JSON, and in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pillarbox.store.errors import Corrupt
from pillarbox.store.ids import guid_text
from pillarbox.tools.output import counted, local_time, size_text, warn

if TYPE_CHECKING:
    from pillarbox.backup.repository.repository import Snapshot
    from pillarbox.store.upkeep.repair_rebuild import LostMessage


def snapshot_data(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON has it. Raises InvalidContent for one that is not of a storage group."""
    from pillarbox.backup.snapshot import server_guid_of, snapshot_databases

    manifest = snapshot.manifest
    guid = server_guid_of(snapshot)
    return {
        "snapshot": snapshot.id,
        "time_ms": snapshot.time_ms,
        "kind": manifest.get("kind"),
        "server": manifest.get("server"),
        "server_id": guid_text(guid) if guid else None,
        "group": manifest.get("group"),
        "databases": [
            {
                "database": entry["name"],
                "guid": guid_text(entry["guid"]),
                "mailboxes": entry.get("mailboxes_count"),
                "messages": entry.get("messages_count"),
                "stream_bytes": entry.get("stream_bytes"),
                "records_bytes": entry.get("records_bytes"),
            }
            for entry, _ in snapshot_databases(snapshot)
        ],
        "left_out": [str(entry.get("name")) for entry in manifest.get("left_out") or ()],
    }


def snapshot_line(snapshot: Snapshot) -> str:
    """A snapshot in one line."""
    data = snapshot_data(snapshot)
    size_bytes = sum((each["stream_bytes"] or 0) + (each["records_bytes"] or 0) for each in data["databases"])
    messages = sum(each["messages"] or 0 for each in data["databases"])
    without = f", without {', '.join(data['left_out'])}" if data["left_out"] else ""
    return (
        f"{snapshot.id[:12]}  {local_time(snapshot.time_ms)}  {data['kind']:12}  {size_text(size_bytes):>9}"
        f"  {counted(messages, 'message'):>14}  {data['server']}: {data['group']}{without}"
    )


def warn_unreadable(unreadable: Mapping[str, Corrupt]) -> None:
    """Say on stderr which snapshots are damaged or lost, and what that means for a prune."""
    warn(f"pillarbox: {error}" for error in unreadable.values())
    if unreadable:
        warn(["  what they may need is not freed; `pillarbox backup forget` accepts their loss"])


def raise_lost(lost: Sequence[LostMessage]) -> None:
    """Name on stderr the messages that a snapshot holds damaged. Raises Corrupt when there are any."""
    from pillarbox.backup.repository.damage import damaged_file

    warn(f"  damaged, not restored: {each.folder}: {each.subject!r} from {each.sender}" for each in lost)
    if lost:
        raise damaged_file(f"damaged, and not restored: {counted(len(lost), 'message')}; the rest is")


def database_lines(snapshot: Snapshot) -> Iterator[str]:
    """Each database of a snapshot in one line."""
    for each in snapshot_data(snapshot)["databases"]:
        mailboxes, messages = each["mailboxes"] or 0, each["messages"] or 0
        size_bytes = (each["stream_bytes"] or 0) + (each["records_bytes"] or 0)
        what = f"{counted(mailboxes, 'mailbox')}, {counted(messages, 'message')}"
        yield f"  {each['database']}: {what}, {size_text(size_bytes)}"
