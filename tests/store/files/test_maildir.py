"""Maildirs come in and go out with their folders, flags and times; links and strange names lead nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.errors import InvalidName, NotFound
from pillarbox.store.files.mail_item import MailItem
from pillarbox.store.files.maildir import MaildirWriter, is_maildir, read_maildir
from pillarbox.store.files.mbox import read_mbox

LISTS = Path(__file__).resolve().parents[2] / "data" / "lists.mbox"
RAW = b"Subject: s\n\nbody\n"

steady = settings(deadline=None, max_examples=40)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    [".", "..", "../../up", "a.b", "a/b", "\0", "cur", "&", "&-", "Entwürfe", "\U0001d4b3", "x" * 300]
)
flag_names = st.sampled_from(
    ["\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "$Forwarded", "work", "$Junk"]
)


def make_maildir(path: Path, files: dict[str, bytes]) -> Path:
    for part in ("cur", "new", "tmp"):
        (path / part).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def items(path: Path) -> list[MailItem]:
    return [item for _, item in read_maildir(path)]


def test_flags_are_the_letters_in_a_files_name(tmp_path: Path) -> None:
    path = make_maildir(
        tmp_path,
        {
            "cur/1.a.host:2,DFPRST": RAW,
            "cur/2.b.host:2,Sab": RAW,
            "cur/3.c.host;2,S": RAW,
            "cur/4.d.host!2,z": RAW,
            "new/5.e.host": RAW,
            "dovecot-keywords": b"0 $Work\n1 later\n99 none\nx y\n2 bad(word\n",
        },
    )
    assert [item.flags for item in items(path)] == [
        ("\\Draft", "\\Flagged", "$Forwarded", "\\Answered", "\\Seen", "\\Deleted"),
        ("\\Seen", "$Work", "later"),
        ("\\Seen",),
        (),
        (),
    ]


def test_the_time_of_receipt_is_in_the_files_name_or_the_files_own(tmp_path: Path) -> None:
    path = make_maildir(
        tmp_path, {"cur/1030016183.M250000P7.host:2,": RAW, "cur/1030016184.7_1.host": RAW, "cur/x": RAW}
    )
    os.utime(path / "cur" / "x", (1030016185, 1030016185))
    assert [item.received_ms for item in items(path)] == [1030016183250, 1030016184000, 1030016185000]


def test_folders_are_those_of_maildir_plus_plus_and_plain_directories(tmp_path: Path) -> None:
    for folder in ("", ".Sent", ".Work.2002", ".Entw&APw-rfe", ".R&-D", ".bad&!!-name", "Plain/Inner"):
        make_maildir(tmp_path / folder, {"cur/1.a:2,": folder.encode()})
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    assert {(folder, item.raw) for folder, item in read_maildir(tmp_path)} == {
        ((), b""),
        (("Sent",), b".Sent"),
        (("Work", "2002"), b".Work.2002"),
        (("Entwürfe",), b".Entw&APw-rfe"),
        (("R&D",), b".R&-D"),
        (("bad&!!-name",), b".bad&!!-name"),
        (("Plain", "Inner"), b"Plain/Inner"),
    }


def test_the_order_does_not_depend_on_flags_and_place(tmp_path: Path) -> None:
    make_maildir(tmp_path, {"new/3.a": b"3", "cur/1.a:2,S": b"1", "cur/2.a:2,": b"2"})
    assert [item.raw for item in items(tmp_path)] == [b"1", b"2", b"3"]
    (tmp_path / "new" / "3.a").rename(tmp_path / "cur" / "3.a:2,FS")
    (tmp_path / "cur" / "1.a:2,S").rename(tmp_path / "cur" / "1.a:2,RS")
    assert [item.raw for item in items(tmp_path)] == [b"1", b"2", b"3"]


def test_a_message_whose_flags_change_while_reading_is_found_again(tmp_path: Path) -> None:
    make_maildir(tmp_path, {"cur/1.a:2,": b"1", "new/2.a": b"2", "new/3.a": b"3"})
    reading = read_maildir(tmp_path)
    next(reading)
    (tmp_path / "new" / "2.a").rename(tmp_path / "cur" / "2.a:2,S")
    (tmp_path / "new" / "3.a").unlink()
    assert [(item.raw, item.flags) for _, item in reading] == [(b"2", ("\\Seen",))]


def test_a_damaged_message_is_given_as_it_is_and_told(tmp_path: Path) -> None:
    make_maildir(tmp_path, {"cur/1.a,S=5:2,": b"123", "cur/2.a:2,": b"", "cur/3.a,S=3,W=4:2,": b"123"})
    found = items(tmp_path)
    assert [item.raw for item in found] == [b"123", b"", b"123"]
    assert [bool(item.damage) for item in found] == [True, True, False]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path = make_maildir(tmp_path / "mail", {"cur/1.a:2,": RAW})
    (path / "cur" / "2.a:2,").symlink_to(tmp_path / "secret")
    (path / "loop").symlink_to(path)
    os.mkfifo(path / "cur" / "3.a:2,")
    assert [item.raw for item in items(path)] == [RAW]


def test_a_copy_of_a_maildir_without_its_empty_parts_keeps_its_flags(tmp_path: Path) -> None:
    (tmp_path / "mail" / "cur").mkdir(parents=True)
    (tmp_path / "mail" / "cur" / "1.a").write_bytes(RAW)
    assert not is_maildir(tmp_path / "mail")
    (tmp_path / "mail" / "cur" / "2.a:2,S").write_bytes(RAW)
    assert is_maildir(tmp_path / "mail")
    assert [item.flags for item in items(tmp_path / "mail")] == [(), ("\\Seen",)]


def test_a_message_beside_cur_is_found_by_its_flags(tmp_path: Path) -> None:
    path = make_maildir(tmp_path / "mail", {"cur/1.a:2,": RAW})
    (path / "2.a:2,S").write_bytes(RAW)
    (path / "dovecot-uidlist").write_bytes(b"3 V1")
    assert [item.flags for item in items(path)] == [(), ("\\Seen",)]


def test_what_is_a_maildir(tmp_path: Path) -> None:
    assert not is_maildir(tmp_path)
    (tmp_path / "new").mkdir()
    assert not is_maildir(tmp_path)
    make_maildir(tmp_path / ".Sent", {})
    assert is_maildir(tmp_path)
    with pytest.raises(NotFound):
        next(read_maildir(tmp_path / "none"))


def test_written_messages_come_back_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    message = st.builds(
        MailItem,
        raw=st.binary(min_size=1, max_size=30),
        flags=st.sets(flag_names).map(tuple),
        received_ms=st.integers(0, 10**12),
    )

    @steady
    @given(st.lists(st.tuples(st.lists(names, max_size=2).map(tuple), message), max_size=6))
    def round_trip(messages: list[tuple[tuple[str, ...], MailItem]]) -> None:
        path = tmp_path_factory.mktemp("mail") / "box"
        writer = MaildirWriter(path)
        for folder, item in messages:
            assert path in writer.add(folder, item).parents
        assert [at.name for at in path.parent.iterdir()] == (["box"] if messages else [])
        found = list(read_maildir(path)) if messages else []
        assert not [item.damage for _, item in found if item.damage]
        assert sorted((item.raw, sorted(item.flags), item.received_ms) for _, item in found) == sorted(
            (item.raw, sorted(item.flags), item.received_ms) for _, item in messages
        )
        kept = {folder for folder, _ in messages if sum(map(len, folder)) < 30}
        assert kept <= {folder for folder, _ in found}

    round_trip()


def test_real_mail_comes_back_the_same_and_an_export_run_again_changes_nothing(tmp_path: Path) -> None:
    mail = [item._replace(flags=("\\Seen", "work")) for item in read_mbox(LISTS)]
    for _ in range(2):
        writer = MaildirWriter(tmp_path / "box")
        for item in mail:
            writer.add(("Lists",), item)
        found = list(read_maildir(tmp_path / "box"))
        assert {(item.raw, item.received_ms, item.flags) for _, item in found} == {
            (item.raw, item.received_ms, item.flags) for item in mail
        }
        assert len(found) == len(mail)
    assert not list((tmp_path / "box" / ".Lists" / "tmp").iterdir())


def test_a_folder_has_at_most_26_keywords(tmp_path: Path) -> None:
    writer = MaildirWriter(tmp_path)
    writer.add((), MailItem(RAW, tuple(f"k{number:02}" for number in range(20))))
    writer.add((), MailItem(RAW, tuple(f"k{number:02}" for number in range(40))))
    assert {len(item.flags) for item in items(tmp_path)} == {20, 26}


def test_flags_and_keywords_have_no_case(tmp_path: Path) -> None:
    writer = MaildirWriter(tmp_path)
    writer.add((), MailItem(b"1\n\n", ("\\SEEN", "$forwarded", "Work")))
    writer.add((), MailItem(b"2\n\n", ("work",)))
    assert {item.flags for item in items(tmp_path)} == {("$Forwarded", "\\Seen", "Work"), ("Work",)}


def test_a_folder_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        MaildirWriter(tmp_path).add(("a", ""), MailItem(RAW))
