"""Other tools that back the directory up: restic and borg with their defaults, and `cp`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

_PASSPHRASE: Final = "bench"


class BackupTool(Protocol):
    """A program that backs up a directory, here always the same."""

    name: str
    repository: Path

    def initialise(self) -> None:
        """Make the repository."""
        ...

    def back_up(self, label: str) -> None:
        """Take one more backup."""
        ...

    def restore(self, directory: Path) -> None:
        """Bring the newest backup back to a directory that is not there yet."""
        ...


class _Command:
    """A tool that is run as a program, with all it keeps below one directory."""

    def __init__(self, root: Path, source: Path, environment: Mapping[str, str]) -> None:
        self._root = root
        self._source = source
        self._environment = os.environ | dict(environment)

    def _run(self, *words: str, cwd: Path | None = None) -> None:
        subprocess.run(words, check=True, capture_output=True, env=self._environment, cwd=cwd)


class Restic(_Command):
    """restic: encrypted, compressed by its default where its version does."""

    name = "restic"

    def __init__(self, root: Path, source: Path) -> None:
        self.repository = root / "restic"
        super().__init__(
            root,
            source,
            {
                "RESTIC_REPOSITORY": str(self.repository),
                "RESTIC_PASSWORD": _PASSPHRASE,
                "RESTIC_CACHE_DIR": str(root / "restic-cache"),
            },
        )

    def initialise(self) -> None:
        self._run("restic", "init")

    def back_up(self, label: str) -> None:
        self._run("restic", "backup", "--tag", label, str(self._source))

    def restore(self, directory: Path) -> None:
        self._run("restic", "restore", "latest", "--target", str(directory))


class Borg(_Command):
    """borg: encrypted, lz4."""

    name = "borg"

    def __init__(self, root: Path, source: Path) -> None:
        self.repository = root / "borg"
        self._newest = ""
        super().__init__(
            root,
            source,
            {
                "BORG_REPO": str(self.repository),
                "BORG_PASSPHRASE": _PASSPHRASE,
                "BORG_BASE_DIR": str(root / "borg-base"),
            },
        )

    def initialise(self) -> None:
        self._run("borg", "init", "--encryption", "repokey-blake2")

    def back_up(self, label: str) -> None:
        self._run("borg", "create", f"::{label}", str(self._source))
        self._newest = label

    def restore(self, directory: Path) -> None:
        directory.mkdir()
        self._run("borg", "extract", f"::{self._newest}", cwd=directory)


def installed_peers(root: Path, source: Path) -> tuple[list[BackupTool], list[str]]:
    """The tools that are installed, and for each of the others a sentence that says so."""
    found: list[BackupTool] = []
    missing = []
    peers: Sequence[type[Restic] | type[Borg]] = (Restic, Borg)
    for peer in peers:
        if shutil.which(peer.name):
            found.append(peer(root, source))
        else:
            missing.append(f"{peer.name} is not installed: its lines are left out")
    return found, missing


def copy_seconds(source: Path, target: Path, *, flush: bool) -> float:
    """The time that `cp -a` takes; with `flush` until all of it is durable."""
    start = time.perf_counter()
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    if flush:
        subprocess.run(["sync", "-f", str(target)], check=True)
    return time.perf_counter() - start
