"""Names: which are allowed, how they are compared, sorted, and made into file names."""

from __future__ import annotations

import unicodedata

import pytest
from hostile_names import hostile_names
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.names import (
    SORT_KEY_BYTES_MAX,
    base_subject,
    check_name,
    folder_name,
    name_key,
    safe_name,
    sender_sort_key,
    subject_sort_key,
)

steady = settings(deadline=None, max_examples=60)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


# -- allowed and compared


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b", "a_b"),
        (" x\0y ", "x_y"),
        ("", "unnamed"),
        ("\u2028", "_"),
        ("é" * 300, "é" * 255),
        (".", "_"),
        (" .. ", "__"),
    ],
)
def test_a_folder_is_named_as_names_may_be(text: str, name: str) -> None:
    assert folder_name(text) == name
    assert check_name(name) == name


@given(name=names)
@steady
def test_a_name_is_the_same_however_its_letters_are_composed(name: str) -> None:
    assert name_key(unicodedata.normalize("NFD", name)) == name_key(name)
    assert name_key(unicodedata.normalize("NFC", name)) == name_key(name)
    assert len(name_key(name)) <= 200


@pytest.mark.parametrize(
    ("one", "other"), [("Inbox", "INBOX"), ("Straße", "STRASSE"), ("Ärger", "a\u0308rger"), ("ΣΑΣ", "σας")]
)
def test_names_are_compared_without_case(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@given(one=names, other=names)
@steady
def test_names_that_differ_in_more_than_case_have_keys_of_their_own(one: str, other: str) -> None:
    def folded(name: str) -> str:
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())

    assert (name_key(one) == name_key(other)) == (folded(one) == folded(other))


def test_long_names_that_differ_only_at_the_end_have_keys_of_their_own() -> None:
    assert name_key("x" * 250) != name_key("x" * 249 + "y")
    assert name_key("X" * 250) == name_key("x" * 250)


# -- file names


@steady
@given(hostile_names, st.integers(20, 200))
def test_a_safe_name_is_one_short_name_on_every_system(text: str, limit_bytes: int) -> None:
    name = safe_name(text, limit_bytes)
    assert 0 < len(name.encode("utf-8")) <= limit_bytes
    assert not set(name) & set('<>:"/\\|?*\u202e') and name.isprintable() | (" " in name) | (
        not name.isascii()
    )
    assert name not in (".", "..") and not name.startswith((".", " ")) and not name.endswith((".", " "))
    assert name.split(".")[0].strip().upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}
    assert safe_name(name, limit_bytes) == name


def test_safe_names_stay_readable() -> None:
    assert safe_name("Re: Größe 10/12?") == "Re_ Größe 10_12_"
    assert safe_name("../../etc/passwd") == "_.._etc_passwd"
    assert [safe_name(text) for text in ("", "..", " . ")] == ["unnamed"] * 3
    assert safe_name("nul.txt") == "_nul.txt"


# -- sorting


@steady
@given(st.text())
def test_sort_keys_are_short_and_without_nul(text: str) -> None:
    for key in (subject_sort_key(text), sender_sort_key(text)):
        assert len(key) <= SORT_KEY_BYTES_MAX
        assert b"\0" not in key


@steady
@given(st.text(st.sampled_from("Re:[]() fwdx\uff1a"), max_size=60))
def test_a_base_subject_is_its_own_base_subject(subject: str) -> None:
    assert base_subject(base_subject(subject)) == base_subject(subject)


@pytest.mark.parametrize(
    "subject",
    [
        "Plans", "Re: Plans", "RE : Plans", "Fwd: Re: Plans", "fw: Plans", "AW: Plans", "Re[2]: Plans",
        "Re(3): Plans", "[list] Plans", "[list] Re: [list] Plans", "Re: [a][b] Plans", "Plans (fwd)",
        "[Fwd: Plans]",
        "[fwd: Re: Plans] (fwd)", "Re\uff1aPlans", "  Plans  ",
    ],
)  # fmt: skip
def test_answers_and_forwards_share_a_base_subject(subject: str) -> None:
    assert base_subject(subject) == "Plans"
    assert subject_sort_key(subject) == b"plans"


@pytest.mark.parametrize("subject", ["[alone]", "Regarding: x", "Report", "reset", "f: x"])
def test_what_is_no_prefix_stays(subject: str) -> None:
    assert base_subject(subject) == subject


def test_senders_sort_by_name_or_else_by_address() -> None:
    senders = ["bob@c", "Carl <a@b>", '"Lee, Ann" <z@b>', "\u00c9mile <e@b>"]
    assert sorted(senders, key=sender_sort_key) == senders
    assert sender_sort_key("CARL <x@y>") == sender_sort_key("carl <a@b>") == b"carl"
