"""TOML is written anew with what people wrote into it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.store.toml_text import format_toml

TEXT = """# Our mail. Ask Anna before you change it.
format = "f"
edition = 'standard'   # small

[diagnostics]
# nothing yet

[[groups]]
name = "First"  # the first
directory = "First"

[[groups.databases]]
# sales
name = "A"
guid = "1"
settings = { limit = 2_0 }

[[groups.databases]]
name = "B"
guid = "2"

[groups.databases.settings]
limit = 0x10  # sixteen
# the end
"""


def written(**changes: Any) -> str:
    table = tomllib.loads(TEXT)
    table.update(changes)
    return format_toml(table, TEXT)


def test_what_has_not_changed_stays_as_it_was_written() -> None:
    assert written() == TEXT


def test_a_changed_value_leaves_all_comments() -> None:
    assert written(edition="enterprise") == TEXT.replace("'standard'", '"enterprise"')


def test_tables_keep_their_comments_when_others_come_and_go() -> None:
    table = tomllib.loads(TEXT)
    table["groups"][0]["databases"][1]["settings"]["limit"] = 17
    table["groups"][0]["databases"][0]["name"] = "Sales"
    del table["groups"][0]["databases"][0]["settings"]
    table["groups"][0]["databases"].append({"name": "C", "guid": "3", "settings": {}})
    table["groups"].append({"name": "Second", "directory": "Second", "databases": []})
    text = format_toml(table, TEXT)
    assert tomllib.loads(text) == table
    for kept in (
        "# Our mail",
        "# small",
        "# nothing yet",
        "# the first",
        "# sales",
        "# sixteen",
        "# the end",
    ):
        assert kept in text
    assert '\n\n[[groups.databases]]\nname = "C"' in text and "2_0" not in text
    del table["groups"][0]["databases"][0]
    text = format_toml(table, text)
    assert tomllib.loads(text) == table and "# sales" not in text and "# sixteen" in text


MIXED = """a = 1

# of x1
# too
[[x]]
name = "1"
# behind x1

# of y1
[[y]]
name = "1"

# of x2
[[x]]
name = "2"
z = [
# no table
[1],
]
"""


def test_a_comment_right_above_a_table_stays_there() -> None:
    table = tomllib.loads(MIXED)
    table["b"] = 2
    table["x"][0]["new"] = 3
    text = format_toml(table, MIXED)
    assert tomllib.loads(text) == table
    for kept in (
        '# of x1\n# too\n[[x]]\nname = "1"',
        '# of y1\n[[y]]\nname = "1"',
        '# of x2\n[[x]]\nname = "2"',
        "# no table\n[1],",
        "# behind x1",
    ):
        assert kept in text
    assert format_toml(table, text) == text


def test_a_comment_right_above_a_table_goes_with_it_alone() -> None:
    table = tomllib.loads(MIXED)
    del table["x"][0]
    text = format_toml(table, MIXED)
    assert tomllib.loads(text) == table
    assert "# of x1" not in text and "# too" not in text
    assert "# of y1\n[[y]]" in text and '# of x2\n[[x]]\nname = "2"' in text


def test_comments_at_the_beginning_stay_though_the_table_below_goes() -> None:
    text = format_toml({"b": {"c": 1}}, "# ours\n# too\n[a]\nb = 1\n\n# of b\n[b]\nc = 1\n")
    assert "# ours\n# too\n" in text and "# of b\n[b]" in text


def test_what_looks_like_a_comment_in_a_text_stays_as_it_is() -> None:
    before = 'a = """\n# b\n[c]\n"""\n# of d\n[d]\n'
    table = tomllib.loads(before)
    assert format_toml(table, before) == before


def test_a_value_of_another_type_takes_the_place_of_an_equal_one() -> None:
    assert tomllib.loads(format_toml({"a": True, "b": 1}, "a = 1\nb = 1.0\n")) == {"a": True, "b": 1}
    assert "a = true" in format_toml({"a": True}, "a = 1\n")


@pytest.mark.parametrize("before", ["", "no toml", "a.b = 1\n[a]\nc = 2\n", 'databases = [{ name = "A" }]\n'])
def test_whatever_was_there_before_what_is_to_be_written_is_written(before: str) -> None:
    table = {"a": 1, "databases": [{"name": "A", "settings": {"x": 1}}, {"name": "B"}]}
    assert tomllib.loads(format_toml(table, before)) == table


_KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=4)
_VALUES = st.recursive(
    st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.dictionaries(_KEYS, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=8,
)
_TABLES = st.dictionaries(_KEYS, _VALUES, max_size=4)


@given(_TABLES, _TABLES)
def test_any_table_is_written_over_any_other(before: dict[str, Any], table: dict[str, Any]) -> None:
    assert tomllib.loads(format_toml(table, format_toml(before))) == table
