"""Commands of membership, beside servers that are served and that are not; with real keys and connections."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")
pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from click.testing import CliRunner, Result
from free_ports import free_port
from served import serving

import pillarbox
from pillarbox.replication.node.member_files import MemberFiles, NodeSettings
from pillarbox.store.engine.database_limits import Edition
from pillarbox.tools.cli import cli


def run(*arguments: str | Path, code: int = 0, typed: str = "") -> Result:
    result = CliRunner().invoke(cli, list(map(str, arguments)), input=typed)
    assert result.exit_code == code, (arguments, result.output, result.stderr)
    return result


def told(*arguments: str | Path) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def made(place: Path) -> Path:
    pillarbox.Server.create(place, Edition.STANDARD).close()
    return place


def first(place: Path, port: int = 0) -> Path:
    """A server that is the first of an organisation."""
    server = made(place)
    address = f"127.0.0.1:{port or free_port()}"
    run(
        "org",
        "init",
        server,
        "Example",
        "--name",
        "b1",
        "--site",
        "berlin",
        "--address",
        address,
        "--listen",
        address,
    )
    return server


def approved(inviter: Path, server: Path, name: str, *options: str) -> None:
    """Have a server join by files."""
    request, approval = server.parent / f"{name}.request", server.parent / f"{name}.approval"
    run("node", "request", server, request)
    run("node", "approve", inviter, request, approval, "--name", name, "--site", "berlin")
    run("node", "join", server, "--approval", approval, *options)


def approved_again(inviter: Path, server: Path, *options: str) -> None:
    """Have a member get another certificate by files."""
    request, approval = server.parent / "again.request", server.parent / "again.approval"
    for file in (request, approval):
        file.unlink(missing_ok=True)
    run("node", "request", server, request)
    run("node", "approve", inviter, request, approval)
    run("node", "join", server, "--approval", approval, *options)


def names(server: Path) -> list[str]:
    return [each["server"] for each in told("node", "list", server) if not each["removed"]]


def public_folder(server: Path, name: str) -> None:
    with pillarbox.Server.open(server) as opened:
        store = next(each for each in opened.databases() if "Public" in each.name)
        with store.transaction(pillarbox.Actor.administrator("test")) as txn:
            pillarbox.public_folders.create(txn, name)


def test_an_organisation_begins_with_one_server_whose_secrets_are_its_owners(tmp_path: Path) -> None:
    server = first(tmp_path / "b1")
    [row] = told("node", "list", server)
    assert (row["server"], row["site"], row["has_authority"], row["removed"]) == ("b1", "berlin", True, False)
    files = server / "replication-node"
    assert {path.name for path in files.iterdir() if path.stat().st_mode & 0o077 == 0} == {
        "key.pem",
        "authority-key.pem",
    }
    run("org", "init", server, "Again", code=20)


def test_an_organisation_that_was_begun_by_half_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pillarbox.replication.core import organisation_folder

    server = made(tmp_path / "b1")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(organisation_folder, "apply", fail)
        assert CliRunner().invoke(cli, ["org", "init", str(server), "Example"]).exit_code
    authority = MemberFiles(server).authority()
    run("org", "init", server, "Example")
    again = MemberFiles(server).authority()
    assert authority and again and authority.certificate == again.certificate
    assert names(server) == ["b1"]


def test_the_file_of_an_organisation_is_exported_edited_and_applied(tmp_path: Path) -> None:
    server, file = first(tmp_path / "b1"), tmp_path / "example.toml"
    file.write_text(run("org", "export", server).stdout)
    assert told("org", "apply", server, file) == {"differences": []}
    file.write_text(
        file.read_text()
        + '\n[[sites]]\nname = "paris"\n[[connectors]]\nname = "bp"\nsites = ["berlin", "paris"]\ncost = 5\n'
    )
    wanted = told("org", "apply", server, file, "--dry-run")
    assert "site paris: is new" in wanted["differences"]
    assert 'name = "paris"' not in run("org", "export", server).stdout
    assert told("org", "apply", server, file) == wanted
    assert 'name = "paris"' in run("org", "export", server).stdout
    assert names(server) == ["b1"]


def test_a_server_without_a_name_in_the_file_stays_in_the_organisation(tmp_path: Path) -> None:
    b1, b2, file = first(tmp_path / "b1"), made(tmp_path / "b2"), tmp_path / "example.toml"
    approved(b1, b2, "b2")
    file.write_text(run("org", "export", b1).stdout.replace('name = "b2"', 'name = ""'))
    line = file.read_text().split("\n").index('name = ""') + 1
    refused = run("org", "apply", b1, file, code=27)
    assert f"{file}, line {line}: '' cannot be a name" in refused.stderr
    assert names(b1) == ["b1", "b2"]


def test_each_fault_of_a_file_is_told_on_a_line_of_its_own(tmp_path: Path) -> None:
    b1, file = first(tmp_path / "b1"), tmp_path / "example.toml"
    text = run("org", "export", b1).stdout
    file.write_text(text.replace('preset = "prompt"', 'preset = "slow"').replace('"running"', '"halted"'))
    preset, content, hint = run("org", "apply", b1, file, code=27).stderr.splitlines()
    assert preset.startswith(f"pillarbox: {file}, line 4: preset is to be")
    assert content.strip().startswith(f"{file}, line 5: content is to be")
    assert hint.startswith("  nothing was changed")
    file.write_text(text.replace("version = 1", "version = 2"))
    assert f"{file}, line 2: it is of version 2" in run("org", "apply", b1, file, code=25).stderr


def test_a_server_joins_by_files_and_only_with_merge_where_it_has_folders(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1"), made(tmp_path / "b2")
    public_folder(b2, "Forum")
    request, approval = tmp_path / "r", tmp_path / "a"
    run("node", "request", b2, request, "--address", "127.0.0.1:9")
    run("node", "approve", b1, request, approval, "--name", "b1", "--site", "berlin", code=51)
    run("node", "approve", b1, request, approval, "--name", "b2", "--site", "rome", code=40)
    run("node", "approve", b1, request, approval, "--name", "b2", "--site", "berlin")
    run("node", "join", b2, "--approval", approval, code=52)
    run("node", "join", b2, "--approval", approval, "--merge")
    assert names(b1) == names(b2) == ["b1", "b2"]
    assert told("node", "list", b1)[1]["addresses"] == ["127.0.0.1:9"]
    key = (b2 / "replication-node" / "key.pem").read_bytes()
    assert key not in request.read_bytes() + approval.read_bytes()


def test_a_file_that_is_not_there_is_told_as_anywhere_else(tmp_path: Path) -> None:
    server, missing, new = first(tmp_path / "b1"), tmp_path / "missing", tmp_path / "new"
    for words in (
        ("org", "apply", server, missing),
        ("org", "export", server, "--over", missing),
        ("org", "export-ca", server, new, "--passphrase-file", missing),
        ("org", "move-ca", server, missing, "--passphrase-file", missing),
        ("node", "approve", server, missing, new),
        ("node", "join", server, "--approval", missing),
    ):
        told = run(*words, code=40).stderr
        assert f"{missing}: no such file" in told and "spelling" in told
    missing.write_bytes(b"\xff")
    assert "no text in UTF-8" in run("org", "apply", server, missing, code=27).stderr
    assert "cannot be read" in run("node", "approve", server, tmp_path, new, code=27).stderr


def test_an_approval_of_another_server_is_refused(tmp_path: Path) -> None:
    b1, b2, b3 = first(tmp_path / "b1"), made(tmp_path / "b2"), made(tmp_path / "b3")
    approved(b1, b2, "b2")
    run("node", "join", b3, "--approval", tmp_path / "b2.approval", code=24)
    other = first(tmp_path / "other")
    run("node", "request", other, tmp_path / "o")
    run("node", "approve", b1, tmp_path / "o", tmp_path / "x", "--name", "o", "--site", "berlin", code=24)


def test_a_member_gets_another_certificate_in_the_same_way(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1"), made(tmp_path / "b2")
    approved(b1, b2, "b2")
    before = MemberFiles(b2).certificate()
    run("node", "request", b2, tmp_path / "again")
    run("node", "approve", b1, tmp_path / "again", tmp_path / "answer")
    run("node", "join", b2, "--approval", tmp_path / "answer")
    after = MemberFiles(b2).certificate()
    assert before and after and before != after and after.database == before.database
    assert names(b1) == ["b1", "b2"]


def test_a_server_is_retired_once_it_holds_nothing(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1"), made(tmp_path / "b2")
    approved(b1, b2, "b2")
    public_folder(b1, "Forum")
    run("replica", "add", b1, "Forum", "b2")
    refused = run("node", "retire", b1, "b2", "--yes", code=20)
    assert "Forum" in refused.stderr
    run("node", "retire", b1, "b1", "--yes", code=20)
    run("node", "retire", b1, "b2", "--lost", typed="n\n", code=20)
    run("node", "retire", b1, "b2", "--lost", "--yes")
    assert names(b1) == ["b1"]
    run("node", "request", b2, tmp_path / "again")
    run(
        "node", "approve", b1, tmp_path / "again", tmp_path / "x", "--name", "b2", "--site", "berlin", code=20
    )


def test_of_the_folders_that_keep_a_server_ten_are_named_and_json_has_all_paths(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1"), made(tmp_path / "b2")
    approved(b1, b2, "b2")
    public_folder(b1, "Lists")
    paths = [f"Lists/List {number:02}" for number in range(12)]
    for path in paths:
        run("folder", "create", b1, "/", path)
    run("replica", "add", b1, "Lists", "b2", "--recursive")
    refused = run("node", "retire", b1, "b2", "--yes", code=20)
    assert "server b2 holds replicas of Lists, Lists/List 00," in refused.stderr
    assert "Lists/List 08 and 3 more" in refused.stderr and "--json" in refused.stderr
    for command in (("node", "retire", b1, "b2", "--yes"), ("org", "apply", b1, without(b1, "b2"))):
        error = json.loads(run(*command, "--json", code=20).stderr)
        assert error["folders"] == ["Lists", *paths]
    found = told("folder", "find", b1, "/", "--replica", "b2")
    assert sorted(each["folder"] for each in found) == ["Lists", *paths], "as the hint says"
    with serving(b1, tmp_path) as served:
        error = json.loads(run("node", "retire", b1, "b2", "--yes", "--json", code=20).stderr)
        assert error["folders"] == ["Lists", *paths]
        assert served.end(15) == 0


def without(server: Path, name: str) -> Path:
    """The organisation of a server as a file that does not name another one."""
    file = server.parent / f"without-{name}.toml"
    servers = run("org", "export", server).stdout.split("[[servers]]")
    file.write_text("[[servers]]".join(each for each in servers if f'name = "{name}"' not in each))
    return file


def test_the_authority_moves_by_its_export(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1"), made(tmp_path / "b2")
    approved(b1, b2, "b2")
    secret, export = tmp_path / "secret", tmp_path / "authority.pem"
    secret.write_text("a passphrase\n")
    run("org", "export-ca", b1, export, "--passphrase-file", secret)
    assert b"ENCRYPTED" in export.read_bytes() and export.stat().st_mode & 0o077 == 0
    run("org", "export-ca", b2, tmp_path / "none", "--passphrase-file", secret, code=20)
    (tmp_path / "wrong").write_text("another\n")
    run("org", "move-ca", b1, export, "--passphrase-file", tmp_path / "wrong", code=61)
    moved = told("org", "move-ca", b1, export, "--passphrase-file", secret)
    assert moved["renewed"] == 0


def test_a_passphrase_is_asked_for_only_at_a_terminal(tmp_path: Path) -> None:
    b1, export = first(tmp_path / "b1"), tmp_path / "authority.pem"
    for words in (("org", "export-ca", b1, export), ("org", "move-ca", b1, tmp_path / "b1.pem")):
        (tmp_path / "b1.pem").touch()
        told = run(*words, typed="a passphrase\na passphrase\n", code=20)
        assert "no terminal" in told.stderr and "--passphrase-file" in told.stderr
    assert not export.exists()


def test_a_lost_authority_is_replaced_and_all_keys_are_signed_anew(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1"), made(tmp_path / "b2")
    approved(b1, b2, "b2")
    (b1 / "replication-node" / "authority-key.pem").unlink()
    run("node", "invite", b1, "b3", "--site", "berlin", code=20)
    assert told("org", "move-ca", b1, "--new")["renewed"] == 2
    token = told("node", "invite", b1, "b3", "--site", "berlin")["token"]
    assert token.startswith("pillarbox-invitation-1.")


def test_the_token_of_an_invitation_is_all_that_a_program_gets(tmp_path: Path) -> None:
    told = run("node", "invite", first(tmp_path / "b1"), "b2", "--site", "berlin")
    (token,) = told.stdout.splitlines()
    assert token.startswith("pillarbox-invitation-1.") and " " not in token
    assert "pillarbox node join SERVER TOKEN" in told.stderr


def test_a_token_is_kept_as_a_digest_and_good_once(tmp_path: Path) -> None:
    port = free_port()
    b1, b2, b3 = first(tmp_path / "b1", port), made(tmp_path / "b2"), made(tmp_path / "b3")
    listen = ("--listen", "127.0.0.1:0")
    with serving(b1, tmp_path) as served:
        token = told("node", "invite", b1, "b2", "--site", "berlin")["token"]
        joined = told("node", "join", b2, token, *listen)
        assert (joined["server"], joined["organisation"]) == ("b2", "Example")
        run("node", "join", b2, token, *listen)  # cut off in the middle, it is tried again
        assert "was used" in run("node", "join", b3, token, *listen, code=24).stderr
        assert names(b1) == names(b2) == ["b1", "b2"]
        (elsewhere := tmp_path / "elsewhere").mkdir()
        with serving(b2, elsewhere):
            run("replication", "status", b2, "--wait", "30")
            (b2 / "replication-node" / "first-entries").unlink()
            assert "b1" in run("org", "export", b2).stdout  # it came with the hierarchy
        served.end(15)
    run("node", "join", b3, token, *listen, code=13)  # nobody answers


def test_a_server_that_joins_again_listens_where_it_did(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1", free_port()), made(tmp_path / "b2")
    with serving(b1, tmp_path) as served:
        token = told("node", "invite", b1, "b2", "--site", "berlin")["token"]
        run("node", "join", b2, token, "--listen", "127.0.0.1:1")
        run("node", "join", b2, token)
        assert MemberFiles(b2).settings().listen == ("127.0.0.1:1",)
        served.end(15)
    approved_again(b1, b2)
    assert MemberFiles(b2).settings().listen == ("127.0.0.1:1",)
    approved_again(b1, b2, "--listen", "127.0.0.1:2")
    assert MemberFiles(b2).settings().listen == ("127.0.0.1:2",)


def test_a_server_that_only_dials_still_does_when_it_joins_again(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1"), made(tmp_path / "b2")
    approved(b1, b2, "b2")
    files = MemberFiles(b2)
    assert files.settings().listen == ("0.0.0.0:7337",)
    files.keep_settings(files.settings()._replace(listen=()))
    approved_again(b1, b2)
    assert files.settings().listen == ()
    (b2 / "replication-node" / "node.toml").write_text(
        'format = "pillarbox-node"\nversion = 1\nspool = "s"\n'
    )
    approved_again(b1, b2)  # nothing was said of where it listens
    assert files.settings() == NodeSettings(("0.0.0.0:7337",), "s")


def test_an_organisation_begins_beside_a_serving_process_too(tmp_path: Path) -> None:
    server, port = made(tmp_path / "b1"), free_port()
    address = f"127.0.0.1:{port}"
    with serving(server, tmp_path) as served:
        run("org", "init", server, "Example", "--address", address, "--listen", address)
        assert "runs" in served.logged("replication of")["text"]
        token = told("node", "invite", server, "b2", "--site", "main")["token"]
        with socket.create_connection(("127.0.0.1", port)):  # it listens
            assert token
        secret, export = tmp_path / "secret", tmp_path / "authority.pem"
        secret.write_text("a passphrase")
        run("org", "export-ca", server, export, "--passphrase-file", secret)
        assert b"ENCRYPTED" in export.read_bytes()
        assert served.end(15) == 0


def test_a_dry_run_says_that_a_server_still_holds_replicas(tmp_path: Path) -> None:
    b1, b2 = first(tmp_path / "b1"), made(tmp_path / "b2")
    request, approval = tmp_path / "r", tmp_path / "a"
    run("node", "request", b2, request)
    run("node", "approve", b1, request, approval, "--name", "b2", "--site", "berlin")
    public_folder(b1, "Forum")
    run("replica", "add", b1, "Forum", "b2")
    file = without(b1, "b2")
    refused = run("org", "apply", b1, file, "--dry-run", code=20)
    assert "server b2 holds replicas of Forum" in refused.stderr
    run("org", "apply", b1, file, code=20)
    assert names(b1) == ["b1", "b2"]
    assert told("org", "apply", b1, file, "--dry-run", "--lost", "b2")["differences"]
    assert names(b1) == ["b1", "b2"]
