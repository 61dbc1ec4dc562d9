"""The messages that a merge takes (DOMAIN.md "Recovery", mailbox merge). Pure, but for the bytes given."""

from __future__ import annotations

from typing import NamedTuple

from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.mail.parts import attachments
from pillarbox.store.names import name_key

FolderPath = tuple[str, ...]


class MergeFilter(NamedTuple):
    """The conditions on a message; empty ones hold always, and of several texts one must fit.

    `since_ms` and `before_ms` bound the time of receipt (ms UTC, the second excluded). Folders are paths
    below the mailbox's root and stand for those in them too; what is excluded stays out in any case. Text is
    compared without case. Attachments are looked for in messages that are listed as having some.
    """

    since_ms: int | None = None
    before_ms: int | None = None
    folders: tuple[FolderPath, ...] = ()
    folders_excluded: tuple[FolderPath, ...] = ()
    subjects: tuple[str, ...] = ()
    subjects_containing: tuple[str, ...] = ()
    attachments: tuple[str, ...] = ()
    attachments_containing: tuple[str, ...] = ()

    def takes_folder(self, path: FolderPath) -> bool:
        """True when messages of the folder at a path may be taken."""
        if any(_is_in(path, outer) for outer in self.folders_excluded):
            return False
        return not self.folders or any(_is_in(path, outer) for outer in self.folders)

    def takes(self, item: ItemRecord) -> bool:
        """True when a message is taken, as far as its record tells."""
        if self.since_ms is not None and item.received_ms < self.since_ms:
            return False
        if self.before_ms is not None and item.received_ms >= self.before_ms:
            return False
        if self.reads_content and not item.has_attachment:
            return False
        return _fits([item.subject], self.subjects, self.subjects_containing)

    def takes_content(self, raw: bytes) -> bool:
        """True when a message that `takes` took is taken by its bytes, too."""
        names = [each.name for each in attachments(raw)]
        return _fits(names, self.attachments, self.attachments_containing)

    @property
    def reads_content(self) -> bool:
        """True when it is of any use to call `takes_content`."""
        return bool(self.attachments or self.attachments_containing)

    @property
    def chooses_messages(self) -> bool:
        """True when the filter may leave out some messages of a folder that it takes."""
        return bool(
            self.since_ms is not None
            or self.before_ms is not None
            or self.subjects
            or self.subjects_containing
            or self.reads_content
        )


def _is_in(path: FolderPath, outer: FolderPath) -> bool:
    return [name_key(name) for name in path[: len(outer)]] == [name_key(name) for name in outer]


def _fits(texts: list[str], exact: tuple[str, ...], contained: tuple[str, ...]) -> bool:
    if not exact and not contained:
        return True
    wholes = {text.casefold() for text in exact}
    pieces = [text.casefold() for text in contained]
    return any(
        text in wholes or any(piece in text for piece in pieces)
        for text in (each.casefold() for each in texts)
    )
