"""The options of a merge, and its report."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from pillarbox.backup.merge.filter import MergeFilter
from pillarbox.backup.merge.source import Damage, FolderPath

# A source of nothing but damage must not fill the memory with its own report.
LISTED_MAX: Final = 10_000


class MergeMode(StrEnum):
    """Where messages go: to the folders they were in, or into a new folder "Recovered Data <date>"."""

    MERGE = "merge"
    COPY = "copy"


class MergeOptions(NamedTuple):
    """The options of a merge. `archive` removes from the source what is proven to be in the target; `dry_run`
    only says what would come.
    """

    mode: MergeMode = MergeMode.MERGE
    filter: MergeFilter = MergeFilter()
    archive: bool = False
    dry_run: bool = False


class FolderMerge(NamedTuple):
    """The merge of one folder of the source; `target` is where its messages go.

    `merged_count` messages of `merged_bytes` were added; `duplicates_count` were there already;
    `filtered_count` were not asked for; `damaged_count` could not be read.
    """

    path: FolderPath
    target: FolderPath = ()
    merged_count: int = 0
    merged_bytes: int = 0
    duplicates_count: int = 0
    filtered_count: int = 0
    damaged_count: int = 0


class MailboxMerge(NamedTuple):
    """The merge of one mailbox, done or tried out; public folders are called `/`.

    The counts are the sums of those of `folders`. `folders_made` are paths in the target. `damaged` lists the
    first 10,000. `removed_count` messages were removed from the source; `unproven_count` were not, since they
    could not be read again in the target. `error` says why the mailbox was given up, or is empty.
    """

    mailbox: str
    merged_count: int = 0
    merged_bytes: int = 0
    duplicates_count: int = 0
    filtered_count: int = 0
    damaged_count: int = 0
    folders: tuple[FolderMerge, ...] = ()
    folders_made: tuple[FolderPath, ...] = ()
    damaged: tuple[Damage, ...] = ()
    removed_count: int = 0
    unproven_count: int = 0
    error: str = ""


class MergeProgress(NamedTuple):
    """The progress of the merge of a mailbox: messages looked at, of about `messages_total`; bytes added."""

    mailbox: str
    folder: FolderPath
    messages_count: int
    messages_total: int
    merged_bytes: int


class Tally:
    """The counts of a mailbox's merge while it goes on, by folder of the source."""

    def __init__(self) -> None:
        self.looked_at = 0
        self.merged_bytes = 0
        self.removed = 0
        self.unproven = 0
        self._folders: dict[FolderPath, FolderMerge] = {}
        self._damaged: list[Damage] = []

    def merged(self, path: FolderPath, size_bytes: int) -> None:
        """A message was added."""
        held = self._of(path)
        self.merged_bytes += size_bytes
        self._folders[path] = held._replace(
            merged_count=held.merged_count + 1, merged_bytes=held.merged_bytes + size_bytes
        )

    def duplicate(self, path: FolderPath) -> None:
        """A message was there already."""
        held = self._of(path)
        self._folders[path] = held._replace(duplicates_count=held.duplicates_count + 1)

    def filtered(self, path: FolderPath, count: int = 1) -> None:
        """Messages were not asked for."""
        held = self._of(path)
        self._folders[path] = held._replace(filtered_count=held.filtered_count + count)

    def damaged(self, damage: Damage) -> None:
        """Something could not be read."""
        held = self._of(damage.folder)
        self._folders[damage.folder] = held._replace(damaged_count=held.damaged_count + 1)
        if len(self._damaged) < LISTED_MAX:
            self._damaged.append(damage)

    def _of(self, path: FolderPath) -> FolderMerge:
        return self._folders.get(path) or FolderMerge(path)

    def merged_in(self, path: FolderPath) -> bool:
        """True when messages of a folder were added."""
        return self._of(path).merged_count > 0

    def report(
        self, name: str, targets: dict[FolderPath, FolderPath], made: tuple[FolderPath, ...]
    ) -> MailboxMerge:
        """All of it; `targets` has every folder and where its messages go, `made` those that are new."""
        folders = tuple(
            self._folders[path]._replace(target=target)
            for path, target in targets.items()
            if path in self._folders
        )
        return MailboxMerge(
            name,
            sum(each.merged_count for each in folders),
            self.merged_bytes,
            sum(each.duplicates_count for each in folders),
            sum(each.filtered_count for each in folders),
            sum(each.damaged_count for each in folders),
            folders,
            made,
            tuple(self._damaged),
            self.removed,
            self.unproven,
        )
