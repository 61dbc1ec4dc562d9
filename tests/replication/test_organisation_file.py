"""The organisation as entries and as a file: read, checked, compared, written over."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.replication.organisation.differences import differences
from pillarbox.replication.organisation.entries import (
    changed_entries,
    entries_of,
    fingerprint_of,
    read_organisation,
)
from pillarbox.replication.organisation.organisation_export import format_organisation
from pillarbox.replication.organisation.organisation_file import check_organisation, parse_organisation
from pillarbox.replication.organisation.schedules import ALWAYS, NEVER, Interval, parse_schedule
from pillarbox.replication.organisation.toml_lines import lines_of
from pillarbox.replication.organisation.topology import (
    Connector,
    ContentFlow,
    Organisation,
    PresetName,
    Server,
    TransportName,
)
from pillarbox.store.errors import InvalidSetting, UnsupportedVersion
from pillarbox.store.ids import guid_text

B1, B2, P1, GONE = (bytes([number]) * 16 for number in (1, 2, 3, 9))
EMPTY = Organisation({})

FILE = f"""\
# Ours, kept in version control.
format = "pillarbox-organisation"
version = 1
preset = "prompt"

[[sites]]
name = "berlin"   # the head office

[[sites]]
name = "paris"

[[connectors]]
name = "berlin-paris"
sites = ["paris", "berlin"]
cost = 10
schedule = "weekly   Europe/Berlin mon-fri 20:00-06:00"  # cheap at night
bytes_per_second = 500_000
allow_referrals = false

[[servers]]
name = "b1"
guid = "{guid_text(B1).upper()}"
site = "berlin"

[[servers]]
# The old one.
name = "b2"
guid = "{guid_text(B2)}"
site = "berlin"
schedule = "every 30 min"
preferred_sources = ["b1"]
referrals = {{ b1 = 1, p1 = 50 }}

[[servers]]
name = "p1"
guid = "{guid_text(P1)}"
site = "paris"
"""

ORGANISATION = Organisation(
    servers={
        B1: Server(B1, "b1", "berlin", 0),
        B2: Server(B2, "b2", "berlin", 0, schedule=Interval(30)),
        P1: Server(P1, "p1", "paris", 0),
    },
    connectors=(
        Connector(
            "berlin-paris",
            ("paris", "berlin"),
            10,
            parse_schedule("weekly Europe/Berlin mon-fri 20:00-06:00"),
            500_000,
            False,
        ),
    ),
    preferred={B2: (B1,)},
    sites=("berlin", "paris"),
    referrals={B2: {B1: 1, P1: 50}},
)


def findings_of(text: str, present: Organisation = EMPTY) -> list[tuple[int, str]]:
    return [(finding.line, finding.text) for finding in sorted(check_organisation(text, present)[1])]


def changed(line: str, by: str) -> tuple[str, int]:
    """The file with one line of it changed, and that line's number."""
    lines = FILE.split("\n")
    number = next(number for number, each in enumerate(lines) if each.startswith(line))
    lines[number] = by
    return "\n".join(lines), number + 1


def test_a_file_says_an_organisation() -> None:
    assert parse_organisation(FILE, EMPTY) == ORGANISATION


@pytest.mark.parametrize(
    ("line", "by", "said"),
    [
        ("format", 'format = "pillarbox-server"', "does not say format"),
        ("version", "version = true", "is to be a whole number"),
        ("preset", 'preset = "slow"', "preset is to be prompt or classic"),
        ("preset", 'content = "halted"', "content is to be running or stopped"),
        ("preset", "presets = 5", "presets is not known here"),
        ('name = "paris"', 'name = "berlin"', "two sites called berlin"),
        ('name = "paris"', 'name = "BERLIN"', "two sites called BERLIN"),
        ('name = "paris"', "name = 5", "name is to be a text"),
        ('name = "paris"', 'name = "par/is"', "cannot be a name"),
        ('name = "paris"', 'named = "paris"', "named is not known here"),
        ('name = "paris"', 'name = ""', "'' cannot be a name; use 1 to 255 characters"),
        ('name = "paris"', 'name = " "', "' ' cannot be a name"),
        ('name = "paris"', 'name = "paris "', "'paris ' cannot be a name"),
        ('name = "berlin-paris', 'name = ""', "'' cannot be a name"),
        ('name = "berlin-paris', 'name = "\\t"', "cannot be a name"),
        ('name = "p1"', 'name = ""', "'' cannot be a name"),
        ('name = "p1"', 'name = "  "', "'  ' cannot be a name"),
        ("preset", 'name = ""', "'' cannot be a name"),
        ("preset", 'name = " Example"', "' Example' cannot be a name"),
        ("preset", 'preset = ""', "preset is to be prompt or classic, not ''"),
        ("preset", 'content = " "', "content is to be running or stopped, not ' '"),
        ("sites", 'sites = ["berlin", "rome"]', "there is no site rome"),
        ("sites", 'sites = ["berlin", ""]', "there is no site ''"),
        ("sites", 'sites = ["berlin", "berlin"]', "joins two sites"),
        ("sites", 'sites = ["berlin"]', "joins two sites"),
        ("sites", "sites = [1, 2]", "a list of texts"),
        ("sites", 'sites = "berlin"', "a list of texts"),
        ("cost", "cost = 0", "cost is to be 1 to 100, not 0"),
        ("cost", "cost = 101", "cost is to be 1 to 100, not 101"),
        ("cost", "cost = 1.5", "a whole number"),
        ("cost", "cost = true", "a whole number"),
        ('schedule = "weekly', 'schedule = "sometimes"', "is no schedule"),
        ('schedule = "weekly', 'schedule = ""', "'' is no schedule"),
        ('schedule = "weekly', 'schedule = " "', "' ' is no schedule"),
        ('schedule = "weekly', "schedule = 15", "schedule is to be a text"),
        ("bytes_per_second", "bytes_per_second = 0", "is to be 1 to"),
        ("bytes_per_second", "bytes_per_second = 'all'", "a whole number"),
        ("allow_referrals", "allow_referrals = 1", "true or false"),
        ("allow_referrals", "transport = 5", "is to be a text"),
        ('schedule = "every 30 min"', 'addresses = ["p1"]', "'p1' is no address"),
        ('schedule = "every 30 min"', 'addresses = [""]', "'' is no address"),
        ('schedule = "every 30 min"', 'addresses = ["p1:99999"]', "'p1:99999' is no address"),
        ('schedule = "every 30 min"', 'addresses = "p1:1"', "a list of texts"),
        (
            "allow_referrals",
            'transport = "pigeon"',
            "transport is to be direct or spool or nats, not 'pigeon'",
        ),
        ("allow_referrals", 'transport = ""', "transport is to be direct or spool or nats, not ''"),
        ('name = "p1"', 'name = "b2"', "two servers called b2"),
        (f'guid = "{guid_text(P1)}', f'guid = "{guid_text(B1)}"', "two servers of the guid"),
        (f'guid = "{guid_text(P1)}', 'guid = "paris"', "is no GUID"),
        (f'guid = "{guid_text(P1)}', 'guid = ""', "'' is no GUID"),
        (f'guid = "{guid_text(P1)}', f'guid = "{guid_text(GONE)}"', "was removed, for ever"),
        ('site = "paris"', 'site = "rome"', "there is no site rome"),
        ('site = "paris"', 'site = ""', "there is no site ''"),
        ('site = "paris"', 'site = " paris"', "there is no site ' paris'"),
        ('schedule = "every 30 min"', 'schedule = "every 0 min"', "is none"),
        ("preferred_sources", 'preferred_sources = [""]', "there is no server ''"),
        ("preferred_sources", 'preferred_sources = ["b3"]', "there is no server b3"),
        ("preferred_sources", 'preferred_sources = ["b2"]', "cannot be its own source"),
        ("preferred_sources", 'preferred_sources = "b1"', "a list of texts"),
        ("referrals", "referrals = { b1 = 0 }", "b1 is to be 1 to 100, not 0"),
        ("referrals", "referrals = { '' = 1 }", "there is no server ''"),
        ("referrals", "referrals = { b3 = 1 }", "there is no server b3"),
        ("referrals", "referrals = ['b1']", "a table of costs"),
    ],
)
def test_every_nonsense_is_refused_with_its_line(line: str, by: str, said: str) -> None:
    present = Organisation({GONE: Server(GONE, "old", "berlin", 5, is_removed=True)})
    text, number = changed(line, by)
    found = findings_of(text, present)
    assert any(at == number and said in finding for at, finding in found), found
    with pytest.raises(InvalidSetting, match=f"line {number}: "):
        parse_organisation(text, present)


@pytest.mark.parametrize(
    ("line", "said"),
    [("cost", "cost is missing"), ("sites", "sites is missing"), ('name = "berlin-paris', "name is missing")],
)
def test_what_is_missing_is_said_at_its_table(line: str, said: str) -> None:
    text, _ = changed(line, "")
    assert (FILE.split("\n").index("[[connectors]]") + 1, said) in findings_of(text)


def test_an_empty_name_of_a_site_is_found_once_at_the_site() -> None:
    text = FILE.replace('"paris"', '""')
    line = FILE.split("\n").index('name = "paris"') + 1
    assert findings_of(text) == [
        (line, "'' cannot be a name; use 1 to 255 characters, without blanks at either end")
    ]


def test_a_site_that_nothing_reaches_is_refused_with_its_line() -> None:
    text = FILE + '\n[[sites]]\nname = "rome"\n'
    assert findings_of(text) == [(FILE.count("\n") + 2, "no connector leads from site berlin to site rome")]


def test_a_file_of_no_server_is_refused() -> None:
    text = FILE.split("[[servers]]")[0]
    assert findings_of(text) == [(1, "it lists no server: every server of the tree would be removed")]


@pytest.mark.parametrize("text", ["[[sites]\n", 'format = "x"\nformat = "x"\n', "a = [1,\n\n"])
def test_what_is_no_toml_is_refused_with_its_line(text: str) -> None:
    [(line, _)] = findings_of(text)
    assert 1 <= line <= text.count("\n") + 1


def test_tables_in_the_place_of_others_are_refused() -> None:
    head = 'format = "pillarbox-organisation"\nversion = 1\n'
    assert (3, "sites is to be a list of tables: write [[sites]]") in findings_of(head + "sites = ['a']\n")
    assert (3, "servers is to be a list of tables: write [[servers]]") in findings_of(head + "[servers]\n")


def test_a_file_of_a_newer_version_is_left_to_a_newer_program() -> None:
    with pytest.raises(UnsupportedVersion, match="file, line 3: it is of version 2"):
        parse_organisation(FILE.replace("version = 1", "version = 2"), EMPTY)


def test_each_fault_is_a_line_whatever_the_file_calls_things() -> None:
    text, last = changed('site = "paris"', 'site = "pa\\nris"')
    with pytest.raises(InvalidSetting) as refused:
        parse_organisation(text.replace("preset =", '"pre\\nset" ='), EMPTY, "f.toml")
    lines = str(refused.value).split("\n")
    assert [line.partition(": ")[0] for line in lines] == ["f.toml, line 4", f"f.toml, line {last}"]


def test_a_server_that_the_file_does_not_list_is_removed_for_ever() -> None:
    present = replace(ORGANISATION, servers={**ORGANISATION.servers, GONE: Server(GONE, "old", "berlin", 5)})
    after = parse_organisation(FILE, present)
    assert after.servers[GONE] == Server(GONE, "old", "berlin", 5, is_removed=True)
    assert differences(present, after) == ("server old: is removed, for ever",)


def test_versions_stay_as_the_servers_said_them() -> None:
    present = replace(ORGANISATION, servers={B1: Server(B1, "b1", "berlin", 7)})
    assert parse_organisation(FILE, present).servers[B1].version == 7


def test_a_file_that_says_nothing_of_content_leaves_a_stop_alone() -> None:
    stopped = replace(ORGANISATION, content=ContentFlow(is_stopped=True))
    assert parse_organisation(FILE, stopped).content.is_stopped
    resumed = parse_organisation(FILE.replace("version = 1", 'version = 1\ncontent = "running"'), stopped)
    assert resumed.content == ContentFlow()
    slowly = replace(ORGANISATION, content=ContentFlow(False, 1_800_000_000_000, 5000))
    running = FILE.replace("version = 1", 'version = 1\ncontent = "running"')
    assert parse_organisation(running, slowly).content == slowly.content


# --- writing over a file ------------------------------------------------------------------------------------


def test_an_export_over_the_file_that_was_applied_adds_only_what_it_did_not_say() -> None:
    exported = format_organisation(ORGANISATION, FILE)
    assert [line for line in exported.split("\n") if line not in FILE.split("\n")] == ['content = "running"']
    assert [line for line in FILE.split("\n") if line not in exported.split("\n")] == []


def test_comments_and_spelling_survive_an_export_of_changes() -> None:
    server = ORGANISATION.servers[B2]._replace(schedule=NEVER)
    after = replace(
        ORGANISATION,
        servers={**ORGANISATION.servers, B2: server},
        connectors=(ORGANISATION.connectors[0]._replace(cost=20), Connector("new", ("berlin", "paris"), 5)),
    )
    exported = format_organisation(after, FILE)
    for kept in (
        "# Ours, kept",
        "# the head office",
        "# cheap at night",
        "weekly   Europe",
        "# The old one.",
    ):
        assert kept in exported
    assert parse_organisation(exported, EMPTY) == after


HEAD, *TABLES = FILE.split("\n\n")


def file_of(tables: Sequence[int]) -> str:
    """The file with its tables in this order, each with a comment above and behind it."""
    pieces = (f"# above {at}\n{TABLES[at].rstrip()}\n# behind {at}\n" for at in tables)
    return "\n".join([f"{HEAD}\n", *pieces])


def comments_of(text: str) -> list[str]:
    return sorted(part.partition("#")[2] for part in text.split("\n") if "#" in part)


@settings(deadline=None, max_examples=60)
@given(st.permutations(range(len(TABLES))))
def test_comments_survive_in_any_order_of_the_tables(order: list[int]) -> None:
    text = file_of(order)
    exported = format_organisation(ORGANISATION, text)
    assert comments_of(exported) == comments_of(text)
    for at in order:
        assert "\n".join([f"# above {at}", *TABLES[at].split("\n")[:2]]) in exported, "where they were"
    assert parse_organisation(exported, EMPTY) == parse_organisation(text, EMPTY) == ORGANISATION
    assert format_organisation(ORGANISATION, exported) == exported


@settings(deadline=None, max_examples=60)
@given(st.permutations(range(len(TABLES))))
def test_what_is_new_comes_behind_in_any_order_of_the_tables(order: list[int]) -> None:
    text, new = file_of(order), bytes([4]) * 16
    after = replace(
        ORGANISATION,
        servers={**ORGANISATION.servers, new: Server(new, "a0", "athens", 0)},
        sites=("athens", *ORGANISATION.sites),
        connectors=(Connector("a", ("athens", "berlin"), 5), *ORGANISATION.connectors),
    )
    exported = format_organisation(after, text)
    assert comments_of(exported) == comments_of(text)
    assert parse_organisation(exported, EMPTY) == after
    read = tomllib.loads(exported)
    for key, last in (("sites", "athens"), ("connectors", "a"), ("servers", "a0")):
        was = [table["name"] for table in tomllib.loads(text)[key]]
        assert [table["name"] for table in read[key]] == [*was, last]


def test_comments_survive_an_export_over_a_file_that_says_a_thing_twice() -> None:
    text = FILE + '\n[[sites]]\nname = "berlin"\n'
    exported = format_organisation(ORGANISATION, text)
    assert comments_of(exported) == comments_of(text)
    assert parse_organisation(exported, EMPTY) == ORGANISATION


def test_a_removed_server_is_not_exported() -> None:
    after = replace(
        ORGANISATION, servers={**ORGANISATION.servers, P1: ORGANISATION.servers[P1]._replace(is_removed=True)}
    )
    assert "p1" not in {server["name"] for server in tomllib.loads(format_organisation(after))["servers"]}


names = st.text(
    st.characters(categories=("L", "N"), include_characters="-_. "), min_size=1, max_size=8
).filter(lambda name: name == name.strip() and name not in (".", ".."))
schedules = st.sampled_from(
    [ALWAYS, NEVER, Interval(5), parse_schedule("weekly UTC sun 23:00-01:00, wed 00:00-24:00")]
)

certificates = st.sampled_from([(), (b"one",), (b"one", b"two")]).map(
    lambda ders: tuple(sorted(ders, key=fingerprint_of))
)


@st.composite
def organisations(draw: st.DrawFn) -> Organisation:
    """Organisations whose sites hang together."""
    sites = draw(st.lists(names, min_size=1, max_size=4, unique_by=str.casefold).map(sorted))
    labels = draw(st.lists(names, min_size=1, max_size=5, unique_by=str.casefold))
    servers = {
        bytes([number + 1]) * 16: Server(
            bytes([number + 1]) * 16,
            label,
            draw(st.sampled_from(sites)),
            0,
            schedule=draw(schedules),
            addresses=draw(st.sampled_from([(), ("b1.example.org:7337",), ("b1:1", "[::1]:65535")])),
            certificates=draw(certificates),
        )
        for number, label in enumerate(labels)
    }
    guids = list(servers)
    connectors = [
        Connector(
            f"c{number}",
            (draw(st.sampled_from(sites[: number + 1])), sites[number + 1]),
            draw(st.integers(1, 100)),
            draw(schedules),
            draw(st.integers(0, 10**9)),
            draw(st.booleans()),
            draw(st.sampled_from(TransportName)),
        )
        for number in range(len(sites) - 1)
    ]
    first = guids[0]
    lists = draw(st.dictionaries(st.sampled_from(guids), st.integers(1, 100)))
    return Organisation(
        servers,
        tuple(connectors),
        {first: tuple(guids[1:])} if draw(st.booleans()) and guids[1:] else {},
        tuple(sites),
        {first: lists} if lists else {},
        draw(st.sampled_from(PresetName)),
        ContentFlow(is_stopped=draw(st.booleans())),
        {sites[0]: TransportName.SPOOL} if draw(st.booleans()) else {},
        draw(certificates),
        draw(st.sampled_from([b"", first])),
        draw(st.sampled_from(["", "Example"])),
    )


def with_what_no_file_says(organisation: Organisation) -> Organisation:
    """An organisation that knows the certificates of another, and whether content is stopped in it."""
    return replace(
        EMPTY,
        content=organisation.content,
        authorities=organisation.authorities,
        authority_holder=organisation.authority_holder,
        name=organisation.name,
        servers={
            database: Server(database, "", "", 0, certificates=server.certificates)
            for database, server in organisation.servers.items()
        },
    )


@settings(deadline=None, max_examples=30)
@given(organisations(), organisations())
def test_file_and_entries_say_the_same_organisation(one: Organisation, other: Organisation) -> None:
    assert read_organisation(entries_of(one)) == (one, ())
    assert parse_organisation(format_organisation(one), with_what_no_file_says(one)) == one
    over = format_organisation(one, format_organisation(other))
    assert parse_organisation(over, with_what_no_file_says(one)) == one


@settings(deadline=None, max_examples=30)
@given(organisations(), organisations())
def test_only_what_differs_is_written_and_said(one: Organisation, other: Organisation) -> None:
    assert changed_entries(entries_of(one), one) == {} and differences(one, one) == ()
    entries = entries_of(one) | changed_entries(entries_of(one), other)
    assert read_organisation(entries).organisation == other
    assert bool(differences(one, other)) == (one != other)


# --- two administrators -------------------------------------------------------------------------------------


def test_changes_of_two_administrators_merge() -> None:
    base = entries_of(ORGANISATION)
    dearer = replace(ORGANISATION, connectors=(ORGANISATION.connectors[0]._replace(cost=20),))
    faster = replace(ORGANISATION, connectors=(ORGANISATION.connectors[0]._replace(rate_bytes=9),))
    merged = {**base, **changed_entries(base, dearer), **changed_entries(base, faster)}
    [connector] = read_organisation(merged).organisation.connectors
    assert (connector.cost, connector.rate_bytes) == (20, 9)


def test_what_makes_no_sense_after_a_merge_is_left_out_and_found() -> None:
    base = entries_of(ORGANISATION)
    one_site = replace(
        ORGANISATION,
        sites=("berlin",),
        connectors=(),
        servers={B1: ORGANISATION.servers[B1], B2: ORGANISATION.servers[B2]},
        referrals={},
    )
    new = Connector("new", ("berlin", "paris"), 5)
    doubled = replace(ORGANISATION, connectors=(*ORGANISATION.connectors, new))
    merged = {**base, **changed_entries(base, one_site), **changed_entries(base, doubled)}
    reading = read_organisation(merged)
    assert reading.organisation.connectors == ()
    assert "connector new is left out: it does not join two sites that are there" in reading.findings
    # It does not come back when somebody applies a file that does not know it.
    after = {**merged, **changed_entries(merged, one_site)}
    assert read_organisation(after) == (one_site, ())


def test_entries_of_a_newer_program_are_left_alone() -> None:
    entries = {**entries_of(ORGANISATION), "connector/berlin-paris/colour": "red", "weather/today": "fine"}
    assert read_organisation(entries) == (ORGANISATION, ())
    assert changed_entries(entries, ORGANISATION) == {}


def test_a_certificate_under_another_fingerprint_is_left_out_and_found() -> None:
    der = b"certificate"
    with_it = replace(
        ORGANISATION,
        servers={**ORGANISATION.servers, B1: ORGANISATION.servers[B1]._replace(certificates=(der,))},
        authorities=(der,),
    )
    entries = entries_of(with_it)
    assert read_organisation(entries) == (with_it, ())
    forged = {key.replace(fingerprint_of(der).hex(), "00" * 32): value for key, value in entries.items()} | {
        f"server/{guid_text(B2)}/certificate/{'11' * 32}": "no base64"
    }
    reading = read_organisation(forged)
    assert reading.organisation == ORGANISATION
    assert [finding.split(" is left out")[0] for finding in reading.findings] == [
        f"a certificate of {thing}" for thing in ("server b1", "server b2", "an authority")
    ]


def test_the_cheapest_connector_says_which_transport_joins_two_sites() -> None:
    near, far = (ORGANISATION.connectors[0]._replace(name=name) for name in ("near", "far"))
    spool = near._replace(cost=5, transport=TransportName.SPOOL)
    organisation = replace(ORGANISATION, connectors=(far, spool), transports={"berlin": TransportName.SPOOL})
    assert organisation.transport_between(B1, P1) is TransportName.SPOOL
    assert organisation.transport_between(B1, B2) is TransportName.SPOOL
    assert ORGANISATION.transport_between(B1, P1) is TransportName.DIRECT
    assert replace(ORGANISATION, connectors=()).transport_between(B2, P1) is TransportName.DIRECT


def test_a_change_of_transport_is_said_with_what_it_needs() -> None:
    connector = ORGANISATION.connectors[0]
    after = replace(
        ORGANISATION,
        connectors=(connector._replace(transport=TransportName.SPOOL),),
        transports={"berlin": TransportName.SPOOL},
    )
    of_site, of_link = differences(ORGANISATION, after)
    for line in (of_site, of_link):
        assert line.endswith("direct becomes spool; node.toml of each server at its ends has to name it")
    assert [line.rpartition(": ")[2] for line in differences(after, ORGANISATION)] == [
        "spool becomes direct",
        "spool becomes direct",
    ]


def test_unreadable_entries_are_found_and_stop_content_rather_than_send() -> None:
    entries = {
        **entries_of(ORGANISATION),
        "content": "paused",
        "preset": "slow",
        "connector/berlin-paris/cost": "0",
        "connector/berlin-paris/schedule": "sometimes",
        f"server/{guid_text(B1)}/version": "new",
        f"server/{guid_text(GONE)}/version": "6",
    }
    reading = read_organisation(entries)
    assert reading.organisation.content.is_stopped
    assert reading.organisation.preset is PresetName.PROMPT
    assert len(reading.findings) == 5


# --- lines --------------------------------------------------------------------------------------------------


def test_lines_of_keys_behind_values_that_take_several() -> None:
    text = '''\
a = """
b = 1
"""
c = [
  "]",  # d = 1
  'x',
]
"e.f".g = { h = "}" }
[i]
j = '\\'
[[k]]
[k.l]
m = 1
[[k]]
n = 2
'''
    assert lines_of(text) == {
        ("a",): 1,
        ("c",): 4,
        ("e.f", "g"): 8,
        ("i",): 9,
        ("i", "j"): 10,
        ("k",): 11,
        ("k", 0): 11,
        ("k", 0, "l"): 12,
        ("k", 0, "l", "m"): 13,
        ("k", 1): 14,
        ("k", 1, "n"): 15,
    }


def test_two_connectors_of_a_name_are_refused_too() -> None:
    text = FILE + '\n[[connectors]]\nname = "berlin-paris"\nsites = ["berlin", "paris"]\ncost = 10\n'
    assert findings_of(text) == [(FILE.count("\n") + 3, "there are two connectors called berlin-paris")]
