"""What is missing here of what others know: looked at again only where something changed."""

from __future__ import annotations

import random

import pytest

from pillarbox.replication.core.state import FolderState, Row, Rows
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.wire.messages import Life, Statement
from pillarbox.store.change_number import ChangeNumber, CNSet

ORIGINS = tuple(bytes([n]) * 16 for n in range(1, 5))
LIFE = Life(1, 1)


def some_numbers(rng: random.Random) -> CNSet:
    return CNSet.of(ChangeNumber(rng.choice(ORIGINS), rng.randint(1, 12)) for _ in range(rng.randint(0, 6)))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_missing_is_all_that_any_row_knows_and_is_not_had(seed: int) -> None:
    rng, state, had = random.Random(seed), FolderState(), NOTHING
    for _ in range(200):
        change = rng.random()
        if change < 0.4:
            had |= some_numbers(rng)
        elif change < 0.5:
            had -= some_numbers(rng)  # some are asked for once more
        elif change < 0.9:
            state.rows[rng.choice(ORIGINS)] = Row(LIFE, some_numbers(rng))
        elif change < 0.95:
            state.rows = Rows({peer: row for peer, row in state.rows.items() if rng.random() < 0.5})
        else:
            state = state.copy()
        expected = NOTHING
        for row in state.rows.values():
            expected |= row.known - had
        assert state.compared.missing(state.rows, had) == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_statement_is_taken_as_it_is_whatever_is_had_here(seed: int) -> None:
    rng, state, peer = random.Random(seed), FolderState(rows=Rows({ORIGINS[0]: Row()})), ORIGINS[0]
    life = 1
    for now_ms in range(300):
        if rng.random() < 0.2:
            state.knowledge.claim(some_numbers(rng))
        elif rng.random() < 0.05:
            state.knowledge.expire(some_numbers(rng))
        if rng.random() < 0.8:
            state.compared.missing(state.rows, state.knowledge.settled)
        had = state.knowledge.had
        stated = rng.choice((had, had, CNSet.decode(had.encode()), some_numbers(rng)))
        expired = some_numbers(rng) - stated if rng.random() < 0.1 else NOTHING
        life += rng.random() < 0.05
        statement = Statement(Life(1, life - (rng.random() < 0.05)), stated, expired)
        expected = state.rows[peer].told(statement, now_ms)
        heard = state.hear(peer, statement, now_ms)
        assert heard == expected == state.rows[peer]
        assert heard.is_doubted == expected.is_doubted


def test_with_news_that_nobody_has_few_of_many_rows_are_compared_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = CNSet.full(ORIGINS[0], 1_000)
    state = FolderState(rows=Rows({bytes([n]) * 16: Row(LIFE, known) for n in range(200)}))
    state.compared.missing(state.rows, known)
    compared: list[CNSet] = []
    difference = CNSet.__sub__
    monkeypatch.setattr(CNSet, "__sub__", lambda one, other: compared.append(one) or difference(one, other))
    state.rows[ORIGINS[1]] = Row(LIFE, CNSet.full(ORIGINS[0], 1_002))
    had = known.with_number(ChangeNumber(ORIGINS[0], 1_001))
    assert state.compared.missing(state.rows, had).count() == 1
    assert len(compared) == 1
