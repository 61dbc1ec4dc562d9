"""Reading of the repository's sealed files, which are called by the hash of their bytes."""

from __future__ import annotations

from blake3 import blake3

from pillarbox.backup.repository.backend import Backend, FileKind
from pillarbox.backup.repository.crypto import SEALED_FILE_BYTES_MAX, Sealer
from pillarbox.backup.repository.damage import damaged_file


def read_sealed_file(backend: Backend, sealer: Sealer, kind: FileKind, name: str, letter: bytes) -> bytes:
    """The opened body of a file whose seal has that letter. Raises: Corrupt, UnsupportedVersion, NotFound."""
    file = f"{kind}/{name}"
    if backend.size(kind, name) > SEALED_FILE_BYTES_MAX:
        raise damaged_file(f"{file} is larger than any file of its kind", file=file)
    data = backend.get(kind, name)
    if blake3(data).hexdigest() != name:
        raise damaged_file(f"{file} is not the file of that name", file=file)
    return sealer.open(letter, data, file)
