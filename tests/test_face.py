"""The public face: the names of `pillarbox` are all there, and loading it loads nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pillarbox
from pillarbox.store.files.exporting import export_mail
from pillarbox.store.files.importing import import_mail


def test_every_name_of_the_face_is_there() -> None:
    assert all(getattr(pillarbox, name) is not None for name in pillarbox.__all__)
    assert dir(pillarbox) == sorted(pillarbox.__all__)


def test_the_names_for_static_readers_are_those_at_run_time() -> None:
    assert pillarbox.__file__ is not None
    tree = ast.parse(Path(pillarbox.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported.keys() == set(pillarbox.__all__) - {"__version__"}
    for name, home in imported.items():
        found = getattr(pillarbox, name)
        assert home in (getattr(found, "__name__", ""), f"{getattr(found, '__module__', '')}.{name}")


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'folder'"):
        _ = pillarbox.folder  # type: ignore[attr-defined]


def test_loading_the_face_loads_no_engine() -> None:
    code = "import sys, pillarbox; sys.exit(any(name.startswith('pillarbox.') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_message_is_delivered_once_to_a_mailbox_named_by_guid_and_name(tmp_path: Path) -> None:
    actor = pillarbox.Actor.transport()
    with pillarbox.Server.create(str(tmp_path / "server")) as server:
        database = server.database("Mailbox Store")
        anna, bert = (server.mailboxes.create(actor, name)[1] for name in ("anna", "bert"))
        items = pillarbox.deliver(database, actor, ["Bert", anna.guid, "anna", bert.guid, "ANNA"], b"\n")
        assert [item.folder_id for item in items] == [bert.roles["inbox"], anna.roles["inbox"]]
        assert len(pillarbox.deliver(database, actor, "anna", b"\n")) == 1
        assert len(pillarbox.deliver(database, actor, iter([anna.guid]), b"\n")) == 1
        with database.read(actor) as read:
            assert len(list(pillarbox.folders.messages(read, anna.roles["inbox"]))) == 3


def test_paths_may_be_text(tmp_path: Path) -> None:
    with pillarbox.Server.create(str(tmp_path / "server"), "enterprise") as server:
        assert server.path == tmp_path / "server" and server.edition.value == "enterprise"
        database, anna = server.mailboxes.create(pillarbox.Actor.transport(), "anna")
        mail = tmp_path / "mail.eml"
        mail.write_bytes(b"Subject: x\n\ny\n")
        for paths in (str(mail), [str(mail), mail]):
            import_mail(database, pillarbox.Actor.transport(), anna.guid, paths)
        out = str(tmp_path / "out")
        assert export_mail(database, pillarbox.Actor.transport(), anna.guid, out, "eml").messages_count == 2
    pillarbox.Server.open(str(tmp_path / "server"), read_only=True).close()


def test_everything_says_what_it_is(tmp_path: Path) -> None:
    anna = pillarbox.Actor.user("anna")
    with pillarbox.Server.create(tmp_path / "server") as server:
        database, box = server.mailboxes.create(anna, "anna")
        assert repr(server).startswith(f"<Server {tmp_path / 'server'}: <Database 'Mailbox Store'")
        assert repr(database) == "<Database 'Mailbox Store', mailbox store, mounted>"
        (item,) = pillarbox.deliver(database, anna, "anna", b"Subject: private\n\n")
        with database.read(anna) as read, database.transaction(anna) as txn:
            assert (
                "ReadTransaction" in repr(read) and "anna" in repr(read) and "WriteTransaction" in repr(txn)
            )
            inbox = pillarbox.folders.get(read, item.folder_id)
        assert repr(inbox) == f"<folder 'Inbox', folder_id {inbox.folder_id}, 1 messages>"
        assert repr(item) == f"<message_id {item.message_id}, UID 1 in folder_id {item.folder_id}>"
        assert "'anna'" in repr(box) and box.guid.hex() in repr(box)


def test_an_error_that_is_raised_again_is_a_new_one() -> None:
    kept = pillarbox.errors.Corrupt("damaged", file="x", key=b"k", hint="repair")
    raised = []
    for _ in range(2):
        with pytest.raises(pillarbox.errors.Corrupt) as told:
            raise kept.anew()
        raised.append(told.value)
    assert raised[0] is not raised[1] and kept.__traceback__ is None
    assert [vars(error) for error in raised] == [vars(kept)] * 2 and str(raised[0]) == "damaged"
