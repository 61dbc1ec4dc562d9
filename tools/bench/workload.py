"""Any number of messages from a corpus of real mail, the same for the same seed.

Each message is one of the corpus with a Message-ID of its own before it; some carry a base64 attachment from
a small pool, so that one attachment goes to several people, as it does in an office.
"""

from __future__ import annotations

import base64
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pillarbox.store.errors import NotFound
from pillarbox.store.files.mbox import read_mbox

CORPUS_DEFAULT: Final = Path(__file__).resolve().parents[2] / "tests" / "data"
ATTACHED_SHARE: Final = 0.15
_POOL_COUNT: Final = 120


def read_corpus(directory: Path) -> list[bytes]:
    """Every message of the mbox, eml and tar.gz files below a directory, in the order of their paths.

    Raises NotFound when there is none.
    """
    found: list[bytes] = []
    for path in sorted(directory.rglob("*")):
        if path.name.endswith(".mbox"):
            found += [item.raw for item in read_mbox(path)]
        elif path.name.endswith(".eml"):
            found.append(path.read_bytes())
        elif path.name.endswith(".tar.gz"):
            found += _messages_of_archive(path)
    if not found:
        raise NotFound(f"there is no mail below {directory}", hint="name a folder of mbox or eml files")
    return found


def _messages_of_archive(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield file.read()


def resample(corpus: list[bytes], count: int, seed: int = 1) -> Iterator[bytes]:
    """`count` messages drawn from a corpus, one at a time."""
    rng = random.Random(seed)
    pool = [base64.encodebytes(rng.randbytes(int(rng.lognormvariate(10.8, 1)))) for _ in range(_POOL_COUNT)]
    for number in range(count):
        message = b"Message-ID: <%d.%d@example.org>\n" % (number, rng.getrandbits(40)) + rng.choice(corpus)
        if rng.random() < ATTACHED_SHARE:
            message += (
                b"\n--part\nContent-Type: application/pdf\nContent-Transfer-Encoding: base64\n\n"
                + rng.choice(pool)
                + b"\n--part--\n"
            )
        yield message
