"""Blocks, turns, drafts and draws, each by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_fakes import ask, prompt, tokenizer  # type: ignore[import-not-found]
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.serve.engine import BlockManager, Group, Sequence
from openwafer.serve.engine._blocks import digest
from openwafer.serve.engine._draft import Draft
from openwafer.serve.engine._probabilities import probability
from openwafer.serve.engine._queue import FairQueue
from openwafer.serve.engine._sampling import choose, uniform


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


def test_blocks_with_tokens_of_answers_are_found_only_by_who_takes_them() -> None:
    """They were computed token by token and differ in their last bits; the prompt's blocks before them are anybody's."""
    blocks = BlockManager(3)
    table = [blocks.take() for _ in range(3)]
    names = [digest(b"", [i]) for i in range(3)]
    for i, (block, name) in enumerate(zip(table, names, strict=True)):
        blocks.keep(block, name, answered=i > 0)

    assert blocks.find(names) == table[:1]
    assert blocks.find(names, answered=True) == table
    assert blocks.prompts(table) == 1


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


def chosen(logits_V: torch.Tensor, temperature: float, top_p: float, seed: int = 0, index: int = 0) -> int:
    row_V = logits_V.numpy()
    return choose(
        row_V, temperature, top_p, lambda trial: uniform(seed, 0, index, trial), np.empty_like(row_V)
    )


@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.3, 0.05])
@pytest.mark.parametrize("vocabulary", [6, 300, 1200])
def test_tokens_come_as_often_as_their_chances_say(top_p: float, vocabulary: int) -> None:
    """20,000 draws: shares are chances within the nucleus, to five deviations and four draws; others never come."""
    logits_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    logits_V[3] = -torch.inf
    logits_V[4] = logits_V[5]
    temperature = 0.8
    chances, order = (logits_V.double() / temperature).softmax(-1).sort(descending=True, stable=True)
    count = int((chances.cumsum(0) < top_p).sum()) + 1 if top_p < 1 else vocabulary
    expected = torch.zeros(vocabulary, dtype=torch.float64)
    expected[order[:count]] = chances[:count] / chances[:count].sum()
    N = 20_000

    tokens = torch.tensor([chosen(logits_V, temperature, top_p, index=i) for i in range(N)])

    shares = torch.bincount(tokens, minlength=vocabulary) / N
    assert ((shares - expected).abs() <= 5 * (expected / N).sqrt() + 4 / N).all()
    assert set(tokens.tolist()) <= set(order[:count].tolist())


def test_of_equally_likely_tokens_the_first_are_in_the_nucleus() -> None:
    """Half of ten equal ones are five, and each of them comes."""
    tokens = {chosen(torch.zeros(10), 1.0, 0.5, index=i) for i in range(200)}

    assert tokens == set(range(5))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100), st.integers(500, 1100), st.sampled_from([0.0, 1e-6, 0.7, 2.0]))
def test_a_row_is_drawn_from_where_its_logits_are_finite(
    seed: int, vocabulary: int, temperature: float
) -> None:
    """Whatever the length of the last chunk; temperature 0 takes the largest, and the logits stay as they are."""
    logits_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * 4
    logits_V[seed % 7 :: 2] = -torch.inf
    before = logits_V.clone()

    token = chosen(logits_V, temperature, 0.999, seed)

    assert logits_V[token].isfinite()
    assert torch.equal(logits_V, before)
    assert temperature > 1e-6 or token == int(logits_V.argmax())


@pytest.mark.parametrize("row", [[0, 0, torch.nan, 0], [0, torch.inf, 0, 0], [-torch.inf] * 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_finite_largest_number_gives_none(row: list[float], temperature: float) -> None:
    """NaN, infinity, or a grammar that leaves nothing."""
    assert chosen(torch.tensor(row, dtype=torch.float32), temperature, 1.0) == -1


@pytest.mark.parametrize("vocabulary", [5, 700, 3000])
@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_alternatives_are_the_most_likely_tokens_with_their_probabilities(vocabulary: int, top: int) -> None:
    """As many as wanted, or all that there are; of equal ones the first."""
    logits_V = (torch.randn(vocabulary, generator=torch.Generator().manual_seed(top)) * 4).round()
    expected_V = logits_V.double().log_softmax(0)

    found = probability(logits_V.numpy(), 3, top, np.empty(vocabulary, dtype=np.float32))

    order = logits_V.sort(descending=True, stable=True).indices[:top].tolist()
    assert [token for token, _ in found.top] == order
    assert [p for _, p in found.top] == pytest.approx([float(expected_V[t]) for t in order], abs=1e-5)
    assert found.logprob == pytest.approx(float(expected_V[3]), abs=1e-5)
