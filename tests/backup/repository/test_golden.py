"""The format does not move: a repository written once is read for ever, and is written the same way again."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from random import Random

import pytest
from blake3 import blake3

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.crypto import Credential, KdfCost, KeyFile, Passphrase, Unencrypted
from pillarbox.backup.repository.lock import Holder, LockContext
from pillarbox.backup.repository.pack import BlobKind, Child, decompress
from pillarbox.backup.repository.repository import Repository
from pillarbox.store.clock import VirtualClock
from pillarbox.store.errors import UnsupportedVersion

GOLDEN = Path(__file__).with_name("golden_repository_1.json")
COST = KdfCost(memory_kib=64, passes=1, lanes=1)
CREDENTIALS: dict[str, Credential] = {
    "passphrase": Passphrase("correct horse"),
    "key file": KeyFile(bytes(range(32))),
    "unencrypted": Unencrypted(),
}
CONTENTS = [b"", b"From: a@example.org\r\n\r\nHello.\r\n", bytes(range(256))]


def write(credential: Credential) -> MemoryBackend:
    """A small repository; nothing is compressed, for that may differ from one zstd to the next."""
    backend, clock, random = MemoryBackend(), VirtualClock(), Random(42)
    context = LockContext(clock, random.randbytes, Holder("host", "boot", 1), lambda pid: True)
    repository = Repository.create(
        backend, credential, clock=clock, entropy=random.randbytes, kdf_cost=COST, context=context
    )
    with repository.writer(level=0, uploads=0) as writer:
        children = [Child(BlobKind.DATA, writer.add(BlobKind.DATA, content).id) for content in CONTENTS]
        inner = writer.add_tree(children, {"name": "inbox", 1: b"\xff"})
        root = writer.add_tree([Child(BlobKind.TREE, inner.id)], None)
        writer.save_snapshot({"group": "first"}, [root.id], origin="elsewhere")
    return backend


def golden(name: str) -> MemoryBackend:
    backend = MemoryBackend()
    for path, content in json.loads(GOLDEN.read_text())[name].items():
        kind, _, file = path.partition("/")
        backend.files[FileKind(kind), file] = base64.b64decode(content)
    return backend


@pytest.mark.parametrize("name", CREDENTIALS)
def test_version_1_is_read(name: str) -> None:
    backend = golden(name)
    repository = Repository.open(backend, CREDENTIALS[name], clock=VirtualClock())
    snapshot = repository.snapshot("latest")
    assert (snapshot.time_ms, snapshot.origin) == (1_000_000_000_000, "elsewhere")
    assert snapshot.manifest == {"group": "first"}
    (child,) = repository.read_tree(snapshot.roots[0]).children
    inbox = repository.read_tree(child.blob_id)
    assert inbox.meta == {"name": "inbox", 1: b"\xff"}
    assert [repository.read(each.blob_id) for each in inbox.children] == CONTENTS
    assert check_repository(repository, read_data=1).is_whole


@pytest.mark.parametrize("name", CREDENTIALS)
def test_version_1_is_written(name: str) -> None:
    files, before = write(CREDENTIALS[name]).files, golden(name).files
    made = {key: data for key, data in files.items() if key[0] is FileKind.MADE}
    assert {key: data for key, data in files.items() if key not in made} == before
    # Marks came later, beside what there was: the format is the same without them.
    assert made == {(FileKind.MADE, name): b"" for kind, name in before if kind is FileKind.SNAPSHOT}


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_repository_of_a_newer_program_is_refused_by_number_and_nothing_is_touched(name: str) -> None:
    backend = golden(name)
    config = backend.files[FileKind.CONFIG, "config"]
    body = config[:4] + b"\2" + config[5:-16] + b"fields of a newer program"
    backend.files[FileKind.CONFIG, "config"] = body + blake3(body).digest(16)
    before = dict(backend.files)
    with pytest.raises(UnsupportedVersion, match="version 2"):
        Repository.open(backend, CREDENTIALS[name], clock=VirtualClock())
    assert backend.files == before


def test_compressed_content_of_version_1() -> None:
    assert decompress(bytes.fromhex("0128b52ffd20644500001061620100dfe4b0"), 100, "x") == b"ab" * 50


if __name__ == "__main__":  # writes the golden file of a new version
    made = {name: write(credential).files for name, credential in CREDENTIALS.items()}
    text = {
        name: {
            f"{kind}/{file}": base64.b64encode(data).decode() for (kind, file), data in sorted(files.items())
        }
        for name, files in made.items()
    }
    GOLDEN.write_text(json.dumps(text, indent=1) + "\n")
