"""The notice to a folder's contacts and to posters: something of theirs was changed in two places at once.

Each store that notices a conflict makes one notice for each account, and hands it to whoever runs the node.
The server that has the mailbox of that account delivers it; at all others the event is enough. From the
transaction of what it tells until it was told, a notice is kept in the store: a crash between them has it
told twice at most, never not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.header import Header
from hashlib import blake2b
from typing import Final, NamedTuple

from pillarbox.replication.core.effects import Notice, Report
from pillarbox.replication.node.identifiers import Identifiers
from pillarbox.replication.node.kept_values import packed, unpacked
from pillarbox.store.engine import replication_state
from pillarbox.store.engine.replication_state import Kept
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import NotFound
from pillarbox.store.ids import id_text
from pillarbox.store.mail import folders, messages, versions

_HINTS: Final = {
    Notice.CONFLICT: "All versions are kept, in one conflict message. Keep one of them, or all as messages "
    "of their own, with `pillarbox replication resolve`.",
    Notice.DESIGN_CONFLICT: "Look at the folder's settings, and change them again if the wrong one counts.",
    Notice.FOLDERS_IN_CIRCLE: "Move that folder out of Lost and Found, to where it belongs.",
}


class ConflictNotice(NamedTuple):
    """The notice of one conflict to one account. `key` is the same at all stores that tell of it."""

    account: str
    notice: Notice
    folder: str
    subject: str
    message: str
    actors: tuple[str, ...]
    key: str

    def render(self) -> bytes:
        """The notice as a message."""
        place = f"folder {self.folder}"
        title = f"Conflict in {place}" + (f": {self.subject}" if self.subject else "")
        lines = [f"In {place} {self.notice}."]
        if self.message:
            lines += ["", f"Message {self.message}: {self.subject}"]
        if self.actors:
            lines += [f"Changed by {', '.join(self.actors)}"]
        lines += ["", _HINTS[self.notice]]
        head = (
            f"From: replication\r\nTo: {_word(self.account)}\r\n"
            f"Subject: {Header(_one_line(title), 'utf-8', maxlinelen=900).encode()}\r\n"
            f"Message-ID: <{self.key}@pillarbox.invalid>\r\nMIME-Version: 1.0\r\n"
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        )
        return (head + "\r\n".join(map(_one_line, lines)) + "\r\n").encode(errors="replace")


Tell = Callable[[ConflictNotice], None]
"""Takes a notice, and delivers it if it can. Raises nothing."""


def tell_nobody(notice: ConflictNotice) -> None:
    """For a node that nobody gave anything to tell notices by."""


def notices_of(reader: Reader, ids: Identifiers, report: Report) -> Iterator[ConflictNotice]:
    """The notice to each account that a report names, in the transaction of what it tells of."""
    if not report.accounts or report.notice not in _HINTS:
        return
    folder_id = ids.known_id(report.folder)
    folder, subject, message, actors = "", "", "", list[str]()
    if folder_id is not None and folders.is_there(reader, folder_id):
        folder = "/".join(folders.path_of(reader, folder_id))
    message_id = ids.known_id(report.object_id) if report.object_id is not None else None
    if message_id is not None:
        message = id_text(message_id)
        try:
            live = versions.live_versions(reader, messages.get(reader, message_id))
        except NotFound:  # resolved or deleted in the same transaction
            live = []
        subject = live[-1].subject if live else ""
        actors = [version.actor for version in live]
    about = f"{report.notice.name} {report.folder} {report.object_id} {report.numbers.encode().hex()}"
    for account in report.accounts:
        key = blake2b(f"{about} {account}".encode(), digest_size=16).hexdigest()
        yield ConflictNotice(account, report.notice, folder, subject, message, tuple(actors), key)


def keep(txn: WriteTransaction, notice: ConflictNotice) -> None:
    """Keep a notice until it was told."""
    account, kind, folder, subject, message, actors, key = notice
    value = packed(account, kind.name, folder, subject, message, actors)
    replication_state.keep(txn, Kept.UNTOLD, value, guid=bytes.fromhex(key))


def forget(txn: WriteTransaction, notice: ConflictNotice) -> None:
    """Let a notice go that was told."""
    replication_state.keep(txn, Kept.UNTOLD, None, guid=bytes.fromhex(notice.key))


def untold(reader: Reader) -> list[ConflictNotice]:
    """The notices that were kept and not told. Raises Corrupt; UnsupportedVersion for a newer form."""
    return [_unpacked(key, value) for _, key, value in replication_state.all_kept(reader, Kept.UNTOLD)]


def _unpacked(key: bytes, value: bytes) -> ConflictNotice:
    account, notice, folder, subject, message, actors = unpacked(value, "the notice of a conflict")
    return ConflictNotice(account, Notice[notice], folder, subject, message, tuple(actors), key.hex())


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _word(account: str) -> str:
    return Header(_one_line(account), "utf-8").encode()
