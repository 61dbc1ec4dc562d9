"""The wheel and the source distribution hold the whole program, and work in an environment of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

IMPORT_ALL = """
import pkgutil, pillarbox
print(pillarbox.__version__, pillarbox.Server.__name__, pillarbox.Database.__name__)
print(pillarbox.folders.__name__)
names = [each.name for each in pkgutil.walk_packages(pillarbox.__path__, "pillarbox.")]
print(len(names))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(each) for each in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    # A build writes beside its sources, where another one may be under way.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pillarbox", "store", "backup", "tools"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--quiet", "--outdir", out, source, cwd=out)
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


def sources() -> set[str]:
    return {
        f"pillarbox/{path.relative_to(ROOT).as_posix()}"
        for package in ("store", "backup", "tools")
        for path in (ROOT / package).rglob("*.py")
    }


@pytest.mark.slow
def test_both_hold_every_module(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        packed = set(wheel.namelist())
    assert sources() | {"pillarbox/__init__.py", "pillarbox/py.typed"} <= packed
    with tarfile.open(distributions["sdist"]) as sdist:
        unpacked = {name.partition("/")[2] for name in sdist.getnames()}
    assert sources() <= unpacked


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_fresh_environment_imports_it(kind: str, distributions: dict[str, Path], tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{distributions[kind]}[cli]", cwd=tmp_path)
    said = run(python, "-c", IMPORT_ALL, cwd=tmp_path).split()
    assert said[0] == "0.1.0" and {"Server", "Database", "pillarbox.store.mail.folders"} <= set(said)
    assert int(said[-1]) >= len(sources()) - 1
    server = tmp_path / "server"
    pillarbox = tmp_path / "env" / "bin" / "pillarbox"
    run(pillarbox, "init", server, cwd=tmp_path)
    run(pillarbox, "mailbox", "create", server, "anna", cwd=tmp_path)
    assert "anna" in run(pillarbox, "status", server, cwd=tmp_path)
