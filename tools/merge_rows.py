"""The outcome of a merge of recovered mail, as commands show it and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pillarbox.store.errors import Corrupt, Refused
from pillarbox.store.ids import id_text
from pillarbox.tools.output import Step, counted, size_text, warn
from pillarbox.tools.recovery_sources import is_public

if TYPE_CHECKING:
    from pillarbox.backup.merge.filter import FolderPath
    from pillarbox.backup.merge.report import MailboxMerge, MergeProgress


class MergeRow(NamedTuple):
    """The outcome for a mailbox; `target` is a mailbox or directory, "" where there was none."""

    report: MailboxMerge
    target: str


def merge_step(step: Step) -> Callable[[MergeProgress], None]:
    """Shows how far a merge is."""

    def told(each: MergeProgress) -> None:
        step(each.messages_count, each.messages_total, _place(each.mailbox, each.folder))

    return told


def merge_data(done: MergeRow) -> dict[str, Any]:
    """One mailbox's merge as JSON."""
    report = done.report
    return {
        "mailbox": report.mailbox,
        "target": done.target or None,
        "merged": report.merged_count,
        "merged_bytes": report.merged_bytes,
        "duplicates": report.duplicates_count,
        "filtered": report.filtered_count,
        "folders": [
            {
                "folder": _path(each.path),
                "target": _path(each.target),
                "merged": each.merged_count,
                "merged_bytes": each.merged_bytes,
                "duplicates": each.duplicates_count,
                "filtered": each.filtered_count,
                "damaged": each.damaged_count,
            }
            for each in report.folders
        ],
        "folders_made": [_path(each) for each in report.folders_made],
        "damaged": [
            {
                "folder": _path(each.folder),
                "id": id_text(each.message_id) if each.message_id else None,
                "reason": each.reason,
            }
            for each in report.damaged
        ],
        "removed": report.removed_count,
        "unproven": report.unproven_count,
        "error": report.error or None,
    }


def _path(path: FolderPath) -> str:
    return "/".join(path)


def _place(mailbox: str, path: FolderPath) -> str:
    return "/".join((mailbox.rstrip("/"), *path))


def merge_lines(reports: Sequence[MergeRow], dry_run: bool) -> Iterator[str]:
    """The merge, done or tried out, in lines."""
    did, made = ("would be merged", "would be made") if dry_run else ("merged", "made")
    for each, target in reports:
        if each.error:
            yield f"{each.mailbox}: not merged: {each.error}"
            continue
        said = [
            f"{counted(each.merged_count, 'message')} ({size_text(each.merged_bytes)}) {did} into {target}"
        ]
        said.append(f"{each.duplicates_count:,} were there already")
        if each.filtered_count:
            said.append(f"{each.filtered_count:,} left out")
        if each.removed_count or each.unproven_count:
            said.append(f"{each.removed_count:,} removed from the source, {each.unproven_count:,} not proven")
        yield f"{each.mailbox}: {', '.join(said)}."
        for path in each.folders_made:
            yield f"  folder {_path(path)} {made}"
        for one in each.folders:
            if one.merged_count:
                yield f"  {one.merged_count:>8,}  {size_text(one.merged_bytes):>9}  {_path(one.target)}"


def raise_unmerged(reports: Sequence[MailboxMerge]) -> None:
    """Tell of damage. Raises Refused when something could not be merged at all, Corrupt for damage."""
    for each in reports:
        warn(
            f"  damaged, not merged: {_place(each.mailbox, one.folder)}: {one.reason}" for one in each.damaged
        )
    given_up = [each.mailbox for each in reports if each.error]
    if len(given_up) == 1 and is_public(given_up[0]):
        raise Refused("the public folders were not merged")
    if given_up:
        raise Refused(f"not merged: {counted(len(given_up), 'mailbox')}")
    damaged = sum(each.damaged_count for each in reports)
    if damaged:
        raise Corrupt(f"damaged, and not merged: {counted(damaged, 'message')}; the rest is")
