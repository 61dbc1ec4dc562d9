"""Stores that a user would pick instead, on the same messages, each with its durable settings."""

from __future__ import annotations

import mailbox
import shutil
import smtplib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Final

import zstandard

from pillarbox.store.disk.tables import ItemRecord
from pillarbox.tools.bench.report import (
    DOVECOT_IMPORT,
    DOVECOT_LMTP,
    MAILDIR,
    SQLITE_BULK,
    SQLITE_LIST,
    SQLITE_READ,
    SQLITE_SINGLE,
    Figure,
    disk_bytes,
)

_USER: Final = "bulk@example.org"
LMTP_CLIENTS: Final = 8
_LMTP_MESSAGES_MAX: Final = 2000
_DOVECOT_CONF: Final = """base_dir = {home}/run
state_dir = {home}/run
log_path = {home}/log
protocols = lmtp
listen = 127.0.0.1
ssl = no
mail_location = mdbox:{home}/mail/%u
mail_uid = mail
mail_gid = mail
first_valid_uid = 1
first_valid_gid = 1
mail_fsync = optimized
postmaster_address = postmaster@example.org
mail_plugins = zlib
plugin {{
  zlib_save = zstd
}}
passdb {{
  driver = static
  args = password=x
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={home}/mail/h-%u allow_all_users=yes
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0600
  }}
}}
"""


def maildir(root: Path, messages: Sequence[bytes]) -> Figure:
    """The standard library's Maildir: a file a message, each flushed."""
    path = root / "maildir"
    box = mailbox.Maildir(str(path))
    start = time.perf_counter()
    for message in messages:
        box.add(message)
    return _figure(MAILDIR, messages, time.perf_counter() - start, path)


def sqlite(root: Path, messages: Sequence[bytes], batch: int) -> Figure:
    """SQLite with the envelope in columns and the message compressed, `batch` messages a transaction."""
    path = root / f"sqlite-{batch}"
    path.mkdir()
    with closing(sqlite3.connect(path / "mail")) as connection:
        connection.executescript(
            "pragma journal_mode = wal; pragma synchronous = full;"
            "create table m(id integer primary key, size, date, sender, recipients, subject, mid, body blob);"
            "create index by_mid on m(mid); create index by_date on m(date);"
        )
        start = time.perf_counter()
        for at in range(0, len(messages), batch):
            with connection:
                connection.executemany(
                    "insert into m values (?, ?, ?, ?, ?, ?, ?, ?)",
                    _sqlite_rows(at, messages[at : at + batch]),
                )
        seconds = time.perf_counter() - start
        return _figure(SQLITE_SINGLE if batch == 1 else SQLITE_BULK, messages, seconds, path)


def _sqlite_rows(first: int, messages: Sequence[bytes]) -> Iterator[tuple[object, ...]]:
    compress = zstandard.ZstdCompressor(level=3).compress
    parse = BytesHeaderParser().parsebytes
    for number, message in enumerate(messages, first):
        header = parse(message)
        fields = [str(header[name]) for name in ("date", "from", "to", "subject", "message-id")]
        yield (number, len(message), *fields, compress(message))


# Lists, which SQLite has no column for, and what is empty in a store that has joined no organisation.
_UNLISTED: Final = frozenset(
    ("keywords", "categories", "properties", "versions", "conflict_of", "changed", "actor", "stamps")
)


def sqlite_list(root: Path, items: Sequence[ItemRecord]) -> Figure:
    """A SELECT of the columns that a listing of Pillarbox gives, from a table that holds nothing else."""
    columns = [name for name in ItemRecord._fields if name not in _UNLISTED]
    with closing(sqlite3.connect(root / "envelopes")) as connection:
        connection.execute("create table item({})".format(", ".join(f'"{name}"' for name in columns)))
        rows = [tuple(getattr(item, name) for name in columns) for item in items]
        marks = ", ".join("?" * len(columns))
        with connection:
            connection.executemany(f"insert into item values ({marks})", rows)
        start = time.perf_counter()
        count = sum(1 for _ in connection.execute("select * from item order by rowid"))
        return Figure(SQLITE_LIST, count, time.perf_counter() - start)


def sqlite_read(root: Path, messages: Sequence[bytes], order: Sequence[int]) -> Figure:
    """Messages by number, in the order of `order`, from a table that holds them compressed."""
    compress = zstandard.ZstdCompressor(level=3).compress
    inflate = zstandard.ZstdDecompressor().decompress
    with closing(sqlite3.connect(root / "bodies")) as connection:
        connection.execute("create table m(id integer primary key, body blob)")
        with connection:
            connection.executemany(
                "insert into m values (?, ?)", ((at, compress(raw)) for at, raw in enumerate(messages))
            )
        start = time.perf_counter()
        size = 0
        for at in order:
            (body,) = connection.execute("select body from m where id = ?", (at,)).fetchone()
            size += len(inflate(body))
        return Figure(SQLITE_READ, len(order), time.perf_counter() - start, size)


def dovecot_import(root: Path, messages: Sequence[bytes]) -> Figure | None:
    """`doveadm import` of a Maildir into mdbox with zstd; None, with the reason on stderr, where it fails.

    Needs root, Dovecot 2.3, and a `root` that its user mail may look through.
    """
    home = root / "dovecot-import"
    source = home / "source"
    if _has_dovecot():
        home.mkdir()
        box = mailbox.Maildir(str(source))
        for message in messages:
            box.add(message)
    try:
        with _dovecot(home) as conf:
            return _import_into_mdbox(home, conf, source, messages)
    except (OSError, subprocess.CalledProcessError) as error:
        _tell_of_no_figure(DOVECOT_IMPORT, error)
        return None


def dovecot_lmtp(root: Path, messages: Sequence[bytes]) -> Figure | None:
    """Dovecot's LMTP into mdbox with zstd: eight clients, a mailbox each; at most 2,000 of the messages.

    None as `dovecot_import`.
    """
    home = root / "dovecot-lmtp"
    some = messages[:_LMTP_MESSAGES_MAX]

    def deliver(client: int) -> None:
        with smtplib.LMTP(str(home / "run" / "lmtp")) as lmtp:
            for message in some[client::LMTP_CLIENTS]:
                lmtp.sendmail("bench@example.org", [f"user{client}@example.org"], message)

    try:
        with _dovecot(home), ThreadPoolExecutor(LMTP_CLIENTS) as clients:
            start = time.perf_counter()
            for _ in clients.map(deliver, range(LMTP_CLIENTS)):
                pass
            return _figure(DOVECOT_LMTP, some, time.perf_counter() - start, home / "mail")
    except (OSError, subprocess.CalledProcessError) as error:  # of a server that refuses: an OSError, too
        _tell_of_no_figure(DOVECOT_LMTP, error)
        return None


def _tell_of_no_figure(name: str, error: OSError | subprocess.CalledProcessError) -> None:
    told = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
    reason = told.decode(errors="replace").strip() if told else str(error)
    print(f"bench: no figure of {name}: {reason}", file=sys.stderr)


def _has_dovecot() -> bool:
    return all(shutil.which(name) for name in ("dovecot", "doveadm"))


@contextmanager
def _dovecot(home: Path) -> Iterator[Path]:
    """A running Dovecot that keeps its mail below `home`; its configuration. Raises OSError."""
    if not _has_dovecot():
        raise FileNotFoundError("dovecot is not installed")
    (home / "mail").mkdir(parents=True)
    for directory in home.iterdir():
        subprocess.run(["chown", "-R", "mail:mail", str(directory)], check=True, capture_output=True)
    conf = home / "dovecot.conf"
    conf.write_text(_DOVECOT_CONF.format(home=home))
    # A daemon keeps what it inherits open: a pipe here would be waited for until it stops.
    subprocess.run(
        ["dovecot", "-c", str(conf)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(1)
        yield conf
    finally:
        subprocess.run(["doveadm", "-c", str(conf), "stop"], check=False, capture_output=True)


def _import_into_mdbox(home: Path, conf: Path, source: Path, messages: Sequence[bytes]) -> Figure:
    doveadm = ["doveadm", "-c", str(conf)]
    start = time.perf_counter()
    order = [*doveadm, "import", "-u", _USER, f"maildir:{source}", "", "ALL"]
    subprocess.run(order, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    status = [*doveadm, "mailbox", "status", "-u", _USER, "-t", "messages", "*"]
    told = subprocess.run(status, check=True, capture_output=True).stdout.decode().strip()
    if told != f"messages={len(messages)}":
        raise OSError(f"of {len(messages)} messages it has {told}")
    return _figure(DOVECOT_IMPORT, messages, seconds, home / "mail" / _USER)


def _figure(name: str, messages: Sequence[bytes], seconds: float, path: Path) -> Figure:
    return Figure(name, len(messages), seconds, sum(map(len, messages)), disk_bytes(path))
