"""The options of commands on a backup repository: where it lies, what opens it, which snapshot is meant."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pillarbox.store.clock import Clock, SystemClock
from pillarbox.store.errors import InvalidSetting, NotFound, PillarboxError, WrongKey
from pillarbox.tools.given_file import read_given_text
from pillarbox.tools.output import warn

if TYPE_CHECKING:
    from pillarbox.backup.repository.backend import Backend
    from pillarbox.backup.repository.crypto import Credential
    from pillarbox.backup.repository.repository import Repository

PASSPHRASE: Final = "PILLARBOX_PASSPHRASE"
S3: Final = "s3://"
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])

REPOSITORY = click.argument("repo")
SNAPSHOT = click.argument("snapshot")
GROUP = click.option("--group", "group_name", help="The storage group that is meant, when there are several.")
DATABASES = click.option(
    "--database", "names", multiple=True, help="Only this database of the snapshot; may be said again."
)
OF = click.option(
    "--of", metavar="NAME|ID", help="The server that is meant, when the repository holds several."
)
OF_ANOTHER = click.option(
    "--of", metavar="NAME|ID", help="Of that other server: its mail is meant to come to this one."
)


def keys(command: _FunctionT) -> _FunctionT:
    """The options `passphrase_file` and `key_file` of a command on a repository."""
    file = click.Path(path_type=Path, dir_okay=False, readable=False)
    for option in (
        click.option("--key-file", type=file, help="The key file that opens REPO."),
        click.option(
            "--passphrase-file", type=file, help=f"A file with the passphrase; else ${PASSPHRASE} has it."
        ),
    ):
        command = option(command)
    return command


def is_directory(repo: str) -> bool:
    """True when `repo` names a directory, there or not, and no object store."""
    return not repo.startswith(S3)


def location_of(repo: str) -> str:
    """A repository's place as it is written down for later: a directory by its full path."""
    return str(Path(repo).resolve()) if is_directory(repo) else repo


def connect(repo: str, clock: Clock) -> Backend:
    """The directory or `s3://bucket/prefix` that `repo` names.

    Raises InvalidSetting without a bucket and without boto3.
    """
    from pillarbox.backup.repository.backend_directory import DirectoryBackend
    from pillarbox.backup.repository.backend_retry import RetryBackend

    if is_directory(repo):
        return DirectoryBackend(Path(repo))
    if repo.removeprefix(S3).startswith("/") or repo == S3:
        raise InvalidSetting(f"{repo} names no bucket", hint="say s3://BUCKET/PREFIX")
    from pillarbox.backup.repository.backend_s3 import S3Backend

    bucket, _, prefix = repo.removeprefix(S3).partition("/")
    return RetryBackend(S3Backend.connect(bucket, prefix), clock, random.Random())


def given_credential(passphrase_file: Path | None, key_file: Path | None) -> Credential | None:
    """The credential that a person gave to open a repository, or None. Raises NotFound, InvalidSetting."""
    from pillarbox.backup.repository.crypto import KeyFile, Passphrase

    if key_file is not None:
        return KeyFile.parse(read_given_text(key_file))
    if passphrase_file is not None:
        return Passphrase(read_given_text(passphrase_file).rstrip("\r\n"))
    if PASSPHRASE in os.environ:
        return Passphrase(os.environ[PASSPHRASE])
    return None


def open_repository(
    repo: str,
    passphrase_file: Path | None,
    key_file: Path | None,
    *,
    no_encryption: bool = False,
    only_reads: bool = False,
) -> Repository:
    """The repository at `repo`. With `only_reads` it may be where nothing can be written.

    With `no_encryption` it is one without, whatever the environment has as a passphrase for others.
    Raises NotFound, WrongKey, Corrupt, InvalidSetting, UnsupportedVersion.
    """
    from pillarbox.backup.repository.crypto import Unencrypted, secure_entropy
    from pillarbox.backup.repository.lock import LockContext, this_process
    from pillarbox.backup.repository.repository import Repository

    credential = None if no_encryption else given_credential(passphrase_file, key_file)
    clock = SystemClock()
    told = _tell_of_no_lock if only_reads else None
    context = LockContext(clock, secure_entropy, this_process(), without_lock=told)
    try:
        return Repository.open(
            connect(repo, clock), credential or Unencrypted(), clock=clock, context=context
        )
    except NotFound as error:
        raise NotFound(f"there is no repository at {repo}", hint=error.hint) from error
    except WrongKey as error:
        if credential is not None:
            raise
        raise WrongKey(
            f"the repository at {repo} is encrypted",
            hint=f"put its passphrase in {PASSPHRASE} or name a file: --passphrase-file, --key-file",
        ) from error


def _tell_of_no_lock(reason: PillarboxError) -> None:
    warn([f"pillarbox: {reason}; it is read without a lock: let no `backup prune` run meanwhile"])
