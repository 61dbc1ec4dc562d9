"""Backup repositories: init, check, copy; they are commands of `pillarbox backup`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import click

from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import Conflict, InvalidSetting, WrongKey
from pillarbox.tools.options import JSON, PATH
from pillarbox.tools.output import counted, show
from pillarbox.tools.repository_options import (
    GROUP,
    OF,
    PASSPHRASE,
    REPOSITORY,
    connect,
    given_credential,
    is_directory,
    keys,
    location_of,
    open_repository,
)

if TYPE_CHECKING:
    from pillarbox.backup.repository.crypto import Credential, KeyFile
    from pillarbox.backup.repository.repository import Repository

_KEY_FILE_MODE = 0o600


@click.command()
@REPOSITORY
@click.option("--no-encryption", is_flag=True, help="Everybody who reads REPO may read the mail in it.")
@keys
@JSON
def init(
    repo: str, no_encryption: bool, passphrase_file: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """Make a repository at REPO, which must be empty or not there yet.

    A key file that is not there yet is made. Without its passphrase or key file nobody can restore anything.

    \b
    PILLARBOX_PASSPHRASE=... pillarbox backup init /backup/mail
    pillarbox backup init s3://backups/mail --key-file mail.key
    """
    from pillarbox.backup.repository.crypto import Unencrypted
    from pillarbox.backup.repository.repository import Repository

    clock = SystemClock()
    _refuse_occupied(repo)
    credential = _new_credential(no_encryption, passphrase_file, key_file)
    repository = Repository.create(connect(repo, clock), credential, clock=clock)
    encrypted = not isinstance(credential, Unencrypted)
    how = "encrypted" if encrypted else "not encrypted"
    data = {"repository": location_of(repo), "id": repository.id, "encrypted": encrypted}
    show(data, [f"Repository {repository.id} is ready at {repo}, {how}."], as_json)


def _refuse_occupied(repo: str) -> None:
    """Raises Conflict for a directory with other things in it than an interrupted `init` leaves."""
    from pillarbox.backup.repository.backend import FileKind

    own = {*FileKind, "tmp", "lost+found"}
    place = Path(repo)
    if is_directory(repo) and place.is_dir() and any(each.name not in own for each in place.iterdir()):
        raise Conflict(f"{repo} is not empty", hint="name a directory that is empty or not there yet")


def _new_credential(no_encryption: bool, passphrase_file: Path | None, key_file: Path | None) -> Credential:
    from pillarbox.backup.repository.crypto import Unencrypted

    if key_file is not None and not key_file.exists():
        return _new_key_file(key_file)
    credential = given_credential(passphrase_file, key_file)
    if no_encryption and credential is not None:
        raise InvalidSetting(
            "--no-encryption together with a passphrase or key file",
            hint=f"leave out one, or unset {PASSPHRASE}",
        )
    if not no_encryption and credential is None:
        raise InvalidSetting(
            "no passphrase is given",
            hint=f"set {PASSPHRASE}, or say --passphrase-file, --key-file or --no-encryption",
        )
    return credential or Unencrypted()


def _new_key_file(path: Path) -> KeyFile:
    from pillarbox.backup.repository.crypto import KeyFile

    key = KeyFile.generate()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _KEY_FILE_MODE)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.format())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InvalidSetting(
            f"no key file can be made at {path}: {error.strerror}",
            hint="name a place in a directory that is there and that you may write to",
        ) from error
    return key


@click.command()
@REPOSITORY
@click.option(
    "--read-data",
    is_flag=False,
    flag_value="100%",
    default="0%",
    help="Read and prove the content too: all of it, or a share, --read-data=10%.",
)
@keys
@JSON
@click.pass_context
def check(
    ctx: click.Context,
    repo: str,
    read_data: str,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Prove a repository whole: its structure, and with --read-data every byte. Ends with 0 or, damaged, 1.

    A repository that cannot be written, on a read-only medium, is checked too; no prune may run meanwhile.

    \b
    pillarbox backup check /backup/mail
    pillarbox backup check /backup/mail --read-data=5%
    """
    from pillarbox.backup.repository.check import check_repository

    share = _share(read_data)
    repository = open_repository(repo, passphrase_file, key_file, only_reads=True)
    report = check_repository(repository, read_data=share, random=Random())
    data = {
        "clean": report.is_whole,
        "damage": [
            {"file": each.file, "message": each.message, "snapshots": list(each.snapshots)}
            for each in report.damage
        ],
        "leftovers": list(report.leftovers),
        "snapshots_checked": report.snapshots_checked,
        "blobs_checked": report.blobs_checked,
        "packs_read": report.packs_read,
    }
    lines = [f"{each.file}: {each.message}{_hits(each.snapshots)}" for each in report.damage]
    if not lines:
        what = f"{counted(report.snapshots_checked, 'snapshot')}, {counted(report.blobs_checked, 'blob')}"
        lines = [f"No damage was found in {what}; {counted(report.packs_read, 'pack')} read."]
    show(data, lines, as_json)
    ctx.exit(0 if report.is_whole else 1)


def _hits(snapshots: Sequence[str]) -> str:
    return f" (hits {', '.join(each[:8] for each in snapshots)})" if snapshots else ""


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise InvalidSetting(f"{text!r} is no share of the data", hint="say --read-data=10%") from None
    return share


@click.command()
@REPOSITORY
@click.argument("other")
@click.argument("snapshot", default="")
@GROUP
@OF
@keys
@click.option("--other-passphrase-file", type=PATH, help="The file with OTHER's passphrase.")
@click.option("--other-key-file", type=PATH, help="The key file that opens OTHER.")
@click.option(
    "--other-no-encryption", is_flag=True, help="OTHER is not encrypted: who reads it reads the mail."
)
@JSON
def copy(
    repo: str,
    other: str,
    snapshot: str,
    group_name: str | None,
    of: str | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    other_passphrase_file: Path | None,
    other_key_file: Path | None,
    other_no_encryption: bool,
    as_json: bool,
) -> None:
    """Copy snapshots into another repository, encrypted anew with its own key; all of them without SNAPSHOT.

    --of and --group choose among all: those of a server, of a storage group.

    What is there already is not copied again. OTHER is opened as REPO is, when nothing else is said.

    \b
    pillarbox backup copy /backup/mail s3://offsite/mail
    pillarbox backup copy /backup/mail /mnt/disk latest --other-key-file disk.key
    """
    from pillarbox.backup.find_snapshot import find_snapshot, in_group
    from pillarbox.backup.repository.repository import copy_snapshots
    from pillarbox.backup.snapshot_owner import choose_server

    apart = other_passphrase_file is not None or other_key_file is not None
    if apart and other_no_encryption:
        raise click.UsageError("say --other-no-encryption, or what opens OTHER, not both")
    source = open_repository(repo, passphrase_file, key_file)
    opened_by = (other_passphrase_file, other_key_file) if apart else (passphrase_file, key_file)
    target = _open_other(other, *opened_by, other_no_encryption)
    if snapshot:
        chosen = [find_snapshot(source, snapshot, group=group_name, of=of)]
    else:
        chosen = source.snapshots() if of is None else choose_server(source.snapshots(), of)
        chosen = chosen if group_name is None else in_group(chosen, group_name)
    before = set(target.snapshot_ids())
    copies = copy_snapshots(source, target, chosen)
    new = [each for each in copies.values() if each not in before]
    data = {"copies": copies, "copied": len(new)}
    present = len(copies) - len(new)
    show(data, [f"{counted(len(new), 'snapshot')} copied, {present} were there already."], as_json)


def _open_other(
    other: str, passphrase_file: Path | None, key_file: Path | None, no_encryption: bool
) -> Repository:
    try:
        return open_repository(other, passphrase_file, key_file, no_encryption=no_encryption)
    except WrongKey as error:
        raise WrongKey(
            f"{other}: {error}",
            hint="say what opens it: --other-passphrase-file, --other-key-file or --other-no-encryption",
        ) from error
