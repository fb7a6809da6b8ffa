"""Blocks, turns, drafts and draws, each by itself."""

from __future__ import annotations

import pytest
import torch
from engine_fakes import ask, prompt, tokenizer  # type: ignore[import-not-found]
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.serve.engine import BlockManager, Group, Sequence
from openwafer.serve.engine._blocks import digest
from openwafer.serve.engine._draft import Draft
from openwafer.serve.engine._queue import FairQueue
from openwafer.serve.engine._sampling import choose, probabilities, uniform


def sequence(client: str, length: int, order: int, tier: str = "default") -> Sequence:
    group = Group(ask(prompt(length), tier=tier), client, order, 10, lambda piece: None)
    return Sequence(group, 0, tokenizer(), frozenset(), None)


def test_the_block_that_was_idle_longest_is_emptied_first() -> None:
    """And of one sequence its last: the beginning is what others share."""
    blocks = BlockManager(3)
    table = [blocks.take() for _ in range(3)]
    names = [digest(b"", [i]) for i in range(3)]
    for block, name in zip(table, names, strict=True):
        blocks.keep(block, name)
    blocks.release(table)

    assert blocks.find(names) == table
    assert blocks.take() == table[2]
    assert blocks.find(names) == table[:2]
    blocks.share(table[:1])
    assert blocks.take() == table[1]
    assert (blocks.available, blocks.find(names)) == (0, table[:1])


def test_equal_blocks_of_different_prefixes_have_different_names() -> None:
    """Keys and values depend on everything before them."""
    assert digest(digest(b"", [1]), [3]) != digest(digest(b"", [2]), [3])


def test_clients_get_equally_many_tokens() -> None:
    """One asks for 400 tokens at a time, one for 100, one for 100 with long answers: turns even that out."""
    queue = FairQueue(128)
    sizes = {"large": 400, "small": 100, "talker": 100}
    for i in range(60):
        for client, size in sizes.items():
            queue.push(sequence(client, size, i))
    taken = dict.fromkeys(sizes, 0)

    for _ in range(60):
        chosen = queue.pop()
        client = chosen.group.client
        taken[client] += len(chosen.tokens)
        if client == "talker":
            queue.charge(chosen, 300)
            taken[client] += 300

    assert max(taken.values()) - min(taken.values()) <= 2 * 400
    assert len(queue) == 120


def test_a_request_that_left_the_queue_is_not_served() -> None:
    """Also if it was next."""
    queue = FairQueue(10)
    first, second = sequence("a", 5, 0), sequence("a", 5, 1)
    queue.push(first)
    queue.push(second)
    assert queue.peek() is first

    queue.remove(first)

    assert queue.pop() is second
    assert queue.peek() is None


def test_a_draft_goes_on_behind_the_longest_match() -> None:
    """`1 2 3` stands twice; what came before tells which is meant."""
    draft = Draft((1, 2, 3, 4, 9, 1, 2, 3, 5, 6))
    answer = [9, 1, 2, 3]
    for token in answer:
        draft.advance(token)

    assert draft.propose(answer, 4) == [5, 6]
    assert draft.propose(answer, 1) == [5]
    assert draft.propose(answer, 0) == []


def test_one_equal_token_is_no_match() -> None:
    """It would be guessed wrong too often; at an answer's beginning it is all that there is."""
    draft = Draft((1, 2, 3))
    draft.advance(7)
    assert draft.propose([7], 3) == []
    draft.advance(2)
    assert draft.propose([7, 2], 3) == []
    beginning = Draft((1, 2, 3))
    beginning.advance(2)
    assert beginning.propose([2], 3) == [3]


@given(st.integers(0, 2**63), st.integers(0, 3), st.integers(0, 500))
def test_draws_are_numbers_below_one_that_repeat(seed: int, choice: int, index: int) -> None:
    """A 1 would choose no token."""
    assert 0 <= uniform(seed, choice, index) < 1
    assert uniform(seed, choice, index) == uniform(seed, choice, index)
    assert uniform(seed, choice, index) != uniform(seed, choice, index + 1)


@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("vocabulary", [6, 300])
def test_tokens_come_as_often_as_their_chances_say(top_p: float, vocabulary: int) -> None:
    """20,000 draws at equal distances: each token's share is its chance within the nucleus, to one draw."""
    logits_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    logits_V[3] = -torch.inf
    temperature = 0.8
    chances, order = (logits_V.double() / temperature).softmax(-1).sort(descending=True)
    count = int((chances.cumsum(0) < top_p).sum()) + 1 if top_p < 1 else vocabulary
    expected = torch.zeros(vocabulary, dtype=torch.float64)
    expected[order[:count]] = chances[:count] / chances[:count].sum()
    N = 20_000

    tokens = choose(
        logits_V.expand(N, -1).clone(), [temperature] * N, [top_p] * N, [(i + 0.5) / N for i in range(N)]
    )

    shares = torch.bincount(torch.tensor(tokens), minlength=vocabulary) / N
    assert (shares - expected).abs().max() < 1.5 / N + 1e-5
    assert shares[3] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1e-6, 0.7, 2.0]),
            st.sampled_from([0.0, 0.5, 0.999, 1.0]),
            st.floats(0, 0.9999),
        ),
        min_size=2,
        max_size=8,
    ),
    st.integers(0, 100),
)
def test_a_row_is_drawn_alike_alone_and_among_others(
    kinds: list[tuple[float, float, float]], seed: int
) -> None:
    """Greedy and drawn rows, whole and nucleus, in any mixture."""
    logits = torch.randn(len(kinds), 517, generator=torch.Generator().manual_seed(seed)) * 4

    together = choose(logits.clone(), *map(list, zip(*kinds, strict=True)))
    alone = [choose(logits[i : i + 1].clone(), *([k] for k in kind))[0] for i, kind in enumerate(kinds)]

    assert together == alone
    for row, (temperature, top_p, _), token in zip(logits, kinds, together, strict=True):
        if min(temperature, top_p) == 0:
            assert token == int(row.argmax())


def test_a_row_without_a_finite_largest_number_gives_none() -> None:
    """NaN, infinity, or a grammar that leaves nothing."""
    rows = torch.zeros(4, 5)
    rows[0, 2], rows[1, 1], rows[2] = torch.nan, torch.inf, -torch.inf

    assert choose(rows.clone(), [1.0] * 4, [1.0] * 4, [0.0] * 4) == [-1, -1, -1, 0]


def test_probabilities_give_as_many_alternatives_as_each_row_wants() -> None:
    """Rows of several requests in one batch."""
    rows = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])

    first, second = probabilities(rows, [0, 0], [2, 0])

    assert [t for t, _ in first.top] == [2, 1]
    assert first.logprob == pytest.approx(float(rows[0].log_softmax(0)[0]))
    assert second.top == ()
