"""A message's envelope: what listings, sorting and threading need, read from its header once on delivery.

Nothing here raises, whatever the bytes: a field that cannot be read is empty, and every field is cut to a
bound, so that hostile input costs little (RFC 5322, RFC 2047; DOMAIN.md "Store").
"""

from __future__ import annotations

import binascii
import re
from datetime import date
from email.utils import parsedate_tz
from encodings.aliases import aliases
from itertools import islice
from typing import Final, NamedTuple

from blake3 import blake3

from pillarbox.store.content.header import fields_of, header_end
from pillarbox.store.names import base_subject

TEXT_CHARS_MAX: Final = 998
ADDRESSES_CHARS_MAX: Final = 2000
CONVERSATION_BYTES: Final = 12

# Raw bytes of a field that are looked at: several bytes of encoded words make one character.
_FIELD_BYTES_MAX: Final = 1 << 13
_ID_BYTES_MAX: Final = 1 << 11
# Encoded words of a field that are decoded; what follows is shown as it came.
_WORDS_MAX: Final = 64
# Of a message's parts as many bytes of headers are looked at, and one more for so many of the message;
# each part counts as so many more.
_PARTS_BYTES_AT_LEAST: Final = 1 << 12
_PARTS_BYTES_MAX: Final = 1 << 16
_BYTES_FOR_A_PARTS_BYTE: Final = 16
_PART_HEADER_BYTES_MAX: Final = 2048
_PART_BYTES: Final = 64


class Envelope(NamedTuple):
    """The fields of a message's header, as text for people; absent or unreadable ones are empty.

    `sender` is `Name <address>` or an address; `date_ms` is ms UTC, 0 when there is no readable date;
    `importance` is 0 low, 1 normal, 2 high. `conversation` is equal for messages whose own headers name the
    same first one: by References, without it by In-Reply-To. A chain of In-Reply-To alone is not followed.
    """

    subject: str
    sender: str
    to: str
    cc: str
    date_ms: int
    message_id: str
    in_reply_to: str
    importance: int
    has_attachment: bool
    conversation: bytes


def parse_envelope(message: bytes, header_bytes: int | None = None) -> Envelope:
    """Read a message's envelope. Takes any bytes, raises nothing; of a field given twice the first counts.

    `header_bytes` is where its header ends, looked for when None.
    """
    end = header_end(message) if header_bytes is None else header_bytes
    fields = fields_of(message[:end])
    get = fields.get
    message_id = _message_id(get(b"message-id", b""))
    in_reply_to = _message_id(get(b"in-reply-to", b""))
    subject = _text(get(b"subject", b""), TEXT_CHARS_MAX)
    root = _message_id(get(b"references", b"")) or in_reply_to or message_id
    return Envelope(
        subject,
        _sender(get(b"from") or get(b"sender", b"")),
        _text(get(b"to", b""), ADDRESSES_CHARS_MAX),
        _text(get(b"cc", b""), ADDRESSES_CHARS_MAX),
        _date_ms(get(b"date", b"")),
        message_id,
        in_reply_to,
        _importance(fields),
        _has_attachment(fields, message, end),
        _conversation(root, subject, message),
    )


# --- text -----------------------------------------------------------------------------------------------

# Characters that must not reach a listing: controls, line and paragraph separators, lone surrogates.
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_WORD: Final = re.compile(r"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)\?=")
_NOT_BASE64: Final = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
)
# Only names known beforehand are looked up: Python remembers every unknown one for ever, and some of its
# codecs are no character sets.
_NO_CHARSETS: Final = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs"}
)
# What senders say, and the larger set that they mean by it (WHATWG Encoding).
_MEANT: Final = {
    "latin_1": "cp1252",
    "iso8859_1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
}
_MORE_CHARSETS: Final = {
    "koi8_u": "koi8_u",
    "cp874": "cp874",
    "windows_874": "cp874",
    "iso_8859_8_i": "iso8859_8",
}
_CHARSETS: Final = {
    name: _MEANT.get(codec, codec)
    for name, codec in (aliases | {codec: codec for codec in aliases.values()} | _MORE_CHARSETS).items()
    if codec not in _NO_CHARSETS
}


def _text(raw: bytes, chars_max: int) -> str:
    """An unstructured field as text: decoded, in one line, runs of white space as one space."""
    return _line(decode_words(_decode(raw)), chars_max)


def _line(text: str, chars_max: int) -> str:
    text = " ".join(text.split())[:chars_max]
    return text if text.isprintable() else " ".join(_UNFIT.sub(" ", text).split())


def _decode(raw: bytes) -> str:
    """8-bit text: UTF-8 when it can be, else windows-1252."""
    if len(raw) > _FIELD_BYTES_MAX:
        cut = _FIELD_BYTES_MAX
        while cut > _FIELD_BYTES_MAX - 4 and raw[cut] & 0xC0 == 0x80:
            cut -= 1
        raw = raw[:cut]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def decode_words(text: str) -> str:
    """Text with its first `_WORDS_MAX` encoded words decoded (RFC 2047).

    Characters may be split between adjacent ones.
    """
    if "=?" not in text:
        return text
    pieces: list[str] = []
    codec, data, at = "", b"", 0
    for word in islice(_WORD.finditer(text), _WORDS_MAX):
        gap = text[at : word.start()]
        adjacent = at > 0 and (not gap or gap.isspace())
        name = word[1].partition("*")[0].lower().replace("-", "_")
        previous, codec = codec, _CHARSETS.get(name, "ascii")
        if not (adjacent and codec == previous):
            pieces.append(_decode_charset(previous, data))
            data = b""
        if not adjacent:
            pieces.append(gap)
        data += _word_bytes(codec, word[2], word[3])
        at = word.end()
    pieces.append(_decode_charset(codec, data))
    pieces.append(text[at:])
    return "".join(pieces)


def _word_bytes(codec: str, encoding: str, text: str) -> bytes:
    # 8-bit characters must not be here; where they are, they are of the word's character set.
    raw = text.encode() if text.isascii() or codec == "ascii" else text.encode(codec, "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(raw, header=True)
    digits = raw.translate(None, _NOT_BASE64)
    if len(digits) % 4 == 1:
        digits = digits[:-1]
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def _decode_charset(codec: str, data: bytes) -> str:
    return data.decode(codec, "replace") if codec not in ("", "ascii") else _decode(data)


# --- addresses and ids ----------------------------------------------------------------------------------

_QUOTED_NAME: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"\s*+<([^<>]*+)>', re.DOTALL)
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)
_COMMENT_NAME: Final = re.compile(r"([^\s()<>,]++)\s*+\(([^()]*+)\)")
_SPECIALS: Final = re.compile(r'[()<>\[\]:;@\\,"]')
_PLAIN_ID: Final = re.compile(rb"\s*+(<[!-;=?-~]++>)")
_BRACKETED: Final = re.compile(rb"<([^<>]*+)>")


def _sender(raw: bytes) -> str:
    """The first mailbox of an address field as `Name <address>`, the name quoted where it must be."""
    text = _decode(raw).strip()
    if text[:1] == '"' and (quoted := _QUOTED_NAME.match(text)):
        name, address = quoted[1], quoted[2]
        if "\\" in name:
            name = _QUOTED_PAIR.sub(r"\1", name)
    elif 0 <= (opened := text.find("<")) < (closed := text.find(">", opened)):
        name, address = text[:opened].replace('"', ""), text[opened + 1 : closed]
        if "@" in name and "," in name:
            name, address = "", name.partition(",")[0]
    elif comment := _COMMENT_NAME.match(text):
        name, address = comment[2], comment[1]
    else:
        return _line(decode_words(text), TEXT_CHARS_MAX)
    name = _line(decode_words(name), TEXT_CHARS_MAX).strip('" ')
    address = _line("".join(address.split()), TEXT_CHARS_MAX)
    if not name or not address:
        return address or name
    if _SPECIALS.search(name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name} <{address}>"


def _message_id(raw: bytes) -> str:
    """The first message id of a field, with its angle brackets, or "" (RFC 5322 section 3.6.4)."""
    if plain := _PLAIN_ID.match(raw):
        return plain[1].decode()[:TEXT_CHARS_MAX]
    raw = raw[:_ID_BYTES_MAX]
    if bracketed := _BRACKETED.search(raw):
        words = bracketed[1].split()
        # An id that was folded in its middle is one id still.
        return _line(f"<{_decode(b''.join(words))}>", TEXT_CHARS_MAX) if words else ""
    words = raw.split()
    return _line(f"<{_decode(words[0])}>", TEXT_CHARS_MAX) if len(words) == 1 else ""


def _conversation(root: str, subject: str, message: bytes) -> bytes:
    source = (root or base_subject(subject)).encode() or message[:4096]
    return blake3(source).digest(length=CONVERSATION_BYTES)


# --- date, importance, attachments ----------------------------------------------------------------------

_DATE: Final = re.compile(
    rb"\s*+(?:[A-Za-z]{2,9}+,?\s*+)?(\d{1,2})\s++([A-Za-z]{3})[a-z]*+\s++(\d{2,4})"
    rb"\s++(\d{1,2}):(\d{2})(?::(\d{2}))?+(?:\s*+([+-]?\d{4}|[A-Za-z]{1,5}))?+(?![\d:])"
)
_MONTHS: Final = {
    name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}
# Zone names of RFC 5322 section 4.3; any other says nothing and counts as UTC.
_ZONE_HOURS: Final = dict(
    zip(b"EDT EST CDT CST MDT MST PDT PST".split(), (-4, -5, -5, -6, -6, -7, -7, -8), strict=True)
)
_DATE_BYTES_MAX: Final = 200


def _date_ms(raw: bytes) -> int:
    """A Date field in ms UTC; 0 when it is not one (RFC 5322 sections 3.3 and 4.3)."""
    found = _DATE.match(raw)
    month = _MONTHS.get(found[2].lower()) if found else None
    if not found or not month:
        return _other_date_ms(raw)
    year = int(found[3])
    if len(found[3]) < 4:
        year += 2000 if year < 50 else 1900
    zone = found[7]
    if not zone:
        offset_s = 0
    elif zone[-1:].isdigit():
        offset_s = (int(zone[-4:-2]) * 3600 + int(zone[-2:]) * 60) * (-1 if zone[:1] == b"-" else 1)
    else:
        offset_s = _ZONE_HOURS.get(zone.upper(), 0) * 3600
    return _moment_ms(year, month, int(found[1]), int(found[4]), int(found[5]), int(found[6] or 0), offset_s)


def _other_date_ms(raw: bytes) -> int:
    text = raw[:_DATE_BYTES_MAX].decode("latin-1")
    try:
        parsed = parsedate_tz(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        # The parser of the standard library trips over some texts that are no dates.
        return 0
    if parsed is None:
        return 0
    year, month, day, hour, minute, second = parsed[:6]
    return _moment_ms(year, month, day, hour, minute, second, parsed[9] or 0)


_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def _moment_ms(year: int, month: int, day: int, hour: int, minute: int, second: int, offset_s: int) -> int:
    if not (
        1 <= year <= 9999
        and 1 <= month <= 12
        and 1 <= day <= 31
        and 0 <= hour <= 24
        and 0 <= minute <= 59
        and 0 <= second <= 60
        and -360_000 < offset_s < 360_000
    ):
        return 0
    days = date(year, month, 1).toordinal() + day - 1 - _EPOCH_DAY
    return (days * 86400 + hour * 3600 + minute * 60 + second - offset_s) * 1000


_LEVELS: Final = {
    b"importance": {b"low": 0, b"normal": 1, b"high": 2},
    b"x-priority": {b"1": 2, b"2": 2, b"3": 1, b"4": 0, b"5": 0},
    b"priority": {b"non-urgent": 0, b"normal": 1, b"urgent": 2},
}


def _importance(fields: dict[bytes, bytes]) -> int:
    """The first of Importance, X-Priority and Priority that says something (RFC 2156, and custom)."""
    for name, levels in _LEVELS.items():
        if name in fields:
            words = fields[name][:_DATE_BYTES_MAX].lower().split()
            if words and words[0] in levels:
                return levels[words[0]]
    return 1


def _has_attachment(fields: dict[bytes, bytes], message: bytes, end: int) -> bool:
    """True when some part is meant to be kept apart from the text.

    Parts are only looked for when the header says multipart; then every line that looks like a boundary
    counts, so that nested ones need no parser. Costs one search through the message, and 64 KB of headers of
    parts at most: of a message of less than 1 MB fewer, so that its cost is in keeping with its size.
    """
    kind = fields.get(b"content-type", b"").lstrip()[:10].lower()
    if kind != b"multipart/":
        return _is_attachment(fields)
    delimiter = b"\n--" if b"\n" in message[:end] else b"\r--"
    budget_bytes = min(_PARTS_BYTES_AT_LEAST + len(message) // _BYTES_FOR_A_PARTS_BYTE, _PARTS_BYTES_MAX)
    at = message.find(delimiter, end - 1)
    while at >= 0 and budget_bytes > 0:
        following = message.find(delimiter, at + len(delimiter))
        limit = at + len(delimiter) + _PART_HEADER_BYTES_MAX
        part = message[at + len(delimiter) : limit if following < 0 else min(following, limit)]
        part = part[: header_end(part)]
        if _is_attachment(fields_of(part)):
            return True
        budget_bytes -= len(part) + _PART_BYTES
        at = following
    return False


_SIGNATURES: Final = tuple(
    b"application/" + name for name in (b"pkcs7-signature", b"x-pkcs7-signature", b"pgp-signature")
)


def _is_attachment(fields: dict[bytes, bytes]) -> bool:
    disposition = fields.get(b"content-disposition", b"").strip().lower()
    encoded = fields.get(b"content-transfer-encoding", b"").strip().lower() == b"base64"
    if not disposition and not encoded:
        return False
    kind = fields.get(b"content-type", b"").strip().lower()
    if kind.startswith(_SIGNATURES):
        return False
    if disposition.startswith(b"attachment"):
        return True
    if b"content-id" in fields and kind.startswith(b"image/"):
        return False  # a picture shown inside the text
    return encoded and (b"name=" in kind or b"name*" in kind or b"filename" in disposition)
