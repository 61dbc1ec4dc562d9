"""Certificates are made anew before they end, by the server with the authority's key, without being asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from pillarbox.replication.membership.certificates import (
    DAY_MS,
    LIFETIME_MS,
    Authority,
    Certificate,
    certify,
    new_authority,
    new_key,
)
from pillarbox.replication.membership.renewal import (
    CHANGE_LEFT_MS,
    RENEW_LEFT_MS,
    choose_shown,
    good_certificates,
    peers_of,
    plan_renewals,
    with_renewals,
)
from pillarbox.replication.organisation.topology import Organisation, Server

TREE = b"t" * 16
A, B = b"a" * 16, b"b" * 16
NOW_MS = 1_800_000_000_000
AUTHORITY = new_authority(TREE, NOW_MS)
KEYS = {A: new_key(), B: new_key()}


def made(database: bytes, now_ms: int = NOW_MS, authority: Authority = AUTHORITY) -> Certificate:
    return certify(authority, database, KEYS[database].public_key(), now_ms)


def organisation(
    *certificates: Certificate, authorities: tuple[Authority, ...] = (AUTHORITY,)
) -> Organisation:
    return Organisation(
        {
            database: Server(
                database,
                database[:1].decode(),
                "berlin",
                0,
                certificates=tuple(each.der for each in certificates if each.database == database),
            )
            for database in (A, B)
        },
        authorities=tuple(each.certificate.der for each in authorities),
    )


def renewed(present: Organisation, now_ms: int, authority: Authority = AUTHORITY) -> Organisation:
    changed = with_renewals(present, plan_renewals(present, authority, now_ms))
    servers = {
        database: server._replace(certificates=changed.get(database, server.certificates))
        for database, server in present.servers.items()
    }
    return replace(present, servers=servers)


def test_nothing_is_renewed_that_lasts() -> None:
    present = organisation(made(A), made(B))
    assert plan_renewals(present, AUTHORITY, NOW_MS) == ()
    assert plan_renewals(present, AUTHORITY, NOW_MS + LIFETIME_MS - RENEW_LEFT_MS - 1) == ()


def test_a_certificate_is_renewed_for_the_same_key_while_a_third_of_its_time_is_left() -> None:
    present, later_ms = (
        organisation(made(A), made(B, NOW_MS + 9 * DAY_MS)),
        NOW_MS + LIFETIME_MS - RENEW_LEFT_MS,
    )
    [renewal] = plan_renewals(present, AUTHORITY, later_ms)
    assert renewal.database == A and renewal.new is not None and renewal.ended == ()
    assert renewal.new.has_key(KEYS[A].public_key())
    assert renewal.new.ends_ms == later_ms + LIFETIME_MS
    assert plan_renewals(renewed(present, later_ms), AUTHORITY, later_ms) == ()


def test_a_server_goes_over_to_its_new_certificate_once_others_know_it() -> None:
    old, new = made(A), made(A, NOW_MS + LIFETIME_MS - RENEW_LEFT_MS)
    both = [new, old]
    assert choose_shown(both, new.begins_ms + 2 * DAY_MS) == old
    assert choose_shown(both, old.ends_ms - CHANGE_LEFT_MS - 1) == old
    assert choose_shown(both, old.ends_ms - CHANGE_LEFT_MS) == new
    assert choose_shown([old], old.ends_ms - 1) == old
    assert choose_shown([], NOW_MS) is None


def test_over_ten_years_each_server_shows_a_certificate_that_others_have_known_for_a_month() -> None:
    present, since = organisation(made(A), made(B)), dict[bytes, int]()
    for day in range(0, 3650, 20):
        now_ms = NOW_MS + day * DAY_MS
        present = renewed(present, now_ms)
        peers = peers_of(present, now_ms)
        for fingerprint in peers:
            since.setdefault(fingerprint, day)
        for database in (A, B):
            shown = choose_shown(good_certificates(present, database, now_ms), now_ms)
            assert shown is not None and peers[shown.fingerprint].database == database
            assert since[shown.fingerprint] == 0 or day - since[shown.fingerprint] >= 30
            assert len(present.servers[database].certificates) <= 2


def test_certificates_that_have_ended_are_taken_out() -> None:
    old, later_ms = made(A), NOW_MS + LIFETIME_MS
    new = made(A, later_ms - DAY_MS)
    [renewal] = plan_renewals(organisation(old, new, made(B, later_ms)), AUTHORITY, later_ms)
    assert renewal.new is None and renewal.ended == (old.der,)


def test_who_was_away_for_too_long_gets_a_certificate_for_the_key_that_is_known() -> None:
    later_ms = NOW_MS + 3 * LIFETIME_MS
    present = organisation(made(A), made(B, later_ms))
    [renewal] = plan_renewals(present, AUTHORITY, later_ms)
    assert renewal.new is not None and renewal.new.has_key(KEYS[A].public_key())


def test_no_key_is_signed_that_no_authority_of_the_tree_has_signed_before() -> None:
    forged = made(A, authority=new_authority(TREE, NOW_MS))
    present, later_ms = organisation(forged, made(B)), NOW_MS + LIFETIME_MS - RENEW_LEFT_MS
    assert [each.database for each in plan_renewals(present, AUTHORITY, later_ms)] == [B]


def test_a_new_authority_signs_all_keys_that_the_old_one_had_signed() -> None:
    present = organisation(made(A), made(B))
    another = new_authority(TREE, NOW_MS + DAY_MS)
    present = replace(present, authorities=(*present.authorities, another.certificate.der))
    after = renewed(present, NOW_MS + DAY_MS, another)
    assert plan_renewals(after, another, NOW_MS + DAY_MS) == ()
    only_new = replace(after, authorities=(another.certificate.der,))
    for database in (A, B):
        [good] = good_certificates(only_new, database, NOW_MS + DAY_MS)
        assert good.has_key(KEYS[database].public_key())


def test_servers_that_were_removed_get_none() -> None:
    present = organisation(made(A), made(B))
    removed = replace(present, servers={**present.servers, A: present.servers[A]._replace(is_removed=True)})
    later_ms = NOW_MS + LIFETIME_MS - RENEW_LEFT_MS
    assert {each.database for each in plan_renewals(removed, AUTHORITY, later_ms)} == {B}
    assert {peer.database for peer in peers_of(removed, NOW_MS).values()} == {A, B}  # refused by name


def test_a_certificate_of_one_store_in_the_place_of_another_is_none() -> None:
    present = organisation(made(A), made(B))
    swapped = replace(
        present,
        servers={**present.servers, B: present.servers[B]._replace(certificates=(made(A).der, b"no"))},
    )
    assert {peer.database for peer in peers_of(swapped, NOW_MS).values()} == {A}
