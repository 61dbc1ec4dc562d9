"""The file of mailbox names: what it says, what an interruption leaves of it, what damage does to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random

import pytest

from pillarbox.store.disk.mailbox_names import MailboxNames
from pillarbox.store.errors import Corrupt, DiskFull, NotFound, UnsupportedVersion

DATABASE = bytes(range(16))
GOLDEN = Path(__file__).with_name("golden_mailbox_names_1")
ANNA, BERT, CARL = b"a" * 16, b"b" * 16, b"c" * 16
KNOWN = {b"anna": ANNA, b"bert": BERT}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mailboxes" / "names"


@pytest.fixture
def names(path: Path) -> MailboxNames:
    made = MailboxNames(path, DATABASE)
    made.replace(KNOWN)
    return made


def test_names_of_version_1_are_read(tmp_path: Path) -> None:
    copy = tmp_path / "names"
    copy.write_bytes(GOLDEN.read_bytes())
    names = MailboxNames(copy, DATABASE)
    assert names.read() == {b"bert": BERT, "grüße".encode(): CARL}
    names.add([(b"anna", ANNA)])
    assert names.read() == {**KNOWN, "grüße".encode(): CARL}


def test_names_are_added_and_removed(names: MailboxNames) -> None:
    names.add([(b"carl", CARL)])
    assert names.read() == {**KNOWN, b"carl": CARL}
    names.remove([(b"anna", ANNA), (b"nobody", CARL)])
    assert names.read() == {b"bert": BERT, b"carl": CARL}
    names.replace(KNOWN)
    assert names.read() == KNOWN


def test_a_name_that_has_gone_to_another_mailbox_is_not_taken_from_it(names: MailboxNames) -> None:
    names.add([(b"anna", CARL)])
    names.remove([(b"anna", ANNA)])
    assert names.read()[b"anna"] == CARL


def test_names_that_were_never_written_are_not_known_and_do_not_become_so_by_one_more(path: Path) -> None:
    names = MailboxNames(path, DATABASE)
    names.add([(b"anna", ANNA)])
    with pytest.raises(NotFound):
        names.read()


def test_forgotten_names_are_not_known(names: MailboxNames) -> None:
    names.forget()
    names.forget()
    with pytest.raises(NotFound):
        names.read()


def test_a_file_that_says_the_same_is_left_alone(names: MailboxNames, path: Path) -> None:
    before = path.stat()
    names.replace(dict(reversed(KNOWN.items())))
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns


def test_an_interrupted_addition_means_nothing(names: MailboxNames, path: Path) -> None:
    end = path.stat().st_size
    names.add([(b"carl", CARL)])
    data = path.read_bytes()
    for cut in range(end, len(data)):
        path.write_bytes(data[:cut])
        assert names.read() == KNOWN


def test_an_addition_on_a_full_disk_leaves_the_file_as_it_was(
    names: MailboxNames, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:9]))
        with pytest.raises(DiskFull):
            names.add([(b"carl", CARL)])
    assert names.read() == KNOWN
    names.add([(b"carl", CARL)])
    assert names.read() == {**KNOWN, b"carl": CARL}


def test_names_whose_flush_fails_are_not_acknowledged(
    names: MailboxNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(DiskFull):
            names.add([(b"carl", CARL)])
    assert names.read() == KNOWN


def test_no_damaged_byte_gives_wrong_names(names: MailboxNames, path: Path) -> None:
    names.add([(b"carl", CARL)])
    data = path.read_bytes()
    rng = Random(1)
    for at in range(len(data)):
        bent = bytearray(data)
        bent[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bent)
        with pytest.raises((Corrupt, UnsupportedVersion)):
            names.read()


def test_a_file_that_has_not_changed_is_not_read_again(
    names: MailboxNames, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names.read() == KNOWN
    other = MailboxNames(path, DATABASE)
    with monkeypatch.context() as patch:
        patch.delattr(Path, "read_bytes")
        assert names.read() == KNOWN
    other.add([(b"carl", CARL)])
    assert names.read() == {**KNOWN, b"carl": CARL}
    other.replace({})
    assert names.read() == {}


def test_names_of_another_database_are_refused(names: MailboxNames, path: Path) -> None:
    with pytest.raises(Corrupt):
        MailboxNames(path, bytes(16)).read()


def test_names_of_a_later_version_are_refused_and_left_alone(names: MailboxNames, path: Path) -> None:
    path.write_bytes(b"PBNAMES 2 whatever\n")
    with pytest.raises(UnsupportedVersion):
        names.read()
    with pytest.raises(UnsupportedVersion):
        names.replace(KNOWN)
    assert path.read_bytes() == b"PBNAMES 2 whatever\n"


if __name__ == "__main__":  # writes the golden file of a new version
    GOLDEN.unlink(missing_ok=True)
    golden = MailboxNames(GOLDEN, DATABASE)
    golden.replace(KNOWN)
    golden.add([("grüße".encode(), CARL)])
    golden.remove([(b"anna", ANNA)])
