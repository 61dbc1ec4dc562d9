"""Naming a snapshot: by id, as the newest, by a time."""

from __future__ import annotations

import pytest

from pillarbox.backup.find_snapshot import find_for_server, find_snapshot, read_moment
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.repository import Repository
from pillarbox.backup.snapshot import MANIFEST_FORMAT, GroupSnapshot, SnapshotSource
from pillarbox.backup.snapshot_owner import ServerMark, split_by_server
from pillarbox.store.errors import InvalidName, InvalidSetting, NotFound, Refused
from pillarbox.store.ids import guid_text

NOON_MS = 1_795_608_000_000  # 2026-11-25T12:00:00Z
HOUR_MS = 3_600_000
X, Y = b"x" * 16, b"y" * 16


@pytest.fixture
def repository(world, backend: MemoryBackend) -> Repository:
    """Storage group First every hour from noon to three, each snapshot telling its hour."""
    made: Repository = world.create(backend)
    for hour in range(4):
        save(made, NOON_MS + hour * HOUR_MS, "First", hour)
    return made


def save(repository: Repository, time_ms: int, group: str, hour: int) -> str:
    with repository.writer() as writer:
        root = writer.add_tree([], hour).id
        return writer.save_snapshot({"group": group, "hour": hour}, [root], time_ms=time_ms)


@pytest.mark.parametrize(
    ("name", "hour"),
    [
        ("@2026-11-25T12:00:00Z", 0),
        ("@2026-11-25T13:59:59.999Z", 1),
        ("@2026-11-25T14:00+00:00", 2),
        ("@2026-11-25T16:30+02:00", 2),
        ("@2030-01-01T00:00Z", 3),
        ("latest", 3),
    ],
)
def test_a_time_means_the_newest_taken_then_or_before(repository: Repository, name: str, hour: int) -> None:
    assert find_snapshot(repository, name).manifest["hour"] == hour


def test_an_id_or_its_beginning_names_one(repository: Repository) -> None:
    for each in repository.snapshots():
        assert find_snapshot(repository, each.id) == find_snapshot(repository, each.id[:20]) == each
    with pytest.raises(NotFound):
        find_snapshot(repository, "zzz")


def test_before_the_first_there_is_nothing(repository: Repository) -> None:
    with pytest.raises(NotFound):
        find_snapshot(repository, "@2026-11-25T11:59:59.999Z")


def test_a_time_without_a_zone_is_refused() -> None:
    for text in ("2026-11-25T12:00:00", "2026-11-25", "noon", "", "2026-13-01T00:00Z"):
        with pytest.raises(InvalidSetting):
            read_moment(text)


def test_of_several_groups_one_must_be_named_for_a_time(repository: Repository) -> None:
    save(repository, NOON_MS + 5 * HOUR_MS, "Second", 5)
    with pytest.raises(InvalidName):
        find_snapshot(repository, "@2030-01-01T00:00Z")
    assert find_snapshot(repository, "@2030-01-01T00:00Z", group="First").manifest["hour"] == 3
    assert find_snapshot(repository, "latest", group="First").manifest["hour"] == 3
    assert find_snapshot(repository, "latest").manifest["hour"] == 5
    with pytest.raises(NotFound):
        find_snapshot(repository, "latest", group="Third")


def test_of_servers_of_the_same_name_a_time_says_nothing(repository: Repository) -> None:
    with repository.writer() as writer:
        root = writer.add_tree([], 9).id
        manifest = {
            "format": MANIFEST_FORMAT,
            "group": "First",
            "databases": [{"name": "a", "guid": b"g" * 16}],
        }
        writer.save_snapshot(manifest, [root], time_ms=NOON_MS)
    for name in ("latest", "@2030-01-01T00:00Z"):
        with pytest.raises(InvalidName) as refused:
            find_snapshot(repository, name, group="First")
        assert "by its id" in refused.value.hint


# --- of several servers ------------------------------------------------------------------------------------


def take(group, name: str, server_guid: bytes, *databases):
    group.clock.advance_ms(1000)
    source = SnapshotSource(name, "First", databases, server_guid=server_guid)
    return GroupSnapshot(source, group.repository, clock=group.clock).run()


def test_servers_are_told_apart_by_their_guids_whatever_their_names(group):
    first, second = group.databases
    one = take(group, "mail", X, first)
    two = take(group, "mail", Y, first)
    renamed = take(group, "post", X, second)
    servers = split_by_server(group.repository.snapshots())
    assert sorted([each.id for each in server.snapshots] for server in servers) == sorted(
        [[one.id, renamed.id], [two.id]]
    )
    with pytest.raises(InvalidName, match="2 servers"):
        find_snapshot(group.repository, "latest")
    assert find_snapshot(group.repository, "latest", of="post").id == renamed.id
    with pytest.raises(InvalidName, match="are called 'mail'"):
        find_snapshot(group.repository, "latest", of="mail")
    assert find_snapshot(group.repository, "latest", of=guid_text(Y)).id == two.id


def test_snapshots_of_before_servers_had_guids_are_told_apart_by_their_databases(group):
    first, second = group.databases
    take(group, "mail", b"", first)
    take(group, "mail", b"", second)
    with pytest.raises(InvalidName, match="2 servers"):
        find_snapshot(group.repository, "latest")
    later = take(group, "mail", X, first)
    assert len(split_by_server(group.repository.snapshots())) == 2, "the first one has a GUID now"
    assert find_snapshot(group.repository, "latest", of=guid_text(X)).id == later.id


def test_for_a_server_the_latest_is_the_newest_of_each_of_its_databases(group):
    first, second = group.databases
    mine = ServerMark(X, {first.guid: first.name, second.guid: second.name})
    both = take(group, "mail", X, first, second)
    elsewhere = group.make_database(group.directory / "other", 9, group.clock)
    take(group, "mail", Y, elsewhere)
    elsewhere.dismount()
    newest = take(group, "mail", X, second)
    found = find_for_server(group.repository, "latest", mine)
    assert [(each.snapshot.id, each.names) for each in found] == [
        (newest.id, (second.name,)),
        (both.id, (first.name,)),
    ]
    (named,) = find_for_server(group.repository, "latest", mine, names=[first.name.upper()])
    assert (named.snapshot.id, named.names) == (both.id, (first.name,))
    with pytest.raises(NotFound, match="no database 'Store 9' of this server"):
        find_for_server(group.repository, "latest", mine, names=["Store 9"])


def test_a_snapshot_of_another_server_is_refused_unless_it_is_named(group):
    first, second = group.databases
    mine = take(group, "mine", X, first)
    other = take(group, "other", Y, second)
    mark = ServerMark(X, {first.guid: first.name})
    with pytest.raises(Refused, match="another server, 'other'"):
        find_for_server(group.repository, other.id, mark)
    (found,) = find_for_server(group.repository, other.id, mark, of="other")
    assert found.snapshot.id == other.id
    with pytest.raises(Refused):
        find_for_server(group.repository, mine.id, mark, of="other")
    with pytest.raises(NotFound, match="no snapshot of this server"):
        find_for_server(group.repository, "latest", ServerMark(b"z" * 16, {b"d" * 16: "Store"}))


def test_a_server_whose_databases_were_made_anew_still_finds_its_snapshots_by_its_guid(group):
    first, _ = group.databases
    held = take(group, "mail", X, first)
    (found,) = find_for_server(group.repository, "latest", ServerMark(X, {b"n" * 16: "Store"}))
    assert (found.snapshot.id, found.names) == (held.id, (first.name,))
