"""A segment that is damaged is gone through to its end, in time that no payload decides."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pillarbox.store.disk import frame_scan
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.stream import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Frame,
    FrameKind,
    Stream,
    build_frame,
    parse_frame,
    segment_header,
)

GUID = b"x" * 16


def block(payload: bytes) -> bytes:
    return build_frame(FrameKind.BLOCK, 0, 0, len(payload), b"d" * 24, payload)


def planted_heads(size: int) -> bytes:
    """Heads one behind the other, each of a frame that takes half of what is left."""
    heads = []
    for at in range(0, size, FRAME_HEADER_BYTES):
        claimed = (size - at) // 2
        heads.append(struct.pack("<2sBBIII24sQ", FRAME_MAGIC, 2, 0, 0, claimed, claimed, b"d" * 24, 7))
    return b"".join(heads)


def test_heads_planted_in_a_torn_frame_cost_linear_time_and_hide_nothing_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = 0

    def counting(data: bytes, at: int, where: str) -> Frame:
        nonlocal hashed
        hashed += len(data)
        return parse_frame(data, at, where)

    monkeypatch.setattr(frame_scan, "parse_frame", counting)
    monkeypatch.setattr(frame_scan, "_HASHED_AT_ONCE", 1 << 20)
    torn = bytearray(block(planted_heads(1 << 20)))
    torn[8] ^= 1  # its length, so that it does not lead to the next one
    behind = block(b"whole")
    data = segment_header(1, GUID) + torn + behind
    (tmp_path / "00000001.stm").write_bytes(data)
    found = list(scan_frames(Stream(tmp_path, GUID), 1))
    assert [(each.offset, each.frame and each.frame.payload) for each in found] == [
        (SEGMENT_HEADER_BYTES, None),
        (SEGMENT_HEADER_BYTES + len(torn), b"whole"),
    ]
    assert hashed < 40 * len(data)
