"""Operations on membership: an organisation, its authority, and the servers in it."""

from __future__ import annotations

import json
import secrets
from base64 import b64decode, b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pillarbox
from pillarbox.store.errors import (
    AccessDenied,
    InvalidContent,
    NotEmpty,
    Refused,
    UnsupportedVersion,
)
from pillarbox.store.ids import GUID_BYTES, guid_text
from pillarbox.tools.mail_rows import Row
from pillarbox.tools.operations.call import Call
from pillarbox.tools.operations.replicating import folder_paths, public_folder_stores, server_named

if TYPE_CHECKING:
    from pillarbox.replication.core.replica import Replica
    from pillarbox.replication.membership.certificates import Authority, Certificate, Key
    from pillarbox.replication.node.member_files import MemberFiles

REQUEST_FORMAT: Final = "pillarbox-node-request"
APPROVAL_FORMAT: Final = "pillarbox-node-approval"
AUTHORITY_FORMAT: Final = "pillarbox-authority"
FILE_VERSION: Final = 1
DEFAULT_LISTEN: Final = ("0.0.0.0:7337",)
_NO_TREE: Final = bytes(GUID_BYTES)


# -- the organisation


def init(
    call: Call, *, organisation: str, name: str, site: str, addresses: list[str], listen: list[str]
) -> Row:
    """Make an organisation of which this server is the first, with the key of its authority."""
    from pillarbox.replication.core import organisation_folder
    from pillarbox.replication.membership.certificates import certify, new_authority
    from pillarbox.replication.node.stored_organisation import joined_tree, stored_entries
    from pillarbox.replication.organisation.topology import Organisation, Server
    from pillarbox.store.names import check_held_name
    from pillarbox.store.upkeep.joining import join

    for each in (organisation, name, site):
        check_held_name(each)
    _check_addresses([*addresses, *listen])
    database, files, now_ms = _store(call)
    with database.read(call.actor) as read:
        joined = joined_tree(read)
        if joined is not None and stored_entries(read, joined):
            raise Refused("the server belongs to an organisation already", hint="see `pillarbox node list`")
    authority = files.authority()
    tree = (
        joined.guid
        if joined
        else authority.certificate.tree
        if authority
        else secrets.token_bytes(GUID_BYTES)
    )
    if authority is None or authority.certificate.tree != tree:
        files.keep_authority(authority := new_authority(tree, now_ms))
    certificate = certify(authority, database.guid, _own_key(files).public_key(), now_ms)
    files.keep_certificate(certificate)
    _keep_listen(files, listen)
    join(database, call.actor, tree)
    first = Organisation(
        {
            database.guid: Server(
                database.guid, name, site, 0, addresses=tuple(addresses), certificates=(certificate.der,)
            )
        },
        sites=(site,),
        authorities=(authority.certificate.der,),
        authority_holder=database.guid,
        name=organisation,
    )
    call.replicator().perform(lambda replica: organisation_folder.apply(replica, first, call.actor.account))
    call.membership_changed()
    return {
        "organisation": organisation,
        "tree": guid_text(tree),
        "server": name,
        "guid": guid_text(database.guid),
        "site": site,
        "authority": authority.certificate.fingerprint.hex(),
    }


def apply(call: Call, *, file: str, lost: list[str], dry_run: bool) -> list[str]:
    """Write what differs from the organisation file that is the one item; the differences, in words.

    `lost` are servers that may go though they hold replicas. With `dry_run` nothing is written.
    """
    from pillarbox.replication.core import organisation_folder
    from pillarbox.replication.organisation.organisation_file import parse_organisation

    (text,) = call.items()
    paths = folder_paths(call.server)

    def write(replica: Replica) -> list[str]:
        present = organisation_folder.reading(replica).organisation
        gone = [server_named(replica, name) for name in lost]
        after = parse_organisation(str(text), present, file)
        if dry_run:
            return list(organisation_folder.plan(replica, after, gone, paths))
        return list(organisation_folder.apply(replica, after, call.actor.account, gone, paths))

    return call.replicator().perform(write)


def export_authority(call: Call) -> bytes:
    """The authority with its key, encrypted by the passphrase that is the one item, as PEM."""
    from pillarbox.replication.membership.certificates import key_text
    from pillarbox.replication.node.letting_in import require_authority
    from pillarbox.replication.node.member_files import pem_of

    _, files, _ = _store(call)
    authority = require_authority(files)
    (passphrase,) = call.items()
    key = key_text(authority.key, _bytes(passphrase))
    return f"{AUTHORITY_FORMAT} {FILE_VERSION}\n".encode() + key + pem_of([authority.certificate.der])


def move_authority(call: Call, *, is_new: bool) -> Row:
    """Have this server sign certificates: by the key of an export (two items: file and passphrase), or by a
    new one, with which all members' certificates are made anew."""
    from pillarbox.replication.core import organisation_folder
    from pillarbox.replication.membership.certificates import new_authority
    from pillarbox.replication.node.letting_in import hand_over, renew

    database, files, now_ms = _store(call)
    certificate = files.certificate()
    if certificate is None:
        raise Refused("the server belongs to no organisation", hint="join one: `pillarbox node join`")
    items = [_bytes(each) for each in call.items()]
    authority = new_authority(certificate.tree, now_ms) if is_new else read_export(*items)

    def take(replica: Replica) -> int:
        known = organisation_folder.reading(replica).organisation
        if authority.certificate.tree != replica.tree.guid or database.guid not in known.servers:
            raise Refused("the authority is of another organisation", hint="use the export of this one")
        files.keep_authority(authority)
        hand_over(replica, authority.certificate)
        return renew(replica, authority, now_ms)

    renewed_count = call.replicator().perform(take)  # the door looks for the key each time
    return {"authority": authority.certificate.fingerprint.hex(), "renewed": renewed_count}


def read_export(pem: bytes, passphrase: bytes) -> Authority:
    """The authority in a file of `export_authority`. Raises InvalidContent, UnsupportedVersion, WrongKey."""
    from pillarbox.replication.membership.certificates import read_certificate, read_key, require_key_of
    from pillarbox.replication.node.member_files import ders_of

    first, _, text = pem.partition(b"\n")
    kind, _, version = first.partition(b" ")
    begin = text.find(b"-----BEGIN CERTIFICATE")
    if kind != AUTHORITY_FORMAT.encode() or begin < 0:
        raise InvalidContent("this is no export of an authority", hint="use the file of `org export-ca`")
    if version.strip() != str(FILE_VERSION).encode():
        raise UnsupportedVersion(
            f"the export is of version {version.decode(errors='replace').strip()}", hint="use a newer program"
        )
    (der,) = ders_of(text[begin:])
    return require_key_of(read_certificate(der), read_key(text[:begin], passphrase))


# -- servers


def invite(call: Call, *, name: str, site: str) -> Row:
    """Let one server join under a name; `token` is for it to show, once, within a day."""
    from pillarbox.replication.core import organisation_folder
    from pillarbox.replication.membership import invitation
    from pillarbox.replication.node.letting_in import check_free, require_authority

    database, files, now_ms = _store(call)
    authority = require_authority(files)

    def look(replica: Replica) -> tuple[str, ...]:
        organisation = organisation_folder.reading(replica).organisation
        check_free(organisation, name, site)
        return organisation.servers[database.guid].addresses

    addresses = call.replicator().perform(look)
    if not addresses:
        raise Refused(
            "this server has no address at which the other one could dial it",
            hint='say one in the organisation\'s file: addresses = ["HOST:PORT"]; or use `node request`',
        )
    token, invited = invitation.invite(
        secrets.token_bytes,
        authority.certificate.tree,
        authority.certificate.fingerprint,
        addresses,
        name,
        site,
        now_ms,
    )
    files.keep_invitations(invitation.living([*files.invitations(), invited], now_ms))
    return {"name": name, "site": site, "token": str(token), "ends_ms": invited.ends_ms}


def join(call: Call, *, token: str, merge: bool, addresses: list[str], listen: list[str]) -> Row:
    """Join the organisation of a token, by dialling who gave it. With `merge` though there are folders here:
    both trees live."""
    from pillarbox.replication.membership.certificates import read_certificate, signing_request
    from pillarbox.replication.membership.enrolment import EnrolmentRequest
    from pillarbox.replication.membership.invitation import read_token
    from pillarbox.replication.transports.enrolling import enrol

    read = read_token(token)
    _check_addresses([*addresses, *listen])
    database, files, now_ms = _store(call)
    _refuse_other_tree(call, database, read.tree, merge)
    request = signing_request(_own_key(files), read.tree, database.guid)
    asked = EnrolmentRequest(read.secret, request, tuple(addresses))
    welcome, _ = enrol(read, asked, database.guid, now_ms)
    _keep_listen(files, listen)
    return _enter(call, files, read_certificate(welcome.certificate), welcome.entries)


def request(call: Call, *, addresses: list[str]) -> bytes:
    """A request for a certificate as a file, to be carried to the server with the authority's key."""
    from pillarbox.replication.membership.certificates import signing_request
    from pillarbox.replication.node.stored_organisation import joined_tree

    _check_addresses(addresses)
    database, files, _ = _store(call)
    with database.read(call.actor) as read:
        joined = joined_tree(read)
    made = signing_request(_own_key(files), joined.guid if joined else _NO_TREE, database.guid)
    return _file(REQUEST_FORMAT, request=b64encode(made).decode(), addresses=addresses)


def approve(call: Call, *, name: str, site: str) -> bytes:
    """Let the server in whose request is the one item, or give a member another certificate; the answer as
    a file, to be carried back."""
    from pillarbox.replication.membership.certificates import read_request
    from pillarbox.replication.node.letting_in import let_in, require_authority

    _, files, now_ms = _store(call)
    authority = require_authority(files)
    (data,) = call.items()
    fields = read_file(_bytes(data), REQUEST_FORMAT)
    asked = read_request(_decoded(fields, "request"))
    if asked.tree not in (_NO_TREE, authority.certificate.tree):
        raise AccessDenied(
            "the request is of a store of another organisation", hint="a store is in one for ever"
        )
    addresses = [str(each) for each in fields.get("addresses", [])]
    _check_addresses(addresses)
    welcome = call.replicator().perform(
        lambda replica: let_in(replica, authority, asked, name, site, tuple(addresses), now_ms)
    )
    return _file(
        APPROVAL_FORMAT, certificate=b64encode(welcome.certificate).decode(), entries=dict(welcome.entries)
    )


def take(call: Call, *, merge: bool, listen: list[str]) -> Row:
    """Join by the approval that is the one item, or go on with the certificate in it."""
    from pillarbox.replication.membership.certificates import is_signed_by, read_certificate
    from pillarbox.replication.membership.renewal import readable
    from pillarbox.replication.organisation.entries import read_organisation

    (data,) = call.items()
    fields = read_file(_bytes(data), APPROVAL_FORMAT)
    certificate = read_certificate(_decoded(fields, "certificate"))
    entries = {str(key): str(value) for key, value in dict(fields.get("entries", {})).items()}
    _check_addresses(listen)
    database, files, now_ms = _store(call)
    key = files.key()
    if key is None or certificate.database != database.guid or not certificate.has_key(key.public_key()):
        raise AccessDenied("the approval is of another server", hint="carry the request of this one there")
    authorities = readable(read_organisation(entries).organisation.authorities)
    if not is_signed_by(certificate, authorities, now_ms):
        raise AccessDenied("no authority of the organisation signed it", hint="look at the clocks of both")
    _refuse_other_tree(call, database, certificate.tree, merge)
    _keep_listen(files, listen)
    return _enter(call, files, certificate, entries)


def retire(call: Call, *, name: str, lost: bool) -> list[str]:
    """Take a server out of the organisation, for ever; the differences, in words.

    Refused with the folders while it holds a replica or has a delete pending, unless it is `lost` with them.
    """
    from pillarbox.replication.core import organisation_folder

    call.confirm(f"Take {name} out of the organisation, for ever?")
    paths = folder_paths(call.server)

    def write(replica: Replica) -> list[str]:
        database = server_named(replica, name)
        present = organisation_folder.reading(replica).organisation
        if database == replica.me.database:
            raise Refused("a server does not retire itself", hint="run this at another server")
        if database == present.authority_holder and not lost:
            raise Refused(
                f"{name} has the key of the authority", hint="move it first: `pillarbox org move-ca`"
            )
        removed = present.servers[database]._replace(is_removed=True)
        after = replace(present, servers={**present.servers, database: removed})
        gone = [database] if lost else []
        return list(organisation_folder.apply(replica, after, call.actor.account, gone, paths))

    return call.replicator().perform(write)


# -- pieces


def _store(call: Call) -> tuple[pillarbox.Database, MemberFiles, int]:
    """The one public folder store of the server, its files as a member, and the time (ms UTC)."""
    from pillarbox.replication.node.member_files import MemberFiles

    stores = public_folder_stores(call.server)
    if len(stores) != 1:
        raise Refused(
            "the server has no public folder store"
            if not stores
            else "the server has several public folder stores",
            hint="a server takes part with one: `pillarbox database list`",
        )
    return stores[0], MemberFiles(call.server.path), stores[0].clock.now_ms()


def _own_key(files: MemberFiles) -> Key:
    from pillarbox.replication.membership.certificates import new_key

    key = files.key()
    if key is None:
        files.keep_key(key := new_key())
    return key


def _keep_listen(files: MemberFiles, listen: list[str]) -> None:
    """Have the server listen where it was said; where nothing was, as before, and by default at first."""
    settings = files.settings()
    if listen or settings.listen is None:
        files.keep_settings(settings._replace(listen=tuple(listen) or DEFAULT_LISTEN))


def _enter(call: Call, files: MemberFiles, certificate: Certificate, entries: Any) -> Row:
    from pillarbox.replication.organisation.entries import read_organisation
    from pillarbox.store.upkeep.joining import join as join_tree

    database, _, _ = _store(call)
    files.keep_first_entries(entries)
    files.keep_certificate(certificate)
    join_tree(database, call.actor, certificate.tree)
    call.membership_changed()
    organisation = read_organisation(entries).organisation
    server = organisation.servers[certificate.database]
    return {
        "organisation": organisation.name,
        "tree": guid_text(certificate.tree),
        "server": server.name,
        "guid": guid_text(certificate.database),
        "site": server.site,
    }


def _refuse_other_tree(call: Call, database: pillarbox.Database, tree: bytes, merge: bool) -> None:
    from pillarbox.replication.node.stored_organisation import joined_tree
    from pillarbox.store.mail import public_folders

    with database.read(call.actor) as read:
        joined = joined_tree(read)
        if joined is not None and joined.guid != tree:
            raise Refused(
                "the server belongs to another organisation",
                hint="a store is in one for ever: join with a new public folder store",
            )
        if joined is None and not merge and any(public_folders.walk(read)):
            raise NotEmpty(
                "there are public folders here already", hint="say --merge: both trees live, side by side"
            )


def _check_addresses(addresses: list[str]) -> None:
    from pillarbox.replication.organisation.addresses import split_address

    for address in addresses:
        split_address(address)


def _file(kind: str, **fields: Any) -> bytes:
    return (json.dumps({"format": kind, "version": FILE_VERSION, **fields}, indent=1) + "\n").encode()


def read_file(data: bytes, kind: str) -> dict[str, Any]:
    """The fields of a file that is carried between servers. Raises InvalidContent, UnsupportedVersion."""
    try:
        read = json.loads(data)
    except ValueError:
        read = None
    if not isinstance(read, dict) or read.get("format") != kind:
        raise InvalidContent(f"this is no file of the format {kind}", hint="look at its path")
    if read.get("version") != FILE_VERSION:
        raise UnsupportedVersion(f"the file is of version {read.get('version')}", hint="use a newer program")
    return read


def _decoded(fields: dict[str, Any], name: str) -> bytes:
    try:
        return b64decode(str(fields.get(name)), validate=True)
    except ValueError as error:
        raise InvalidContent(f"{name} in the file is damaged", hint="carry it anew") from error


def _bytes(item: Any) -> bytes:
    if not isinstance(item, bytes):
        raise InvalidContent("this item is to be bytes")
    return item
