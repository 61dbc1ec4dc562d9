"""Following server.toml: what it wants mounted is, whoever has read it first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.disk.file_lock import FileLock
from pillarbox.store.engine.database import LOCK, MountState
from pillarbox.store.errors import InvalidSetting, WriterBusy
from pillarbox.store.server_config import CONFIG_FILE
from pillarbox.tools.operations.call import LocalCall
from pillarbox.tools.serving.following import Following
from pillarbox.tools.serving.lending import Lending

STORE = "Mailbox Store"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[pillarbox.Server]:
    with pillarbox.Server.create(tmp_path / "server") as server:
        yield server


def test_what_an_operation_took_over_is_still_carried_out(server: pillarbox.Server) -> None:
    following, database = Following(server), server.database(STORE)
    for wanted, state in ((False, MountState.DISMOUNTED), (True, MountState.MOUNTED)):
        with pillarbox.Server.open(server.path, mount=False) as other:
            other.set_mount_at_startup(STORE, wanted)
        server.set_limits(STORE, {})
        assert server.mounts_at_startup(STORE) is wanted and database.state is not state
        following.follow()
        assert database.state is state


def test_a_database_is_mounted_once_nobody_else_has_it(server: pillarbox.Server) -> None:
    following, database = Following(server), server.database(STORE)
    server.dismount(STORE)
    with closing(FileLock(database.path / LOCK, "it", SystemClock())), pytest.raises(WriterBusy):
        server.mount(STORE)
    following.follow()
    assert database.state is MountState.MOUNTED


def test_a_database_that_is_lent_is_not_mounted(server: pillarbox.Server) -> None:
    lending, database = Lending(server), server.database(STORE)
    following = Following(server, lending.mount)
    with lending.of_caller() as lent:
        lent.let_go(LocalCall(server, pillarbox.Actor.task("test")), databases=[STORE])
        with pillarbox.Server.open(server.path, mount=False) as other:
            other.set_mount_at_startup(STORE, False)
            following.follow()
            other.set_mount_at_startup(STORE, True)
        following.follow()
        assert database.state is MountState.DISMOUNTED
    assert database.state is MountState.MOUNTED


def following_while_the_entry_goes(server: pillarbox.Server, meanwhile: str) -> Following:
    """Take the entry of the first database out of server.toml, of which the text is `meanwhile` by the time
    when the database is let go."""
    file = server.path / CONFIG_FILE

    @contextmanager
    def released(_: pillarbox.Database) -> Iterator[None]:
        yield
        file.write_text(meanwhile)

    whole = file.read_text()
    begin = whole.index("[[groups.databases]]")
    file.write_text(whole[:begin] + whole[whole.index("[[groups.databases]]", begin + 1) :])
    return Following(server, released=released)


def test_a_database_whose_entry_is_put_back_while_it_is_let_go_is_mounted_again(
    server: pillarbox.Server,
) -> None:
    file, database = server.path / CONFIG_FILE, server.database(STORE)
    whole = file.read_text()

    following = following_while_the_entry_goes(server, whole)
    following.follow()
    assert database.state is MountState.MOUNTED


def test_a_mounted_database_that_is_given_another_directory_is_refused_and_kept(
    server: pillarbox.Server,
) -> None:
    following, file = Following(server), server.path / CONFIG_FILE
    whole = file.read_text()
    file.write_text(whole.replace(f'directory = "{STORE}"', 'directory = "Elsewhere"'))
    with pytest.raises(InvalidSetting, match="another directory"):
        following.follow()
    with pytest.raises(InvalidSetting, match="another directory"):
        server.set_limits(STORE, {})
    assert server.database(STORE).state is MountState.MOUNTED
    file.write_text(whole)
    following.follow()


def test_a_database_that_was_moved_while_it_was_dismounted_is_mounted_there(server: pillarbox.Server) -> None:
    following, file, path = Following(server), server.path / CONFIG_FILE, server.database(STORE).path
    server.dismount(STORE)
    path.rename(path.with_name("Elsewhere"))
    file.write_text(file.read_text().replace(f'directory = "{STORE}"', 'directory = "Elsewhere"'))
    following.follow()
    server.mount(STORE)
    assert server.database(STORE).path == path.with_name("Elsewhere")
    assert server.database(STORE).state is MountState.MOUNTED


def test_a_database_that_another_process_has_for_a_moment_is_waited_for(server: pillarbox.Server) -> None:
    following, database = Following(server), server.database(STORE)
    assert not following.has_busy()
    server.dismount(STORE)
    with closing(FileLock(database.path / LOCK, "it", SystemClock())), pytest.raises(WriterBusy):
        server.mount(STORE)
    assert following.has_busy()
    following.follow()
    assert not following.has_busy()


def test_a_database_is_mounted_again_though_the_file_was_broken_while_it_was_let_go(
    server: pillarbox.Server,
) -> None:
    file, database = server.path / CONFIG_FILE, server.database(STORE)
    whole = file.read_text()

    following = following_while_the_entry_goes(server, "broken")
    with pytest.raises(InvalidSetting):
        following.follow()
    file.write_text(whole)
    following.follow()
    assert database.state is MountState.MOUNTED
