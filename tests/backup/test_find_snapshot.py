"""Naming a snapshot: by id, as the newest, by a time."""

from __future__ import annotations

import pytest

from pillarbox.backup.find_snapshot import find_snapshot, read_moment
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.repository import Repository
from pillarbox.backup.snapshot import MANIFEST_FORMAT
from pillarbox.store.errors import InvalidName, InvalidSetting, NotFound

NOON_MS = 1_795_608_000_000  # 2026-11-25T12:00:00Z
HOUR_MS = 3_600_000


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
