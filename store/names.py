"""Names and subjects as text: which are allowed, how they are compared, sorted, and made into file names."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from blake3 import blake3

from pillarbox.store.arguments import check_kind
from pillarbox.store.errors import InvalidName

NAME_CHARS_MAX: Final = 255
NAME_BYTES_MAX: Final = 200
SUBJECT_CHARS_MAX: Final = 998  # the longest line of a header (RFC 5322)
SORT_KEY_BYTES_MAX: Final = 24

# Control and format characters (which can turn what is shown around), halves of characters, line separators.
_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_UNSAFE: Final = frozenset('<>:"/\\|?*')
_RESERVED = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³])\s*(?:\.|\Z)", re.IGNORECASE)

_BLOB: Final = r"\[[^\[\]]*+\]\s*+"
_LEADERS: Final = re.compile(
    rf"(?:\s*+(?:{_BLOB})*+(?:re|fwd?|aw|wg|sv|vs|antw|rv)\s*+(?:{_BLOB}|\(\d+\)\s*+)?[:\uff1a])++\s*+",
    re.IGNORECASE,
)
_LEADING_BLOB: Final = re.compile(rf"\s*+{_BLOB}(?=\S)")
_FORWARDED: Final = re.compile(r"\[fwd:(.*)\]\s*+", re.IGNORECASE | re.DOTALL)
_TRAILER: Final = "(fwd)"


def check_name(name: str) -> str:
    """`name` itself, when a folder or mailbox that is made may be called so; `.` and `..` are no names.

    Raises InvalidName, InvalidArgument.
    """
    if check_held_name(name) in (".", ".."):
        raise InvalidName(
            f"{name!r} cannot be a name: in paths it means a folder", hint="choose another name"
        )
    return name


def check_held_name(name: str) -> str:
    """`name` itself, when a folder or mailbox can have it: 1 to 255 characters, no `/`, no controls.

    Raises InvalidName, InvalidArgument.
    """
    check_kind(name, "name", str, "a name as str")
    if not name or name != name.strip() or len(name) > NAME_CHARS_MAX:
        raise InvalidName(
            f"{name[:80]!r} cannot be a name",
            hint=f"use 1 to {NAME_CHARS_MAX} characters, without blanks at either end",
        )
    for character in name:
        if character == "/" or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise InvalidName(
                f"{name[:80]!r} cannot be a name: it holds {character!r}", hint="leave that character out"
            )
    return name


NAME_KEY_TEXT_BYTES: Final = 120
"""The bytes of a name key that are of the name itself, however long that is."""


def name_key(name: str) -> bytes:
    """The form names are compared in: NFC and casefolded; a digest when longer than a key should be."""
    check_kind(name, "name", str, "a name as str")
    # A name asked for may hold bytes that are no text: it is then the name of nothing, and no fault.
    folded = folded_name(name).encode(errors="surrogatepass")
    return folded if len(folded) <= 200 else folded[:NAME_KEY_TEXT_BYTES] + blake3(folded).digest(length=16)


def folded_name(name: str) -> str:
    """The text that names are compared by; the folded name of any beginning of it is that beginning."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def folder_name(text: str) -> str:
    """`text` as a name that a folder may have; different texts can give the same one."""
    letters = (
        "_" if letter == "/" or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter
        for letter in text
    )
    name = "".join(letters).strip()[:NAME_CHARS_MAX].strip() or "unnamed"
    return name.replace(".", "_") if name in (".", "..") else name


def safe_name(text: str, limit_bytes: int = NAME_BYTES_MAX) -> str:
    """`text` as one file name that every usual system takes, at most `limit_bytes` of UTF-8.

    No path separators, control or format characters, none of Windows' forbidden characters and device names,
    no dot or blank at either end; never empty. Different texts can give the same name.
    """
    composed = unicodedata.normalize("NFC", text[:1000])
    unsafe = (
        character in _UNSAFE or unicodedata.category(character) in _UNSAFE_CATEGORIES
        for character in composed
    )
    name = "".join("_" if bad else character for character, bad in zip(composed, unsafe, strict=True)).strip(
        " ."
    )
    if _RESERVED.match(name):
        name = f"_{name}"
    return name.encode("utf-8")[:limit_bytes].decode("utf-8", "ignore").rstrip(" .") or "unnamed"


def base_subject(subject: str) -> str:
    """The subject that answers and forwards share: without Re:, Fwd:, (fwd), [list names].

    RFC 5256 section 2.1, and the prefixes of some more languages. Reads the first `SUBJECT_CHARS_MAX`
    characters.
    """
    text = subject[:SUBJECT_CHARS_MAX].strip()
    while True:
        before = text
        while text[-5:].lower() == _TRAILER:
            text = text[:-5].rstrip()
        if leaders := _LEADERS.match(text):
            text = text[leaders.end() :]
        if blob := _LEADING_BLOB.match(text):
            text = text[blob.end() :]
        if forwarded := _FORWARDED.fullmatch(text):
            text = forwarded[1].strip()
        if text == before:
            return text


def subject_sort_key(subject: str) -> bytes:
    """At most 24 bytes that put subjects in the order of a list: by base subject, without case."""
    return _sort_key(base_subject(subject))


def sender_sort_key(sender: str) -> bytes:
    """At most 24 bytes that put senders in the order of a list: by name, else by address, without case."""
    return _sort_key(sender.lstrip("\"' <").partition(" <")[0].rstrip('"'))


def _sort_key(text: str) -> bytes:
    # NUL ends the key in a view's order, so none may be in it.
    folded = text[:SORT_KEY_BYTES_MAX].casefold().replace("\0", "")
    return folded.encode("utf-8", "replace")[:SORT_KEY_BYTES_MAX]
