"""EML trees come in and go out; no name leads outside, and what a path holds is told or refused."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from hostile_names import hostile_names
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.errors import InvalidContent, InvalidName, NotFound
from pillarbox.store.files.eml import EmlWriter, classify, read_eml, read_tree
from pillarbox.store.files.mail_item import MailItem, read_message_file

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests" / "data"
CORPUS = Path(os.environ.get("PILLARBOX_CORPUS", ROOT.parent / "shared" / "corpus"))
FROM = b"From a@example.org Thu Aug 22 12:36:23 2002\n"
RAW = b"Subject: s\n\nbody\n"

steady = settings(deadline=None, max_examples=60)


def put(path: Path, data: bytes = RAW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_tree_gives_its_messages_with_their_folders_in_order(tmp_path: Path) -> None:
    for name in (
        "b.eml",
        "A.EML",
        "notes.txt",
        ".hidden.eml",
        "In/1.eml",
        "In/deep/2.eml",
        ".git/3.eml",
        "Zoo/4.eml",
    ):
        put(tmp_path / name, name.encode())
    found = [(folder, item.raw.decode()) for folder, item in read_tree(tmp_path)]
    assert found == [
        ((), "A.EML"),
        ((), "b.eml"),
        (("In",), "In/1.eml"),
        (("In", "deep"), "In/deep/2.eml"),
        (("Zoo",), "Zoo/4.eml"),
    ]


def test_mbox_files_and_maildirs_in_a_tree_are_folders(tmp_path: Path) -> None:
    put(tmp_path / "lists.mbox", FROM + b"A: 1\n\none\n\n" + FROM + b"A: 2\n\ntwo\n")
    put(tmp_path / "Inbox", FROM + b"A: 3\n\nthree\n")
    put(tmp_path / "Inbox.msf", b"// <!-- <mdb:mork:z")
    put(tmp_path / "Inbox.sbd" / "Kept", FROM + b"A: 4\n\nfour\n")
    put(tmp_path / "Empty.mbox", b"")
    put(tmp_path / "Mail" / "cur" / "1.a:2,S", b"A: 5\n\nfive\n")
    (tmp_path / "Mail" / "new").mkdir()
    found = [(folder, item.raw.split(b"\n")[0]) for folder, item in read_tree(tmp_path)]
    assert found == [
        (("Inbox",), b"A: 3"),
        (("lists",), b"A: 1"),
        (("lists",), b"A: 2"),
        (("Inbox", "Kept"), b"A: 4"),
        (("Mail",), b"A: 5"),
    ]


def test_messages_of_any_name_are_found_and_what_is_no_mail_is_told(tmp_path: Path) -> None:
    put(tmp_path / "msg-1-1:2,", b"Return-path: <a@b>\r\nFrom: a@b\r\n\r\nbody\n")
    put(tmp_path / "bare", b"Date: today\nSubject: s\n\nbody\n")
    others = [
        put(tmp_path / "notes.txt", b"Subject: what to do\n\nFrom: here on\nTo: there\n"),
        put(tmp_path / "settings.yml", b"from: a\nname: b\n"),
        put(tmp_path / "data.bin", b"\0\1\2"),
        put(tmp_path / "empty", b""),
    ]
    passed_over: list[Path] = []
    found = [item.source for _, item in read_tree(tmp_path, passed_over.append)]
    assert found == [str(tmp_path / "bare"), str(tmp_path / "msg-1-1:2,")]
    assert sorted(passed_over) == sorted(others)


def test_a_bad_file_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    put(tmp_path / "1.eml", b"")
    put(tmp_path / "2.eml")
    put(tmp_path / "3.mbox", b"no mail\n")
    found = [(item.raw, bool(item.damage)) for _, item in read_tree(tmp_path)]
    assert found == [(b"", True), (RAW, False), (b"no mail\n", True)]


def test_links_and_pipes_are_left_alone(tmp_path: Path) -> None:
    put(tmp_path / "outside" / "secret.eml", b"secret")
    put(tmp_path / "tree" / "1.eml")
    (tmp_path / "tree" / "2.eml").symlink_to(tmp_path / "outside" / "secret.eml")
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    os.mkfifo(tmp_path / "tree" / "3.eml")
    assert [item.raw for _, item in read_tree(tmp_path / "tree")] == [RAW]


def test_a_file_that_is_too_long_is_cut_and_told(tmp_path: Path) -> None:
    path = put(tmp_path / "1.eml", b"x" * 200_000)
    raw, damage = read_message_file(path, 150_000)
    assert len(raw) == 150_000 and "150000 bytes" in damage
    assert read_message_file(path, 200_000) == (b"x" * 200_000, "")


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.eml", b"", "eml"),
        ("a.mbox", b"x", "mbox"),
        ("a", b"", "mbox"),
        ("a", b"\n\n" + FROM + RAW, "mbox"),
        ("a", RAW, "eml"),
        ("a", b"Return-Path: <>\n", "eml"),
    ],
)
def test_a_file_is_told_by_its_suffix_or_its_beginning(
    name: str, data: bytes, kind: str, tmp_path: Path
) -> None:
    assert classify(put(tmp_path / name, data)) == kind


def test_a_directory_is_told_by_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path / "tree" / "in" / "1.eml")
    put(tmp_path / "boxes" / "a.mbox", FROM + RAW)
    put(tmp_path / "mail" / "new" / "1.a")
    (tmp_path / "mail" / "cur").mkdir()
    kinds = [classify(tmp_path / name) for name in ("tree", "boxes", "mail")]
    assert kinds == ["tree", "tree", "maildir"]


def test_what_holds_no_mail_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "other" / "notes.txt", b"Just notes, no mail")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "empty", tmp_path / "other", tmp_path / "other" / "notes.txt", tmp_path / "pipe"):
        with pytest.raises(InvalidContent):
            classify(path)
    with pytest.raises(NotFound):
        classify(tmp_path / "none")


def test_written_messages_come_back_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = st.lists(hostile_names.filter(bool), max_size=3).map(tuple)

    @steady
    @given(st.lists(st.tuples(folders, st.binary(min_size=1, max_size=20), hostile_names), max_size=6))
    def round_trip(messages: list[tuple[tuple[str, ...], bytes, str]]) -> None:
        path = tmp_path_factory.mktemp("eml") / "out"
        writer = EmlWriter(path)
        for folder, raw, title in messages:
            assert path in writer.add(folder, MailItem(raw), title).parents
        assert [at.name for at in path.parent.iterdir()] == (["out"] if messages else [])
        found = list(read_tree(path)) if messages else []
        assert sorted(item.raw for _, item in found) == sorted(raw for _, raw, _ in messages)
        assert len({folder for folder, _ in found}) == len({folder for folder, _, _ in messages})

    round_trip()


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    paths = [
        EmlWriter(tmp_path).add(("In",), MailItem(RAW, received_ms=1030016183250), "Hello") for _ in range(2)
    ]
    assert [path.name for path in paths] == ["000001 Hello.eml", "000002 Hello.eml"]
    assert paths[0].stat().st_mtime_ns == 1030016183250 * 1_000_000
    assert [classify(path) for path in paths] == ["eml", "eml"] and read_eml(paths[1]).raw == RAW


def test_folders_that_differ_by_case_alone_have_directories_of_their_own(tmp_path: Path) -> None:
    writer = EmlWriter(tmp_path)
    for folder in (("Work",), ("work",), ("a/b",), ("a:b",)):
        writer.add(folder, MailItem(RAW))
    assert sorted(at.name for at in tmp_path.iterdir()) == ["Work", "a_b", "a_b-2", "work-2"]
    with pytest.raises(InvalidName):
        writer.add(("Work", ""), MailItem(RAW))


def test_real_spam_comes_back_the_same(tmp_path: Path) -> None:
    found = [item for _, item in read_tree(DATA / "spam")]
    assert len(found) == 6 and not any(item.damage for item in found)
    writer = EmlWriter(tmp_path)
    for item in found:
        writer.add((), item)
    assert [item.raw for _, item in read_tree(tmp_path)] == [item.raw for item in found]


def test_the_corpus_comes_back_the_same(tmp_path: Path) -> None:
    if not (CORPUS / "torture").is_dir():
        pytest.skip(f"no mail corpus at {CORPUS}; set PILLARBOX_CORPUS")
    with tarfile.open(CORPUS / "spam" / "spam.tar.gz") as archive:
        archive.extractall(tmp_path / "spam", filter="data")
    mail = [*read_tree(CORPUS / "torture"), *read_tree(tmp_path / "spam")]
    assert len(mail) > 1400
    writer = EmlWriter(tmp_path / "out")
    for folder, item in mail:
        writer.add(folder, item)
    assert sorted(item.raw for _, item in read_tree(tmp_path / "out")) == sorted(item.raw for _, item in mail)
