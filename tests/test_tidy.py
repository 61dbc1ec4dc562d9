"""The rules of CONTRIBUTING.md that a program can check: who imports whom, where the world comes in, names,
and that what the documents list is what the code has.

Every failure says what to do. Nothing here imports what it checks, except to compare it with the documents.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from pillarbox.store import errors
from pillarbox.store.disk import tables
from pillarbox.store.events import EVENTS, EventId

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pillarbox", "store", "backup", "replication", "tools")

# What each package may import of the others.
MAY_IMPORT = {
    "pillarbox": {"store", "tools"},
    "store": {"store"},
    "backup": {"backup", "store"},
    "replication": {"replication", "store"},
    "tools": {"tools", "backup", "replication", "store"},
}

# The rooms of each package from the ground up; a module imports from its own room or those below. A list of
# modules is a room without a folder of its own: what all others stand on, or the face above them; "." is
# the rest of those.
GROUND = (
    "access arguments batches change_number clock errors events hybrid_clock ids local_time names toml_text"
)
FACE = "aio mailbox_directory server server_config server_lock server_rebuild storage_group"
ROOMS = {
    "store": (GROUND, "disk", "content", "engine", "mail", "upkeep", "files", FACE),
    "backup": ("repository", ".", "merge"),
    "replication": (
        "ground",
        "wire",
        "organisation",
        "core",
        "membership",
        "transports",
        "node",
        "simulation",
    ),
    "tools": (".", "operations", "serving", "commands", "bench", "cli main"),
}


class Seam(NamedTuple):
    """A way in which the outside comes in: what uses it, who may, and what all others do instead."""

    uses: str
    allowed: dict[str, str]
    instead: str


# A folder stands for all in it. Keep the reasons true: a module that needs its place no more is reported.
SEAMS = {
    "time": Seam(
        r"(time|sched)(\..*)?|datetime\.datetime\.(now|utcnow|today)|datetime\.date\.today|asyncio\.sleep",
        {
            "store/clock.py": "the machine's clock",
            "tools/bench/": "measures",
            "tools/serving/control.py": "how long operations take, for the metrics",
        },
        "take a `Clock` (store/clock.py), or return when to be called again",
    ),
    "randomness": Seam(
        r"random\.(?!Random$).*|secrets(\..*)?|uuid\.uuid[1-8]|os\.(urandom|getrandom)",
        {
            "store/disk/checkpoint.py": "the identity of a boot, where the system has none",
            "store/engine/database.py": "GUIDs, for who passes in no source of them",
            "store/server.py": "GUIDs, for who passes in no source of them",
            "tools/operations/membership.py": "secrets of invitations, GUIDs of trees",
            "tools/commands/restore.py": "GUIDs of a server that is a copy",
            "backup/repository/crypto.py": "keys and salts; everything else takes its `Entropy`",
        },
        "take a `random.Random`, or in backup/ an `Entropy`",
    ),
    "lmdb": Seam(
        r"lmdb(\..*)?",
        {
            "store/disk/env.py": "the engine",
            "store/disk/tables_child.py": "LMDB's verifier, in a process of its own",
            "tools/bench/": "compares with bare LMDB",
        },
        "use `Env` (store/env.py)",
    ),
    "disk": Seam(
        # "writes" is what `_written_files` finds.
        r"writes|os\.(replace|rename|renames|link|symlink|remove|unlink|truncate|ftruncate|pwrite|write|mkdir|"
        r"makedirs|rmdir|posix_fallocate)|shutil\.(?!disk_usage$).*|tempfile(\..*)?|mmap(\..*)?",
        {
            "store/disk/env.py": "the property file",
            "store/disk/stream.py": "the segments",
            "store/disk/checkpoint.py": "small files replaced atomically",
            "store/disk/mailbox_names.py": "the names of the mailboxes of each database",
            "store/upkeep/last_backup.py": "what is known of the backups of a database that is deleted",
            "store/engine/database.py": "the folder of a new database",
            "store/engine/tables_compaction.py": "exchanges the property file",
            "store/disk/file_lock.py": "lock files",
            "store/events.py": "the event log",
            "store/files/eml.py": "mail files written by an export",
            "store/files/maildir.py": "mail files written by an export",
            "store/files/exporting.py": "the folder of an export",
            "store/server.py": "the folder of a new storage group, the files of a deleted database",
            "store/upkeep/new_identity.py": "headers of the segments of a copied database",
            "store/upkeep/repair.py": "new tables made beside the old ones",
            "store/upkeep/repair_undo.py": "segments, tables and checkpoint of a repair that was interrupted",
            "store/upkeep/verification.py": "the copy that is verified",
            "store/disk/own_directory.py": "the directory of that copy, which a killed process may leave",
            "store/disk/death_mark.py": "the files that tell how a process ended",
            "store/files/prepare_processes.py": "memory shared with processes, which no disk has",
            "store/content/prepare_child.py": "the other end of that memory",
            "replication/node/member_files.py": "keys, which only their owner may read",
            "replication/transports/spool.py": "frames that wait in a directory",
            "replication/node/fence.py": "what tells of the last mount of a database, outside of it",
            "backup/database_snapshot.py": "an image of the tables on its way to the repository",
            "backup/restore.py": "files of a restored database",
            "backup/new_server.py": "the directory of a server that is made from a repository",
            "backup/salvage.py": "files of a database of which something is damaged",
            "backup/replaced.py": "files that restores replaced",
            "backup/recovery_group.py": "files of databases that leave the recovery storage group",
            "backup/repository/backend_directory.py": "a repository in a directory",
            "tools/new_file.py": "key files, requests and approvals that people carry",
            "tools/main.py": "standard streams that were closed, which lead nowhere",
            "tools/snapshot_replicas.py": "scratch for the records of a snapshot",
            "tools/commands/backup.py": "scratch for what is verified or compared",
            "tools/commands/repository.py": "new key files",
            "tools/serving/socket_place.py": "the control socket, which is no file",
            "tools/bench/": "compares with bare files",
        },
        "use one of these modules, so that a test can put faults under it",
    ),
    "network": Seam(
        r"(socket|ssl|socketserver|http\.client|http\.server|urllib\.request|boto3|botocore|nats)(\..*)?",
        {
            "backup/repository/backend_s3.py": "an object store",
            "replication/transports/direct.py": "connections between members",
            "replication/transports/enrolling.py": "one connection, by which a server joins",
            "replication/transports/nats.py": "a connection to NATS",
            "replication/transports/nats_streams.py": "streams of NATS",
            "tools/serving/notices.py": "notices to systemd",
            "tools/serving/socket_place.py": "the control socket",
            "tools/serving/wire.py": "frames of the control socket",
            "tools/serving/control.py": "the control socket of a serving process",
            "tools/serving/web.py": "HTTP of a serving process",
        },
        "keep what decides apart from what sends, and send in one of these modules",
    ),
    "file watching": Seam(
        r"watchdog(\..*)?",
        {
            "replication/transports/spool.py": "frames that come in a directory",
            "tools/serving/wakes.py": "the settings of a serving process",
        },
        "scan the folder, and let one of these modules wake the scan",
    ),
}

# Public functions of store/mail that ask no right, each with the reason; keep it short.
_LOOKUP = "a lookup of one record: the operation on it asks"
_PART = "a part of operations that asked"
NO_RIGHT_ASKED = {
    "folders.get": _LOOKUP,
    "folders.find": _LOOKUP,
    "folders.by_path": _LOOKUP,
    "folders.path_of": _LOOKUP,
    "mailboxes.get": _LOOKUP,
    "mailboxes.find": _LOOKUP,
    "mailboxes.root": _LOOKUP,
    "public_folders.root_id": _LOOKUP,
    "public_folders.find": _LOOKUP,
    "public_folders.create": "asks by `folders.create`",
    "public_folders.walk": "asks by `folders.walk`",
    "folders.get_or_hidden": _LOOKUP,
    "folders.is_there": _LOOKUP,
    "folders.all_of": _PART,
    "folders.create_as_new": "asks by `folders.create`",
    "folders.insert": _PART,
    "folders.hide": _PART,
    "folders.place_for": _PART,
    "folders.show": _PART,
    "folders.count": _PART,
    "folders.change": _PART,
    "folders.count_in_mailbox": _PART,
    "mailboxes.remove": _PART,
    "messages.get_or_hidden": _LOOKUP,
    "messages.put_into": _PART,
    "messages.take_out": _PART,
    "messages.place": _PART,
    "messages.place_as_new": _PART,
    "messages.place_hidden": _PART,
    "messages.give_uid": _PART,
    "apply_messages.refuse_unjoined": _PART,
    "shown_folders.lost_and_found_id": _LOOKUP,
    "shown_folders.show_changed": _PART,
    "shown_folders.show_new": _PART,
    "shown_folders.show_made": _PART,
    "shown_folders.leave": _PART,
    "replicas.refuse_posts": _PART,
    "replicas.refuse_deletion": _PART,
    **{
        f"versions.{name}": _PART
        for name in (
            *("as_new", "as_changed", "as_resolved", "as_new_folder", "as_changed_folder"),
            *("with_content_cleared", "records_of", "object_ids", "refuse_conflict"),
            *("drop_tombstone", "live_versions", "in_shown_order", "is_in_conflict", "shown_of"),
        )
    },
}

# Words that name nothing of the field; what is meant has a name of its own (CONTRIBUTING.md, "Rules").
# fmt: off
BANNED_WORDS = {
    "manager", "util", "utils", "helper", "helpers", "misc",
    "gossip", "orphan", "orphans", "sandbox", "trash", "gc",
}
# fmt: on

# An exit code belongs to every error that reaches a person; these never leave the engine.
INTERNAL_ERRORS = {"store/disk/env.py": {"MapFull"}}

EXIT_CODES_OF_THE_SHELL = {0, 1, 2}  # done, a fault of the program, wrong usage


class Module(NamedTuple):
    """One source file; `file` is relative to the repository."""

    file: str
    name: str

    @property
    def tree(self) -> ast.Module:
        return parsed(self.file)

    @property
    def package(self) -> str:
        return self.file.split("/")[0]


# By the tests that look into it, and not by each process that collects them: all files take seconds.
@cache
def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_bytes(), file)


@cache
def nodes_of(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Every node of a tree; found once, as most rules look at all of them."""
    return tuple(ast.walk(tree))


@pytest.fixture(autouse=True, scope="module")
def trees_are_let_go() -> Iterator[None]:
    """They are hundreds of megabytes, which every process that a later test forks would share."""
    yield
    nodes_of.cache_clear()
    parsed.cache_clear()


def modules_of(folder: str) -> tuple[Module, ...]:
    found = []
    # pillarbox/ holds links to the other packages, which are read where they are.
    for path in sorted((ROOT / folder).glob("*.py" if folder == "pillarbox" else "**/*.py")):
        file = path.relative_to(ROOT).as_posix()
        place = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        name = place if folder == "pillarbox" else f"pillarbox.{place}"
        found.append(Module(file, name))
    return tuple(found)


MODULES = tuple(module for package in PACKAGES for module in modules_of(package))
SUITE = modules_of("tests")
OWN_NAMES = frozenset(module.name for module in MODULES)


def assert_none(found: Iterable[str]) -> None:
    if lines := list(dict.fromkeys(found)):
        pytest.fail("\n".join(lines), pytrace=False)


# --- imports ------------------------------------------------------------------------------------------------


def imported(node: ast.Import | ast.ImportFrom, names: frozenset[str]) -> list[str]:
    """The modules an import statement loads; `names` are those of our own modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    source = node.module or ""
    # `from package import x`: a module of that name, or something in the package.
    full = [f"{source}.{alias.name}" for alias in node.names]
    return [each if each in names else source for each in full]


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in nodes_of(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def imports_at_load(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run when the module is loaded: not those in functions or for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_at_load(node)


def own_imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, name) of every module of ours that a module imports, anywhere in it."""
    for node in imports(module.tree):
        for name in imported(node, OWN_NAMES):
            if name.startswith("pillarbox."):
                yield node.lineno, name


def test_packages_import_only_downwards() -> None:
    assert_none(
        f"{module.file}:{line}: {module.package} must not import {name}: "
        f"the order is tools -> backup and replication -> store"
        for module in MODULES
        for line, name in own_imports(module)
        if name.split(".")[1] not in MAY_IMPORT[module.package]
    )


def rank_of(name: str) -> int | None:
    """The place of a module in the order of the rooms of its package; None where a package has no rooms."""
    _, package, place, *inner = [*name.split("."), "", ""]
    rooms = ROOMS.get(package, ())
    if any(inner):
        return rooms.index(place) if place in rooms else None
    named = [rank for rank, room in enumerate(rooms) if place in room.split()]
    return named[0] if named else rooms.index(".") if "." in rooms else None


def test_every_module_has_a_room() -> None:
    assert_none(
        f"{module.file} is in no room: move it into one, or name it in ROOMS of tests/test_tidy.py"
        for module in MODULES
        if module.package in ROOMS
        and not module.file.endswith("__init__.py")
        and rank_of(module.name) is None
    )
    assert_none(
        f"store/{name}.py is not there: take {name!r} out of ROOMS in tests/test_tidy.py"
        for name in f"{GROUND} {FACE}".split()
        if f"pillarbox.store.{name}" not in OWN_NAMES
    )


def test_modules_import_from_their_room_or_below() -> None:
    def wrong() -> Iterator[str]:
        for module in MODULES:
            rank = rank_of(module.name)
            for line, name in own_imports(module) if rank is not None else ():
                target = rank_of(name)
                if target is not None and target > rank and name.split(".")[1] == module.package:
                    yield (
                        f"{module.file}:{line}: imports {name} of a room above: move what is needed down, or "
                        "pass it in"
                    )

    assert_none(wrong())


def test_replication_knows_only_the_ground_of_the_store() -> None:
    ground = {f"pillarbox.store.{name}" for name in GROUND.split()}
    assert_none(
        f"{module.file}:{line}: {name} is not of the store's ground: let the caller pass in what is needed"
        for module in MODULES
        if module.package == "replication" and not module.file.startswith("replication/node/")
        for line, name in own_imports(module)
        if name.startswith("pillarbox.store") and name not in ground
    )


def test_a_room_says_what_belongs_in_it_and_exports_nothing() -> None:
    rooms = [
        module for module in MODULES if module.file.count("/") == 2 and module.file.endswith("__init__.py")
    ]
    assert_none(
        f"{module.file} is to hold its docstring and nothing else"
        for module in rooms
        if len(module.tree.body) != 1 or not ast.get_docstring(module.tree)
    )


def test_no_import_cycles() -> None:
    needs = {
        module.name: {name for node in imports_at_load(module.tree) for name in imported(node, OWN_NAMES)}
        & OWN_NAMES
        for module in MODULES
    }
    # What needs nothing that is left is in no cycle; whatever stays is in one or leads into one.
    left = dict(needs)
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    assert_none(
        f"{name} is in or above an import cycle with {sorted(left[name] & left.keys())}" for name in left
    )


ROOMS_THAT_THREADS_SHARE = ("store/disk/", "store/content/", "store/engine/", "store/mail/")


def test_what_threads_share_is_loaded_before_they_run() -> None:
    """An import that an interrupt ends in one thread can leave Python's lock of the module held, for ever."""
    assert_none(
        f"{module.file}:{node.lineno}: import it at the module's head, or do what needs it elsewhere"
        for module in MODULES
        if module.file.startswith(ROOMS_THAT_THREADS_SHARE)
        for function in nodes_of(module.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in imports(function)
    )


def test_no_star_imports() -> None:
    assert_none(
        f"{module.file}:{node.lineno}: import the names that are used"
        for module in MODULES + SUITE
        for node in imports(module.tree)
        if any(alias.name == "*" for alias in node.names)
    )


def test_packages_are_imported_under_their_one_name() -> None:
    assert_none(
        f"{module.file}:{node.lineno}: import {name} as pillarbox.{name}: without it there are two copies"
        for module in MODULES + SUITE
        for node in imports(module.tree)
        for name in imported(node, frozenset())
        if name.split(".")[0] in PACKAGES and not name.startswith("pillarbox")
    )


def test_imports_are_absolute() -> None:
    assert_none(
        f"{module.file}:{node.lineno}: import it by its full name, pillarbox...."
        for module in MODULES + SUITE
        for node in imports(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    )


# --- seams --------------------------------------------------------------------------------------------------


def meanings(tree: ast.Module) -> dict[str, str]:
    """What each imported name of a module means, in full: `datetime` -> `datetime.datetime`."""
    known = {}
    for node in imports(tree):
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif alias.asname:
                known[alias.asname] = alias.name
            else:
                known[alias.name.split(".")[0]] = alias.name.split(".")[0]
    return known


def full_name(node: ast.expr, known: dict[str, str]) -> str:
    """The full name of an expression like `datetime.now`, or "" when it is not one of something imported."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, known)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def outside_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything from outside that a module imports or names."""
    known = meanings(tree)
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            # A module that may be used in part is imported as a whole: its uses are looked at one by one.
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and (name := full_name(node, known)):
            yield node.lineno, name
        elif isinstance(node, ast.Call) and _writes_a_file(node, known):
            yield node.lineno, "writes"


_WRITING_METHODS = frozenset({"write_bytes", "write_text", "mkdir", "unlink", "rmdir", "touch"})


def _writes_a_file(call: ast.Call, known: dict[str, str]) -> bool:
    """Whether a call opens a file to write, or is one of pathlib's that change what is on the disk."""
    name = full_name(call.func, known)
    if name == "os.open":
        return "os.O_RDONLY" not in ast.unparse(call)
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        return _is_writing_mode(call, 1)
    if not isinstance(call.func, ast.Attribute) or name:
        return False
    if call.func.attr == "open":
        return _is_writing_mode(call, 0)
    # A path's take one argument: str.replace takes two, datetime's named ones, who renames a mailbox says so.
    renames = call.func.attr in ("rename", "replace") and len(call.args) == 1 and not call.keywords
    return renames or call.func.attr in _WRITING_METHODS


def _is_writing_mode(call: ast.Call, place: int) -> bool:
    modes = [each.value for each in call.keywords if each.arg == "mode"] + call.args[place : place + 1]
    # `Stream.open(directory, ...)` and the like are no files: a mode is a short text.
    texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    return any(re.fullmatch(r"[rwaxbt+]{1,4}", text) and set(text) & set("wax+") for text in texts)


@cache
def all_outside_uses() -> tuple[tuple[Module, int, str], ...]:
    return tuple((module, line, name) for module in MODULES for line, name in outside_uses(module.tree))


def seam_uses(seam: Seam) -> Iterator[tuple[Module, int, str]]:
    pattern = re.compile(seam.uses)
    return ((module, line, name) for module, line, name in all_outside_uses() if pattern.fullmatch(name))


def _is_allowed(module: Module, seam: Seam) -> bool:
    return any(
        module.file == place or (place[-1] == "/" and module.file.startswith(place)) for place in seam.allowed
    )


@pytest.mark.parametrize("seam", SEAMS.values(), ids=SEAMS)
def test_the_outside_comes_in_only_through_its_seams(seam: Seam) -> None:
    assert_none(
        f"{module.file}:{line}: {name} is for {', '.join(seam.allowed) or 'nobody'}: {seam.instead}; or list "
        "the module in SEAMS of tests/test_tidy.py with the reason"
        for module, line, name in seam_uses(seam)
        if not _is_allowed(module, seam)
    )


@pytest.mark.parametrize("seam", SEAMS.values(), ids=SEAMS)
def test_no_seam_is_wider_than_it_need_be(seam: Seam) -> None:
    used = {module.file for module, _, _ in seam_uses(seam)}
    assert_none(
        f"{place} no longer needs its place in SEAMS of tests/test_tidy.py"
        for place in seam.allowed
        if not place.endswith("/") and place not in used
    )


@pytest.mark.parametrize(
    ("code", "seam"),
    [
        ("import time", "time"),
        ("from time import monotonic", "time"),
        ("from datetime import datetime as d\nd.now()", "time"),
        ("import random\nrandom.choice([1])", "randomness"),
        ("import os\nos.urandom(3)", "randomness"),
        ("import uuid\nmake = uuid.uuid4", "randomness"),
        ("import lmdb", "lmdb"),
        ("open(name, 'wb')", "disk"),
        ("path.open(mode='r+b')", "disk"),
        ("path.replace(other)", "disk"),
        ("import os\nos.open(name, os.O_RDWR)", "disk"),
        ("import os\nos.replace(a, b)", "disk"),
        ("from socket import socket", "network"),
        ("from watchdog.observers import Observer", "file watching"),
    ],
)
def test_what_a_seam_is_for_is_found(code: str, seam: str) -> None:
    assert [name for _, name in outside_uses(ast.parse(code)) if re.fullmatch(SEAMS[seam].uses, name)]


@pytest.mark.parametrize(
    "code",
    [
        "import random\nrng: random.Random",
        "from datetime import datetime, time\nat = datetime.combine(day, time(5)).replace(fold=1)",
        "open(name, 'rb')\npath.open('rb')\ntext.replace('a', 'b')",
        "import os\nos.open(name, os.O_RDONLY)",
        "clock.sleep_ms(5)\nclock.now_ms()",
    ],
)
def test_what_is_no_outside_use_is_left_alone(code: str) -> None:
    uses = "|".join(f"({seam.uses})" for seam in SEAMS.values())
    assert not [name for _, name in outside_uses(ast.parse(code)) if re.fullmatch(uses, name)]


# --- rights -------------------------------------------------------------------------------------------------


def operations(module: Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Each public function of a module that takes a transaction first, as `module.function`."""
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.args.args:
            kind = node.args.args[0].annotation
            if kind is not None and ast.unparse(kind) in ("Reader", "ReadTransaction", "WriteTransaction"):
                yield f"{module.name.rpartition('.')[2]}.{node.name}", node


def asks_first(function: ast.FunctionDef) -> bool:
    """Whether the first call that is given the transaction, or is a method of it, is one of `rights`."""
    transaction = function.args.args[0]
    needed = (
        "require_change"
        if ast.unparse(transaction.annotation or function) == "WriteTransaction"
        else "require"
    )
    calls = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and any(
            isinstance(given, ast.Name) and given.id == transaction.arg
            for given in (*node.args, node.func.value if isinstance(node.func, ast.Attribute) else node.func)
        )
    ]
    first = min(calls, key=lambda call: (call.lineno, call.col_offset), default=None)
    return first is not None and ast.unparse(first.func) == needed


@cache
def operations_on_mail() -> dict[str, tuple[Module, ast.FunctionDef]]:
    return {
        name: (module, node)
        for module in MODULES
        if module.file.startswith("store/mail/") and not module.file.endswith("/rights.py")
        for name, node in operations(module)
    }


def test_every_operation_on_mail_asks_for_a_right_first() -> None:
    assert_none(
        f"{module.file}:{node.lineno}: {name} is to begin with `require`, or `require_change` where it "
        "changes something (store/mail/rights.py)"
        for name, (module, node) in operations_on_mail().items()
        if name not in NO_RIGHT_ASKED and not asks_first(node)
    )


def test_no_operation_is_let_off_that_asks_or_is_gone() -> None:
    assert_none(
        f"{name} no longer needs its place in NO_RIGHT_ASKED of tests/test_tidy.py"
        for name in NO_RIGHT_ASKED
        if name not in operations_on_mail() or asks_first(operations_on_mail()[name][1])
    )


@pytest.mark.parametrize(
    ("body", "asks"),
    [
        ("require_change(txn, Right.EDIT_ALL, message_id)\n    txn.next_cn()", True),
        ("for guid in guids:\n        require_change(txn, Right.EDIT_ALL, guid)", True),
        ("txn.next_cn()\n    require_change(txn, Right.EDIT_ALL, message_id)", False),
        ("get(txn, message_id)\n    require_change(txn, Right.EDIT_ALL, message_id)", False),
        ("require(txn, Right.EDIT_ALL, message_id)", False),
        ("pass", False),
    ],
)
def test_an_operation_that_does_not_ask_first_is_found(body: str, asks: bool) -> None:
    function = ast.parse(f"def delete(txn: WriteTransaction) -> None:\n    {body}").body[0]
    assert isinstance(function, ast.FunctionDef) and asks_first(function) is asks


# --- names --------------------------------------------------------------------------------------------------


RECORD_NAMES = {kind.__name__ for kind in (*tables.RECORD_TYPES.values(), *tables.META_TYPES.values())}


def test_records_are_built_by_the_names_of_their_fields() -> None:
    """A record may gain fields, so that a place among them says nothing to who reads the code later."""
    assert_none(
        f"{module.file}:{node.lineno}: give every field of {node.func.id} by its name"
        for module in MODULES
        for node in nodes_of(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in RECORD_NAMES and node.args
    )


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in nodes_of(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def words_of(name: str) -> list[str]:
    """The words of a snake_case or CamelCase name."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")


def test_names_are_those_of_the_field() -> None:
    named = [
        (module.file, line, name)
        for module in MODULES + SUITE
        for line, name in [
            *defined_names(module.tree),
            *((1, part) for part in Path(module.file).with_suffix("").parts),
        ]
    ]
    assert_none(
        f"{file}:{line}: {name}: call it what it is; see CONTRIBUTING.md, Rules"
        for file, line, name in named
        if BANNED_WORDS.intersection(words_of(name))
    )


# --- sentences ----------------------------------------------------------------------------------------------


NO_SUBJECTS = {"what", "which", "who", "whose", "whether", "how", "this", "those"}


def riddles(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, first word) of each docstring that begins with a word that names no thing."""
    for node in nodes_of(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].lower() in NO_SUBJECTS:
                yield node.body[0].lineno, words[0]


def test_a_docstring_begins_with_a_verb_or_the_thing() -> None:
    assert_none(
        f"{module.file}:{line}: begin with what it does, or with the thing that it is, not with {word}"
        for module in MODULES
        for line, word in riddles(module.tree)
    )


@pytest.mark.parametrize("text", ["Whether it is.", "What it is.", "This thing.", "How\n    many."])
def test_a_docstring_that_begins_with_no_thing_is_found(text: str) -> None:
    function = f'def f() -> None:\n    """{text}"""'
    assert len(list(riddles(ast.parse(function)))) == len(list(riddles(ast.parse(f'"""{text}"""')))) == 1


# --- errors -------------------------------------------------------------------------------------------------


def error_classes() -> list[type[errors.PillarboxError]]:
    return [
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, errors.PillarboxError)
    ]


def test_every_error_has_an_exit_code_of_its_own() -> None:
    taken = dict.fromkeys(EXIT_CODES_OF_THE_SHELL, "the shell") | dict.fromkeys(
        errors.RETIRED_EXIT_CODES, "an error that was retired"
    )
    for each in error_classes():
        assert "exit_code" in vars(each), f"{each.__name__} has no exit code of its own"
        other = taken.setdefault(each.exit_code, each.__name__)
        assert other == each.__name__, f"exit code {each.exit_code} of {each.__name__} belongs to {other}"
        assert each.exit_code < 126, f"{each.__name__}: shells use codes from 126 on"


def test_errors_are_defined_in_one_place() -> None:
    def defined() -> Iterator[tuple[Module, ast.ClassDef]]:
        for module in MODULES:
            known = meanings(module.tree)
            for node in nodes_of(module.tree):
                if isinstance(node, ast.ClassDef) and any(
                    full_name(base, known).startswith("pillarbox.store.errors.") for base in node.bases
                ):
                    yield module, node

    assert_none(
        f"{module.file}:{node.lineno}: {node.name} belongs into store/errors.py, with an exit code"
        for module, node in defined()
        if node.name not in INTERNAL_ERRORS.get(module.file, ())
    )


# --- documents ----------------------------------------------------------------------------------------------


def rows(document: str, section: str) -> list[list[str]]:
    """The cells of every table row of a section of a document, headings left out, code marks taken off."""
    text = (ROOT / "docs" / document).read_text()
    found = re.search(rf"^#+ {re.escape(section)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/{document} has no section {section!r}"
    lines = [line for line in found[1].splitlines() if line.startswith("|") and not line.startswith("|--")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def assert_documented(
    documented: Iterable[tuple[str, ...]], present: Iterable[tuple[str, ...]], where: str
) -> None:
    stated, real = set(documented), set(present)
    missing = [f"{where} must have the row | {' | '.join(row)} |" for row in sorted(real - stated)]
    wrong = [f"{where} has | {' | '.join(row)} |, which is not so" for row in sorted(stated - real)]
    assert_none(missing + wrong)


def test_every_error_is_documented() -> None:
    assert_documented(
        (tuple(row[:4]) for row in rows("operations.md", "Exit codes") if row[0].isdigit()),
        (
            (
                str(each.exit_code),
                each.__name__,
                each.__bases__[0].__name__ if each is not errors.PillarboxError else "",
                "yes" if each.retryable else "no",
            )
            for each in error_classes()
        ),
        "docs/operations.md, Exit codes,",
    )


def test_every_event_is_documented() -> None:
    assert_documented(
        (tuple(row) for row in rows("operations.md", "Events") if row[0].isdigit()),
        (
            (
                str(int(each)),
                each.name,
                str(kind.severity),
                str(kind.category),
                kind.level.name.lower(),
                kind.text,
            )
            for each in EventId
            for kind in [EVENTS[each]]
        ),
        "docs/operations.md, Events,",
    )


def test_every_module_of_the_store_is_documented() -> None:
    assert_documented(
        (
            (str(rank), name)
            for rank, row in enumerate(rows("architecture.md", "Parts")[1:])
            for name in re.findall(r"`(\w+)`", f"`{row[1]}`")
        ),
        (
            (str(rank_of(module.name)), module.name.rpartition(".")[2])
            for module in MODULES
            if module.package == "store" and not module.file.endswith("__init__.py")
        ),
        "docs/architecture.md, Parts,",
    )


def test_every_table_is_documented() -> None:
    assert_documented(
        (tuple(row[:3]) for row in rows("format.md", "Tables") if row[0].isdigit()),
        (
            (str(int(each)), each.name.lower(), "derived" if each in tables.DERIVED else "primary")
            for each in tables.Table
        ),
        "docs/format.md, Tables,",
    )


RECORDS = [*tables.RECORD_TYPES.values(), *tables.META_TYPES.values()]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_a_record_is_documented(record: type[tables.Record]) -> None:
    section = re.sub(r"(?<!^)(?=[A-Z])", " ", record.__name__).capitalize()
    documented = [row[1] for row in rows("format.md", section) if row[0].isdigit()]
    assert documented == list(record._fields), f"docs/format.md, {section}, is to list these fields"


def test_sections_that_the_code_points_to_exist() -> None:
    def dangling() -> Iterator[str]:
        for module in MODULES:
            text = re.sub(r"\s*\n[\s#]*", " ", (ROOT / module.file).read_text())
            for document, section in re.findall(r'(docs/[\w-]+\.md)(?:, "([^"]+)")?', text):
                path = ROOT / document
                if not path.exists():
                    yield f"{module.file} points to {document}, which is not there"
                elif section and not re.search(rf"^#+ {re.escape(section)}$", path.read_text(), re.MULTILINE):
                    yield f"{module.file} points to a section {section!r} that {document} does not have"

    assert_none(dangling())
