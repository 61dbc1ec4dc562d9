"""Whatever real mail looks like, it comes out of a database byte for byte as it went in.

What went in is read here by other means than the import's own readers. The whole corpus of tests is named by
the environment variable PILLARBOX_CORPUS: a directory of mbox files (mboxrd), EML files, maildirs and
archives (.tar.gz) of these.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.tables import DatabaseKind, ItemRecord, Table
from pillarbox.store.engine.database import Database
from pillarbox.store.files.importing import ImportReport, import_mail
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
GUID = b"round-trip-store"
DATA = Path(__file__).resolve().parents[2] / "data"
CORPUS = os.environ.get("PILLARBOX_CORPUS")

_SEPARATOR = re.compile(rb"^From .*\n", re.MULTILINE)
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)


def messages_in(file: Path) -> list[bytes]:
    """The messages of an mboxrd file, or the one that is the file.

    In an mbox they stand between "From " lines, quoted, each with an empty line behind it.
    """
    data = file.read_bytes()
    if not (file.suffix == ".mbox" or (file.suffix != ".eml" and data.startswith(b"From "))):
        return [data]
    _, *texts = _SEPARATOR.split(data)
    return [_QUOTED.sub(rb"\1", text[:-1] if text.endswith(b"\n\n") else text) for text in texts]


def files_under(path: Path) -> Iterator[Path]:
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if each.is_file() and not each.is_symlink() and not each.name.startswith("."):
            yield each


def unpacked(source: Path, target: Path) -> list[Path]:
    """`source` and what its archives hold."""
    found = [source]
    for archive in sorted(source.rglob("*.tar.gz")):
        out = target / archive.name.removesuffix(".tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(out, filter="data")
        found.append(out)
    return found


class Store:
    """A database with one mailbox that takes what it is given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.database = self._database()
        self.database.create()
        self.database.mount()
        with self.database.transaction(ACTOR) as txn:
            self._mailbox = mailboxes.create(txn, "anna").guid

    def _database(self) -> Database:
        return Database(self._path, GUID, "DB", DatabaseKind.MAILBOX_STORE)

    def reopen(self) -> None:
        self.database.dismount()
        self.database = self._database()
        self.database.mount()

    def import_all(self, sources: list[Path]) -> ImportReport:
        return import_mail(self.database, ACTOR, self._mailbox, sources)

    def contents(self) -> Counter[bytes]:
        """The digest of every message's bytes as they are read, and how often."""
        found: Counter[bytes] = Counter()
        with self.database.read(ACTOR) as read:
            for _, item in read.records(Table.ITEM, b"", None):
                assert isinstance(item, ItemRecord)
                raw = messages.content(read, item)
                assert (digest_of(raw), len(raw)) == (item.digest, item.size)
                found[digest_of(raw)] += 1
        return found


def prove_round_trip(sources: list[Path], path: Path) -> ImportReport:
    """Import all; every message must come out as it went in, before and after a reopening."""
    store = Store(path)
    try:
        report = store.import_all(sources)
        stored = store.contents()
        assert stored.total() == report.messages_count
        prove_all_there(sources, stored, report)
        store.reopen()
        assert store.contents() == stored
        checked = check_database(store.database, ACTOR)
        assert checked.clean, checked.findings[:10]
    finally:
        store.database.dismount()
    return report


def prove_all_there(sources: list[Path], stored: Counter[bytes], report: ImportReport) -> None:
    left_out = {remark.source for remark in (*report.passed_over, *report.unreadable)}
    expected: Counter[bytes] = Counter()
    for source in sources:
        for file in files_under(source):
            if str(file) not in left_out:
                expected.update(map(digest_of, messages_in(file)))
    assert stored == expected
    for remark in report.damaged:
        assert any(stored[digest_of(raw)] for raw in messages_in(Path(remark.source))), remark


def test_the_mail_of_the_tests_comes_back_byte_for_byte(tmp_path: Path) -> None:
    report = prove_round_trip([DATA / "lists.mbox", DATA / "spam"], tmp_path / "database")
    assert report.messages_count == 30
    assert not report.unreadable and not report.passed_over


def test_damaged_mail_is_listed_and_comes_back_byte_for_byte_too(tmp_path: Path) -> None:
    cut = tmp_path / "cut.mbox"
    cut.write_bytes((DATA / "lists.mbox").read_bytes()[:-30])
    maildir = tmp_path / "Mail"
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir(parents=True)
    wrong_size = maildir / "cur" / "1000000000.1.host,S=99999:2,S"
    wrong_size.write_bytes((DATA / "spam" / "00164.eml").read_bytes()[:1000])
    noise = tmp_path / "noise.eml"
    noise.write_bytes(bytes(range(256)) * 40)
    report = prove_round_trip([cut, maildir, noise], tmp_path / "database")
    assert {str(cut), str(wrong_size)} <= {remark.source for remark in report.damaged}
    assert report.messages_count == 26


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS, reason="PILLARBOX_CORPUS does not name a directory of mail")
def test_the_whole_corpus_comes_back_byte_for_byte(tmp_path: Path) -> None:
    assert CORPUS
    report = prove_round_trip(unpacked(Path(CORPUS), tmp_path), tmp_path / "database")
    assert report.messages_count > 0
    print(f"{report.messages_count} messages, {report.size_bytes} bytes, all came back as they were")
    for what in ("damaged", "unreadable", "passed_over"):
        remarks = getattr(report, what)
        print(f"{len(remarks)} {what}:", *(f"  {each.source}: {each.reason}" for each in remarks), sep="\n")
