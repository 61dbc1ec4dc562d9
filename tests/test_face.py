"""The public face: the names of `pillarbox` are all there, and loading it loads nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pillarbox


def test_every_name_of_the_face_is_there() -> None:
    assert all(getattr(pillarbox, name) is not None for name in pillarbox.__all__)
    assert dir(pillarbox) == sorted(pillarbox.__all__)


def test_the_names_for_static_readers_are_those_at_run_time() -> None:
    assert pillarbox.__file__ is not None
    tree = ast.parse(Path(pillarbox.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported.keys() == set(pillarbox.__all__) - {"__version__"}
    for name, home in imported.items():
        found = getattr(pillarbox, name)
        assert home in (getattr(found, "__name__", ""), f"{getattr(found, '__module__', '')}.{name}")


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'folder'"):
        _ = pillarbox.folder  # type: ignore[attr-defined]


def test_loading_the_face_loads_no_engine() -> None:
    code = "import sys, pillarbox; sys.exit(any(name.startswith('pillarbox.') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
