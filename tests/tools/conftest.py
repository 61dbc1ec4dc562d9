"""The command line as a person uses it, and a server with real mail to use it on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from click.testing import Result

DATA = Path(__file__).parents[1] / "data"


class Pillarbox:
    """Runs `pillarbox` with these words."""

    def run(self, *words: object, input: str | None = None) -> Result:
        from click.testing import CliRunner

        from pillarbox.tools.cli import cli

        result = CliRunner().invoke(cli, [str(word) for word in words], input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def answer(self, *words: object) -> Any:
        """What it prints with --json, when all went well."""
        result = self.run(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refused(self, code: int, *words: object, input: str | None = None) -> str:
        """What it says on stderr when it ends with this code."""
        result = self.run(*words, input=input)
        assert result.exit_code == code, result.output
        return result.stderr


@pytest.fixture(scope="session")
def pillarbox() -> Pillarbox:
    pytest.importorskip("click", reason="click (the extra `cli`) is not installed")
    return Pillarbox()


@pytest.fixture(scope="session")
def server_with_mail(pillarbox: Pillarbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "server"
    assert pillarbox.run("init", path).exit_code == 0
    assert pillarbox.run("import", path, "anna", DATA / "lists.mbox", DATA / "spam").exit_code == 0
    assert pillarbox.run("mailbox", "create", path, "bert").exit_code == 0
    return path


@pytest.fixture
def server(server_with_mail: Path, tmp_path: Path) -> Path:
    """A server of its own: mailbox anna with the mail of tests/data in lists and spam, mailbox bert empty."""
    return shutil.copytree(server_with_mail, tmp_path / "server")


@pytest.fixture
def big_server(pillarbox: Pillarbox, tmp_path: Path) -> Path:
    """A new server of the edition enterprise."""
    assert pillarbox.run("init", tmp_path / "big", "--edition", "enterprise").exit_code == 0
    return tmp_path / "big"


@pytest.fixture
def twins(pillarbox: Pillarbox, big_server: Path) -> Path:
    """A server on which two storage groups have a database Mailbox Store: the first one, and Second Group."""
    pillarbox.answer("group", "create", big_server, "Second Group")
    pillarbox.answer("database", "create", big_server, "Mailbox Store", "--group", "Second Group")
    return big_server


@pytest.fixture
def damage() -> Callable[[Path], None]:
    """Flips one bit of the content of a server's mailbox store."""

    def flip(server: Path) -> None:
        segment = next((server / "First Storage Group" / "Mailbox Store" / "stream").glob("*.stm"))
        data = bytearray(segment.read_bytes())
        data[20_000] ^= 1
        segment.write_bytes(data)

    return flip
