"""Flags of messages: IMAP's system flags, and the keywords that are allowed beside them."""

from __future__ import annotations

import re
from typing import Final

SEEN: Final = "\\Seen"
ANSWERED: Final = "\\Answered"
FLAGGED: Final = "\\Flagged"
DELETED: Final = "\\Deleted"
DRAFT: Final = "\\Draft"
FORWARDED: Final = "$Forwarded"

FLAG_BITS: Final = {SEEN: 1, ANSWERED: 2, FLAGGED: 4, DELETED: 8, DRAFT: 16}
"""The bits that stand for system flags in a message's record."""
SEEN_BIT: Final = FLAG_BITS[SEEN]

# What IMAP lets a keyword be (RFC 9051 "atom"), of a length a person would give it; and so in words.
KEYWORD_RULE: Final = '1 to 255 visible ASCII characters, none of ( ) { % * " \\ ]'
_KEYWORD = re.compile(r"[!#$&'+-\[^-z|-~]{1,255}")
_KEYWORDS_MAX: Final = 64
_FLAGS: Final = frozenset(flag.lower() for flag in (SEEN, ANSWERED, FLAGGED, DELETED, DRAFT))


def keywords(words: list[str]) -> list[str]:
    """The words that can be IMAP keywords, each once, at most 64; no flag without its backslash."""
    valid = (word for word in words if _KEYWORD.fullmatch(word) and f"\\{word.lower()}" not in _FLAGS)
    return list(dict.fromkeys(valid))[:_KEYWORDS_MAX]
