"""Servers of an organisation: invite, join, request, approve, retire, list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pillarbox.tools.commands.organisation import ADDRESS, LISTEN, stored_organisation
from pillarbox.tools.given_file import read_given
from pillarbox.tools.options import JSON, PATH, SERVER
from pillarbox.tools.output import local_time, show, warn
from pillarbox.tools.parameters import YES
from pillarbox.tools.serving.performing import operation


@click.group()
def node() -> None:
    """Servers of an organisation. NAME is one in its list, which `node list` shows."""


@node.command("invite")
@SERVER
@click.argument("name")
@click.option("--site", required=True, help="The site that it is to be in.")
@JSON
def invite(server: Path, name: str, site: str, as_json: bool) -> None:
    """Print a token with which one server joins as NAME, within 24 hours.

    SERVER has to have the key of the authority, and to be served while the other one joins. The token is a
    secret until it was used.

    \b
    pillarbox node invite /srv/mail p1 --site paris
    """
    with operation(server, "node.invite") as perform:
        data = perform(name=name, site=site)
    show(data, [data["token"]], as_json)
    if not as_json:
        warn([f"On {name}, until {local_time(data['ends_ms'])}:  pillarbox node join SERVER TOKEN"])


@node.command("join")
@SERVER
@click.argument("token", required=False)
@click.option("--approval", type=PATH, help="Join by the file of `node approve`, without a network.")
@click.option("--merge", is_flag=True, help="Join though SERVER has public folders: both trees live.")
@ADDRESS
@LISTEN
@JSON
def join(
    server: Path,
    token: str | None,
    approval: Path | None,
    merge: bool,
    addresses: tuple[str, ...],
    listen: tuple[str, ...],
    as_json: bool,
) -> None:
    """Have SERVER join an organisation, by a token of `node invite`.

    Cut off in the middle, it is run again with the same token.

    \b
    pillarbox node join /srv/mail pillarbox-invitation-1.lxAk... \\
        --address p1.example.org:7337
    """
    if (token is None) == (approval is None):
        raise click.UsageError("say the TOKEN of an invitation, or --approval")
    if token is not None:
        with operation(server, "node.join") as perform:
            data = perform(token=token, merge=merge, addresses=list(addresses), listen=list(listen))
    else:
        assert approval is not None
        given = read_given(approval)
        with operation(server, "node.take") as perform:
            data = perform(items=[given], merge=merge, listen=list(listen))
    lines = [f"{data['server']} in site {data['site']} is a server of {data['organisation']} now."]
    show(data, lines, as_json)


@node.command("request")
@SERVER
@click.argument("file", type=PATH)
@ADDRESS
@JSON
def request(server: Path, file: Path, addresses: tuple[str, ...], as_json: bool) -> None:
    """Write a request for a certificate to FILE, to be carried to the server with the authority's key.

    The key itself stays here. For air gaps, and for a server whose certificate has ended.

    \b
    pillarbox node request /srv/mail p1.request
    """
    from pillarbox.tools.new_file import write_new_file

    with operation(server, "node.request") as perform:
        data = perform(addresses=list(addresses))
    write_new_file(file, data)
    lines = [f"Carry {file} to the server with the authority's key: `pillarbox node approve` there."]
    show({"file": str(file)}, lines, as_json)


@node.command("approve")
@SERVER
@click.argument("request_file", metavar="REQUEST", type=PATH)
@click.argument("file", type=PATH)
@click.option("--name", default="", help="Its name, for a server that is new.")
@click.option("--site", default="", help="Its site, for a server that is new.")
@JSON
def approve(server: Path, request_file: Path, file: Path, name: str, site: str, as_json: bool) -> None:
    """Let the server in whose REQUEST was carried here, and write its approval to FILE.

    A server of the organisation gets another certificate in this way.

    \b
    pillarbox node approve /srv/mail p1.request p1.approval --name p1 --site paris
    """
    from pillarbox.tools.new_file import write_new_file

    asked = read_given(request_file)
    with operation(server, "node.approve") as perform:
        data = perform(items=[asked], name=name, site=site)
    write_new_file(file, data)
    lines = [f"Carry {file} back, and there:  pillarbox node join SERVER --approval {file.name}"]
    show({"file": str(file)}, lines, as_json)


@node.command("retire")
@SERVER
@click.argument("name")
@click.option("--lost", is_flag=True, help="It is gone for good, with all that it holds.")
@YES
@JSON
def retire(server: Path, name: str, lost: bool, yes: bool, as_json: bool) -> None:
    """Take NAME out of the organisation of SERVER, for ever.

    Refused with the folders while it holds a replica or has a delete pending: `pillarbox replica move-all`
    empties it.

    \b
    pillarbox node retire /srv/mail p1
    """
    with operation(server, "node.retire", yes=yes) as perform:
        found = perform(name=name, lost=lost)
    show({"differences": found}, found, as_json)


@node.command("adopt-as-truth")
@SERVER
@YES
@JSON
def adopt_as_truth(server: Path, yes: bool, as_json: bool) -> None:
    """Have this copy of SERVER go on, and number its changes anew.

    For when two copies of a server were at work and the others refuse what they say, or all servers of an
    organisation were put back in time: then at one of them. What the other copy changed alone is lost.

    \b
    pillarbox node adopt-as-truth /srv/mail
    """
    with operation(server, "node.adopt_as_truth", yes=yes) as perform:
        incarnation = perform()
    show({"incarnation": incarnation}, [f"It goes on as its incarnation {incarnation}."], as_json)


@node.command("list")
@SERVER
@JSON
def list_nodes(server: Path, as_json: bool) -> None:
    """The servers of the organisation, as SERVER knows them.

    \b
    pillarbox node list /srv/mail
    """
    from pillarbox.replication.membership.renewal import readable
    from pillarbox.store.ids import guid_text

    organisation = stored_organisation(server)
    found = [
        {
            "server": each.name,
            "guid": guid_text(each.database),
            "site": each.site,
            "addresses": list(each.addresses),
            "version": each.version,
            "removed": each.is_removed,
            "has_authority": each.database == organisation.authority_holder,
            "certificate_ends_ms": max(
                (certificate.ends_ms for certificate in readable(each.certificates)), default=None
            ),
        }
        for each in sorted(organisation.servers.values(), key=lambda each: each.name)
    ]
    show(found, map(_line, found), as_json)


def _line(each: dict[str, Any]) -> str:
    if each["removed"]:
        return f"{each['server']}: was removed"
    where = " ".join(each["addresses"]) or "dials the others"
    signs = ", signs certificates" if each["has_authority"] else ""
    ends = each["certificate_ends_ms"]
    until = f", its certificate ends {local_time(ends)}" if ends else ", has no certificate"
    return f"{each['server']} in {each['site']}: {where}{until}{signs}"
