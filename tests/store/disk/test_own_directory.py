"""A directory is one block's own, and what a process that died has left is removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pillarbox.store.disk import own_directory as module
from pillarbox.store.disk.own_directory import own_directory

_DIES = """
import os, sys
from pathlib import Path
from pillarbox.store.disk.own_directory import own_directory
with own_directory(Path(sys.argv[1]), "work") as directory:
    (directory / "file").write_bytes(b"1")
    os._exit(0)
"""


def test_blocks_at_the_same_time_have_a_directory_each(tmp_path: Path) -> None:
    with own_directory(tmp_path, "work") as first:
        (first / "file").write_bytes(b"1")
        with own_directory(tmp_path, "work") as second:
            assert list(second.iterdir()) == []
        assert (first / "file").read_bytes() == b"1"
        assert not second.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError), own_directory(tmp_path, "work") as directory:
        (directory / "file").write_bytes(b"1")
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_that_died_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other.new").mkdir()
    subprocess.run([sys.executable, "-c", _DIES, tmp_path], check=True)
    assert len(list(tmp_path.glob("work*/file"))) == 1
    with own_directory(tmp_path, "work") as directory:
        assert list(tmp_path.glob("work*")) == [directory]
    assert [path.name for path in tmp_path.iterdir()] == ["other.new"]


def test_a_directory_that_another_takes_for_left_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    mkdtemp = module.tempfile.mkdtemp

    def taken_once(**where: object) -> str:
        made.append(Path(mkdtemp(**where)))  # type: ignore[call-overload]
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    monkeypatch.setattr(module.tempfile, "mkdtemp", taken_once)
    with own_directory(tmp_path, "work") as directory:
        assert directory.is_dir()
    assert len(made) == 2


def test_without_the_place_for_it_the_error_of_the_system_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), own_directory(tmp_path / "missing", "work"):
        pass
