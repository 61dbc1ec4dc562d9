"""`python -m pillarbox.tools.bench.hostile`: what hostile mail costs to prepare, beside ordinary mail.

The target is 3 times the ordinary mail of the same size and kind, text or attachment (docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import base64
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.store.content.blocks import Dictionaries, prepare_content
from pillarbox.store.content.envelope import parse_envelope
from pillarbox.store.content.header import header_end
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.bench.report import at_least_one
from pillarbox.tools.bench.workload import CORPUS_DEFAULT, read_corpus

FACTOR_MAX: Final = 3.0
TEXT: Final = "text"
ATTACHMENT: Final = "attachment"
_ROUNDS: Final = 5
_SIZES_KB: Final = (512, 2048, 8192)

_HEAD: Final = b"From: anna@example.com\nSubject: hello\nMessage-ID: <1@example.com>\n"
_MULTIPART: Final = _HEAD + b"Content-Type: multipart/mixed; boundary=b\n\n--b\n"
_ENCODED: Final = b"Content-Transfer-Encoding: base64\n\n"
_WORDS: Final = b"=?utf-8?q?a?= =?latin1?b?YQ==?= "
_NAMES: Final = (b"Subject", b"From", b"To", b"Cc", b"Date", b"Message-ID", b"In-Reply-To", b"References")


class Hostile(NamedTuple):
    """One kind of hostile message, of any size in bytes, and the ordinary mail that it is held against."""

    name: str
    kind: str
    make: Callable[[int], bytes]


def _fill(unit: bytes, size: int) -> bytes:
    return (unit * (size // len(unit) + 1))[:size]


def _lines(data: bytes, width: int = 76, line_end: bytes = b"\n") -> bytes:
    flat = base64.b64encode(data)
    return line_end.join(flat[at : at + width] for at in range(0, len(flat), width))


def _noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def _header(unit: bytes, before: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: before + _fill(unit, size) + b"\n\nbody\n"


def _body(unit: bytes, head: bytes = _HEAD + b"\n") -> Callable[[int], bytes]:
    return lambda size: head + _fill(unit, size)


def _every_field(unit: bytes) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        value = _fill(unit, min(9000, size // len(_NAMES) - 20))
        fields = b"".join(name + b": " + value + b"\n" for name in _NAMES) + b"\n"
        return fields + _fill(b"text ", size - len(fields))

    return make


def _numbered(unit: bytes) -> Callable[[int], bytes]:
    """Parts of nested multiparts, each with a boundary of its own."""

    def make(size: int) -> bytes:
        count = size // len(unit % (0, 0)) + 1
        return _MULTIPART + b"".join(unit % (number, number + 1) for number in range(count))[:size]

    return make


def _attachments(size_bytes: int, text: bytes = b"") -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        part = len(_lines(_noise(size_bytes))) + len(text)
        parts = (
            _ENCODED + _lines(_noise(size_bytes, seed)) + b"\n--b\n" + text for seed in range(size // part)
        )
        return _MULTIPART + b"".join(parts)

    return make


def _one_attachment(width: int, line_end: bytes = b"\n") -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        data = _noise(size * width // (width + len(line_end)) * 3 // 4)
        return _MULTIPART + _ENCODED + _lines(data, width, line_end) + b"\n--b--\n"

    return make


def _all_at_once(size: int) -> bytes:
    words = _fill(_WORDS, min(1600, size // 16))
    fields = b"".join(name + b": " + words + b"\n" for name in _NAMES) + _fill(b"to:\n", min(1920, size // 4))
    part = b"\n--b\nContent-Disposition: inline\nContent-Type: a/b; name=x\n" + _ENCODED + b"\n\n--"
    return fields + b"\nContent-Type: multipart/mixed\n\n" + _fill(part, size - len(fields))


HOSTILE: Final = (
    Hostile("fields of no body", TEXT, _header(b"to:\n")),
    Hostile("lines that are no fields", TEXT, _header(b"x\n")),
    Hostile("fields ended by CR", TEXT, _header(b"to:\r")),
    Hostile("lines ended by CR CR LF", TEXT, _header(b"a\r\r\n")),
    Hostile("a folded field", TEXT, _header(b"\n a", b"Subject: x")),
    Hostile("a folded field, CRLF", TEXT, _header(b"\r\n a", b"Subject: x")),
    Hostile("one long line", TEXT, _header(b"a", b"Subject: ")),
    Hostile("message ids", TEXT, _header(b"<a.b@c.example>\n ", b"References: ")),
    Hostile("addresses", TEXT, _header(b'"a" <b@c>,\n ', b"To: ")),
    Hostile("encoded words", TEXT, _every_field(_WORDS)),
    Hostile("brackets", TEXT, _every_field(b"<")),
    Hostile("quotes", TEXT, _every_field(b'"\\')),
    Hostile("control characters", TEXT, _every_field(b"\x01a")),
    Hostile("prefixes of subjects", TEXT, _every_field(b"Re: [a] ")),
    Hostile("empty lines", TEXT, _body(b"\n")),
    Hostile("empty lines, CRLF", TEXT, _body(b"\r\n")),
    Hostile("carriage returns", TEXT, _body(b"\r")),
    Hostile("names of the encoding", TEXT, _body(b"base64")),
    Hostile("names of the encoding, LF CR", TEXT, _body(b"BASE64\n\r")),
    Hostile("names far from a blank line", TEXT, _body(b"BASE64" + b"\r" * 2000)),
    Hostile("names with nothing to decode", TEXT, _body(b"base64" + b"\n" * 14 + b"--")),
    Hostile("names before empty lines", TEXT, _body(b"base64\n\n" + b"\n\r" * 3000 + b"\n--")),
    Hostile("tiny parts", TEXT, _body(b"\n--b\n", _MULTIPART)),
    Hostile("headers of parts", TEXT, _body(b"\n--b\n" + b"Content-Type: a\n" * 120, _MULTIPART)),
    Hostile("nested parts", TEXT, _numbered(b"--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n")),
    Hostile(
        "boundaries that begin alike", TEXT, _numbered(b"--b%.70d\nContent-Type: a; boundary=b%.71d\n\n")
    ),
    Hostile("messages in messages", TEXT, _body(b"Content-Type: message/rfc822\n\n")),
    Hostile("two letters at random", TEXT, lambda size: _HEAD + b"\n" + _random_of(b"ab", size)),
    Hostile("four letters at random", TEXT, lambda size: _HEAD + b"\n" + _random_of(b"acgt", size)),
    Hostile("all of it at once", TEXT, _all_at_once),
    Hostile("small attachments", ATTACHMENT, _attachments(3150)),
    Hostile("small attachments with text", ATTACHMENT, _attachments(3150, _noise(1060).hex().encode())),
    Hostile("lines of four letters", ATTACHMENT, _one_attachment(4)),
    Hostile("lines of one letter", ATTACHMENT, _one_attachment(1)),
    Hostile("lines of one letter, CRLF", ATTACHMENT, _one_attachment(1, b"\r\n")),
    Hostile("an attachment that is none", ATTACHMENT, lambda size: _one_attachment(76)(size)[:-9] + b"*"),
)


def _random_of(letters: bytes, size: int) -> bytes:
    return bytes(random.Random(size).choices(letters, k=size))


def ordinary(kind: str, corpus: Sequence[bytes], size: int) -> bytes:
    """A message of ordinary mail, with CRLF as it comes from the network."""
    if kind == ATTACHMENT:
        return _one_attachment(76)(size).replace(b"\n", b"\r\n")[:size]
    return _fill(_HEAD + b"\n" + b"\n".join(corpus[:2000]), size).replace(b"\n", b"\r\n")[:size]


def prepare(raw: bytes, dictionaries: Dictionaries) -> None:
    """Prepare a message as a delivery does before its transaction, for a database that has none of it."""
    header_bytes = header_end(raw)
    prepare_content(raw, dictionaries, lambda digest, is_message: False, header_bytes)
    parse_envelope(raw, header_bytes)


def _cost_s(raw: bytes, dictionaries: Dictionaries) -> float:
    costs = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        prepare(raw, dictionaries)
        costs.append(time.process_time() - began)
    return min(costs)


def run(arguments: Sequence[str]) -> int:
    """Measure and print. Returns the exit code: 0, whether the target is met or not; 1 on an error."""
    parser = argparse.ArgumentParser(prog="python -m pillarbox.tools.bench.hostile", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=at_least_one, help="sizes in KB (512, 2048, 8192)")
    parser.add_argument("--corpus", type=Path, default=CORPUS_DEFAULT, help="folder of mbox, eml, tar.gz")
    options = parser.parse_args(arguments)
    try:
        corpus = read_corpus(options.corpus)
    except PillarboxError as error:
        print(f"hostile: {error}", file=sys.stderr)
        return 1
    dictionaries = Dictionaries()
    for size_kb in options.sizes or _SIZES_KB:
        size = size_kb << 10
        base = {kind: _cost_s(ordinary(kind, corpus, size), dictionaries) for kind in (TEXT, ATTACHMENT)}
        print(f"{size_kb} KB, ordinary: " + ", ".join(f"{base[kind] * 1000:.2f} ms {kind}" for kind in base))
        for hostile in HOSTILE:
            # Beside each other: a machine's speed changes within a run.
            ordinary_s = _cost_s(ordinary(hostile.kind, corpus, size), dictionaries)
            cost_s = _cost_s(hostile.make(size), dictionaries)
            above = "" if cost_s <= FACTOR_MAX * ordinary_s else "  above the target"
            print(f"  {hostile.name:32}{cost_s * 1000:9.2f} ms{cost_s / ordinary_s:7.2f}{above}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
