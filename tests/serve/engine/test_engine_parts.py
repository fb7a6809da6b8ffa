"""Blocks, turns, drafts and draws, each by itself."""

from __future__ import annotations

from engine_fakes import ask, prompt, tokenizer  # type: ignore[import-not-found]
from hypothesis import given
from hypothesis import strategies as st

from openwafer.serve.engine import BlockManager, Group, Sequence
from openwafer.serve.engine._blocks import digest
from openwafer.serve.engine._draft import Draft
from openwafer.serve.engine._queue import FairQueue
from openwafer.serve.engine._sampling import uniform


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
