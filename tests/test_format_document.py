"""docs/format.md is true: what it says is compared with the code, and bytes are read by it alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from xxhash import xxh3_64_digest, xxh3_64_intdigest, xxh3_128_digest

from pillarbox.store import errors
from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSET_MAGIC, CNSET_VERSION, INTERVALS_MAX, CNSet
from pillarbox.store.content import base64_runs, blocks
from pillarbox.store.disk import redo, stream
from pillarbox.store.disk.checkpoint import (
    CHECKPOINT_FILE,
    CHECKPOINT_MAGIC,
    CHECKPOINT_VERSION,
    Checkpoint,
    write_checkpoint,
)
from pillarbox.store.disk.env import DATA_FILE, META_BYTES
from pillarbox.store.disk.mailbox_names import NAMES_MAGIC, NAMES_VERSION
from pillarbox.store.disk.records import CHECKSUM_BYTES, RECORD_VERSION
from pillarbox.store.disk.stream import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    SEGMENT_VERSION,
    Codec,
    FrameKind,
    Position,
    build_frame,
    segment_header,
)
from pillarbox.store.disk.tables import (
    ARRIVING,
    DIGEST_BYTES,
    LAYOUT_VERSION,
    DatabaseKind,
    Hidden,
    ItemRecord,
    ObjectKind,
    Table,
    view_sorts,
)
from pillarbox.store.engine.database import LOCK, PROPERTIES, STREAM, Database
from pillarbox.store.events import (
    DETAIL_CHARS_MAX,
    DETAILS_MAX,
    LINE_BYTES_MAX,
    LOG_VERSION,
)
from pillarbox.store.ids import COUNTER_BITS, LOCAL_REPLICA
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.mail.flags import FLAG_BITS
from pillarbox.store.upkeep.daily_maintenance import MAINTAINED_FILE
from pillarbox.store.upkeep.last_check import CHECKED_FILE

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "format.md").read_text()
GUID = bytes(range(16))
Rows = list[list[str]]


def section(title: str) -> str:
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/format.md has no section {title!r}"
    return found[2]


def tables_in(title: str) -> list[Rows]:
    """The tables of a section, without their headings; code marks and links taken off."""
    text = re.sub(r"\[([^\]]*)\]\(#[^)]*\)", r"\1", section(title))
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    lines = [[line for line in block.splitlines() if not line.startswith("|--")] for block in blocks]
    return [
        [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in block[1:]]
        for block in lines
    ]


def read_by(layout: Rows, data: bytes) -> dict[str, Any]:
    """The fields of `data` that have a type, by the first word of their text (and the offset of numbers)."""
    found: dict[str, Any] = {}
    end = 0
    for offset, length, kind, name in layout:
        assert int(offset) == end, f"{name}: at {offset}, where the field before ends at {end}"
        end = end + int(length) if length else len(data)
        value = data[int(offset) : end]
        if not kind:
            assert name == "zero" and not any(value), (offset, value)
        elif kind in ("bytes", "msgpack"):
            found[re.split(r"[ ,:]", name)[0]] = value
        else:
            assert kind == f"u{8 * len(value)}", (name, kind)
            found[re.split(r"[ ,:]", name)[0] + f"@{offset}"] = int.from_bytes(value, "little")
    assert end == len(data)
    return found


def named_numbers(text: str) -> dict[str, int]:
    """What "1 message, 2 folder gone" says."""
    return {name.strip(): int(number) for number, name in re.findall(r"(\d+) ([a-z][a-z ]*)", text)}


def enum_names(kind: Any) -> dict[str, int]:
    return {each.name.lower().replace("_", " "): int(each) for each in kind}


# -- versions and names


def test_every_format_has_the_magic_and_version_that_is_documented() -> None:
    (formats,) = tables_in("Terms and conventions")
    found = {row[0]: (row[2], row[3]) for row in formats}
    assert found == {
        "segment": (SEGMENT_MAGIC.decode(), str(SEGMENT_VERSION)),
        "frame": (FRAME_MAGIC.hex(" ").upper(), "its segment's"),
        "redo record": ("its frame's", "its segment's"),
        "checkpoint": (CHECKPOINT_MAGIC.decode(), str(CHECKPOINT_VERSION)),
        "record": ("none", str(RECORD_VERSION)),
        "index value": ("none", "the table layout's"),
        "table layout": ("LMDB's", str(LAYOUT_VERSION)),
        "CNSET": (CNSET_MAGIC.decode(), str(CNSET_VERSION)),
        "event log": ("first line", str(LOG_VERSION)),
        "mailbox names": (NAMES_MAGIC.decode(), str(NAMES_VERSION)),
    }


def test_errors_have_the_exit_codes_that_are_named() -> None:
    named = re.findall(r"`(\w+)`\s+\((?:exit code )?(\d+)\)", DOCUMENT)
    assert {"UnsupportedVersion", "Corrupt", "RecoveryNeeded", "InvalidContent"} == {
        name for name, _ in named
    }
    assert all(getattr(errors, name).exit_code == int(code) for name, code in named)


def test_a_database_has_the_files_that_are_listed(database: Database) -> None:
    listing = re.search(r"```\n(.*?)```", section("Files of a database"), re.DOTALL)
    assert listing
    listed = {line.split()[0] for line in listing[1].splitlines()[1:]}
    files = {str(path.relative_to(database.path)) for path in database.path.rglob("*") if path.is_file()}
    assert files <= listed
    assert listed - files == {CHECKED_FILE, MAINTAINED_FILE, "died-…", "compact.new/"}
    assert {CHECKPOINT_FILE, LOCK, f"{PROPERTIES}/{DATA_FILE}", f"{STREAM}/00000001.stm"} <= listed


# -- bytes of the stream


def test_a_segment_header_is_read_by_the_document() -> None:
    header = segment_header(7, GUID)
    fields = read_by(tables_in("Stream")[0], header)
    assert fields == {
        "magic": SEGMENT_MAGIC,
        "version@8": SEGMENT_VERSION,
        "number@12": 7,
        "GUID": GUID,
        "XXH3-64@32": xxh3_64_intdigest(header[:32]),
    }
    assert f"**Segment header**, {SEGMENT_HEADER_BYTES} bytes" in DOCUMENT


def test_a_frame_is_read_by_the_document() -> None:
    digest = bytes(range(24))
    frame = build_frame(FrameKind.SKELETON, Codec.ZSTD, 5, 1234, digest, b"payload")
    fields = read_by(tables_in("Stream")[1], frame)
    assert fields == {
        "magic": FRAME_MAGIC,
        "kind@2": FrameKind.SKELETON,
        "codec@3": Codec.ZSTD,
        "number@4": 5,
        "bytes@8": len(b"payload"),
        "bytes@12": 1234,
        "skeleton": digest,
        "XXH3-64@40": xxh3_64_intdigest(b"payload", xxh3_64_intdigest(frame[:40])),
        "payload": b"payload",
    }
    assert f"**Frame**, {FRAME_HEADER_BYTES} bytes" in DOCUMENT


def test_kinds_and_codecs_of_frames_are_those_documented() -> None:
    kind, codec = (row[3] for row in tables_in("Stream")[1][1:3])
    assert named_numbers(kind.replace("redo record", "redo")) == enum_names(FrameKind)
    assert named_numbers(codec) == enum_names(Codec)


def test_a_redo_record_is_read_by_the_document() -> None:
    rows: list[redo.Row] = [(int(Table.ITEM), b"key", b"value" * 1000), (int(Table.BLOCK), b"gone", None)]
    frame = redo.build_redo(rows, 9, 8, 3)
    fields = read_by(tables_in("Redo records")[0], frame[16:40])
    assert fields == {"sequence@0": 9, "sequence@8": 8, "how@16": 3}
    packed = zstandard.ZstdDecompressor().decompress(frame[FRAME_HEADER_BYTES:])
    assert zstandard.frame_content_size(frame[FRAME_HEADER_BYTES:]) == len(packed)
    assert msgpack.unpackb(packed) == [list(row) for row in rows]


def test_a_checkpoint_is_read_by_the_document(tmp_path: Path) -> None:
    checkpoint = Checkpoint(GUID, True, bytes(16), 7, Position(2, 40), bytes(META_BYTES))
    write_checkpoint(tmp_path, checkpoint)
    header, body_fields = tables_in("Checkpoint")
    fields = read_by(header, (tmp_path / CHECKPOINT_FILE).read_bytes())
    body = fields.pop("body")
    assert fields == {
        "magic": CHECKPOINT_MAGIC,
        "version@8": CHECKPOINT_VERSION,
        "bytes@12": len(body),
        "XXH3-128": xxh3_128_digest(body),
    }
    assert msgpack.unpackb(body, use_list=False) == (*checkpoint, LAYOUT_VERSION)
    assert [row[1] for row in body_fields] == [*Checkpoint._fields, "layout"]
    assert body_fields[5][2] == f"{META_BYTES} bytes"


# -- a whole database


def frames_by_the_document(segment: bytes) -> list[dict[str, Any]]:
    """The frames of a segment file, read by nothing but the document's tables."""
    layout = tables_in("Stream")[1]
    found, at = [], SEGMENT_HEADER_BYTES
    while at < len(segment) and any(segment[at : at + FRAME_HEADER_BYTES]):
        stored = int.from_bytes(segment[at + 8 : at + 12], "little")
        found.append(read_by(layout, segment[at : at + FRAME_HEADER_BYTES + stored]))
        at += FRAME_HEADER_BYTES + stored
    return found


def rows_by_the_document(frame: dict[str, Any]) -> list[list[Any]]:
    payload = frame["payload"]
    if frame["codec@3"]:
        payload = zstandard.ZstdDecompressor().decompress(payload)
    rows: list[list[Any]] = msgpack.unpackb(payload)
    return rows


def test_the_stream_of_a_database_is_read_by_the_document_and_gives_its_tables(database: Database) -> None:
    actor = Actor.task("test")
    with database.transaction(actor) as txn:
        inbox = mailboxes.create(txn, "anna").roles["inbox"]
    for number in range(5):
        prepared = messages.prepare(database.files, b"Subject: %d\r\n\r\n" % number + b"text " * 700)
        with database.transaction(actor) as txn:
            messages.append(txn, inbox, prepared)
    tables: dict[tuple[int, bytes], bytes] = {}
    sequence = contents = 0
    for number in database.stream.segments():
        for frame in frames_by_the_document(database.stream.path(number).read_bytes()):
            if frame["kind@2"] != FrameKind.REDO:
                contents += 1
                continue
            header = read_by(tables_in("Redo records")[0], frame["skeleton"])
            assert (header["sequence@0"], header["how@16"]) == (sequence + 1, contents)
            sequence, contents = sequence + 1, 0
            for table, key, value in rows_by_the_document(frame):
                tables.pop((table, key), None)
                if value is not None:
                    tables[table, key] = value
    with database.read(actor) as read:
        primary = [Table(int(row[0])) for row in tables_in("Tables")[0] if row[2] == "primary"]
        stored = {
            (int(table), key): value for table in primary for key, value in read.view.scan(table, b"", None)
        }
    assert tables == stored
    for (table, key), value in stored.items():
        body, checksum = value[:-CHECKSUM_BYTES], value[-CHECKSUM_BYTES:]
        assert checksum == xxh3_64_digest(key + body, table)[:CHECKSUM_BYTES]
        assert body[0] == RECORD_VERSION and isinstance(msgpack.unpackb(body[1:], strict_map_key=False), list)


# -- numbers with names


def test_kinds_in_the_feed_are_those_documented() -> None:
    found = re.search(r"\*\*Feed kinds\*\*: (.*?)\.\n", section("Tables"), re.DOTALL)
    assert found and named_numbers(found[1]) == enum_names(ObjectKind)


def test_views_are_those_documented() -> None:
    found = re.search(r"\*\*View kinds and sort keys\*\*:(.*?)\n- ", section("Tables"), re.DOTALL)
    assert found
    values: list[Any] = [0] * len(ItemRecord._fields)
    for text in ("subject", "sender"):
        values[ItemRecord._fields.index(text)] = ""
    kinds = [kind.decode() for kind, _ in view_sorts(ItemRecord._make(values))]
    assert re.findall(r"`(\w)` by", found[1]) == kinds


def value_of(record: str, field: str) -> str:
    return next(row[5] for row in tables_in(record)[0] if row[1] == field)


def test_kinds_and_states_in_records_are_those_documented() -> None:
    assert named_numbers(value_of("Identity record", "kind")) == enum_names(DatabaseKind)
    states = {
        "connected": mailboxes.CONNECTED,
        "disconnected": mailboxes.DISCONNECTED,
        "arriving": ARRIVING,
    }
    assert named_numbers(value_of("Mailbox record", "state")) == states
    assert named_numbers(value_of("Folder record", "kind")) == {"generic": folders.GENERIC}
    flags = {flag.strip("\\").lower(): bit for flag, bit in FLAG_BITS.items()}
    assert named_numbers(value_of("Item record", "flags")) == flags
    hidden = named_numbers(value_of("Folder record", "hidden"))
    assert hidden == {member.name.lower(): member.value for member in Hidden}


def test_encodings_of_parts_are_those_documented() -> None:
    encodings, _ = tables_in("Content")
    assert [int(row[0]) for row in encodings] == [int(each) for each in blocks.Encoding]
    assert ["base64" in row[1] for row in encodings] == [
        each == blocks.Encoding.BASE64 for each in blocks.Encoding
    ]


def test_the_example_of_a_change_number_set_is_one() -> None:
    found = re.search(r"```\n([0-9a-f …()]+)\n```", section("Change number sets"))
    assert found
    example = bytes.fromhex(found[1].replace("00…00 (16)", "00 " * 16))
    assert example == CNSet.of_range(bytes(16), 1, 300).encode()


MIB = 1 << 20
STATEMENTS = [
    f"{stream.PREALLOCATE_BYTES // MIB} MiB ahead",
    f"target ({stream.SEGMENT_BYTES_DEFAULT // MIB} MiB)",
    f"at most 2{'³⁰' if stream.PAYLOAD_BYTES_MAX == 1 << 30 else '?'}",
    f"first {DIGEST_BYTES} bytes of BLAKE3",
    f"From {redo._COMPRESS_FROM_BYTES} bytes on",
    f"a body and {CHECKSUM_BYTES} bytes",
    f"16 bits of replica number ({LOCAL_REPLICA} is the database itself), {COUNTER_BITS} bits of counter",
    f"at most {blocks.BLOCK_BYTES_MAX // MIB} MiB each",
    f"at least {base64_runs.BASE64_FROM_BYTES} bytes",
    f"at least {blocks.TEXT_FROM_BYTES} bytes",
    f"blocks of at least {blocks._COMPRESS_FROM_BYTES} bytes",
    f"{base64_runs._WIDTH_MIN} to {base64_runs.BASE64_WIDTH_MAX} wide",
    f"more than 2{'²⁰' if INTERVALS_MAX == 1 << 20 else '?'} intervals",
    f"at most {DETAILS_MAX}, text of at most {DETAIL_CHARS_MAX} characters",
    f"A line is at most {LINE_BYTES_MAX >> 10} KiB",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_number_in_the_text_is_that_of_the_code(statement: str) -> None:
    assert statement in re.sub(r"\s+", " ", DOCUMENT)


def test_every_link_inside_the_document_leads_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)", DOCUMENT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", DOCUMENT)) <= anchors
