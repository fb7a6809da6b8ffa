"""What comes out of an engine, whatever else it does at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import torch
from engine_fakes import (  # type: ignore[import-not-found]
    END,
    FakeExecutor,
    SteppedExecutor,
    ask,
    engine_on,
    greedy,
    logits_after,
    prompt,
    run,
    tokenizer,
    whole,
)

from openwafer.serve.engine import Engine, Grammar

LENGTHS = (1, 2, 127, 128, 129, 255, 256, 300)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One engine for tests that leave nothing behind."""
    engine = engine_on(FakeExecutor())
    yield engine
    engine.stop()


@pytest.mark.parametrize(
    ("blocks", "in_flight", "limits"),
    [
        (64, 1, {}),
        (64, 1, {"batch_tokens": 640, "chunk_tokens": 128}),
        (6, 1, {}),
        (10, 1, {"batch_tokens": 640, "chunk_tokens": 200}),
        (64, 3, {}),
        (6, 3, {"chunk_tokens": 150}),
        (64, 1, {"running": 2}),
    ],
)
def test_a_greedy_answer_depends_on_its_prompt_alone(
    blocks: int, in_flight: int, limits: dict[str, int]
) -> None:
    """Paging, chunks, company, preemption, found prefixes and batches in flight only decide when a token comes."""
    executor = FakeExecutor(blocks, in_flight)
    engine = engine_on(executor, **limits)
    prompts = [prompt(length, seed=i % 3) for i, length in enumerate(LENGTHS * 2)]
    answers = [engine.submit(ask(p, most=100)) for p in prompts]

    found = [whole(answer)[0] for answer in answers]
    statistics = engine.statistics()
    engine.stop()

    for p, piece in zip(prompts, found, strict=True):
        expected = greedy(p, 100)
        assert list(piece.tokens) == expected
        assert piece.text == tokenizer().decode(expected)
        assert piece.finish == ("length" if len(expected) == 100 else "stop")
        assert piece.usage is not None
        assert piece.usage.completion_tokens == min(100, len(expected) + 1)
        assert piece.usage.cached_tokens % 128 == 0
    assert statistics.blocks_used == 0
    assert statistics.running == statistics.waiting == 0
    if blocks != 10:
        assert (statistics.preemptions_total > 0) == (blocks == 6)
    assert executor.closed


def test_a_prompt_that_was_seen_before_is_found_in_whole_blocks(engine: Engine) -> None:
    """The last token always runs, because its logits are wanted: 256 tokens find one block of 128, and 257 find two."""
    first, second = prompt(256, seed=11), (*prompt(256, seed=11), 7)

    cold = run(engine, ask(first))
    warm, longer = run(engine, ask(first)), run(engine, ask(second))

    assert [p.usage and p.usage.cached_tokens for p in (cold, warm, longer)] == [0, 128, 256]
    assert warm.tokens == cold.tokens == tuple(greedy(first, 8))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_found_as_well_when_the_conversation_goes_on(engine: Engine, temperature: float) -> None:
    """The next turn's prompt begins with this turn's prompt and answer, whose keys and values are those of single tokens.

    They differ in their last bits from a prompt's, so a request that could be repeated takes the first prompt's alone.
    """
    first = prompt(200, seed=12 + int(temperature))
    answer = run(engine, ask(first, most=60, logit_bias={END: -100}))

    again = run(engine, ask((*first, *answer.tokens, 1, 2, 3), temperature=temperature))

    assert again.usage is not None
    assert again.usage.cached_tokens == (256 if temperature else 128)


def test_equal_prompts_that_come_at_once_are_computed_once() -> None:
    """Whoever comes later waits for the first one's blocks, and is told how many tokens it found."""
    executor = SteppedExecutor()
    engine = engine_on(executor)
    answers = [engine.submit(ask((*prompt(700), i), most=10, temperature=1.0, seed=i)) for i in range(6)]
    executor.go_on()

    found = [whole(answer)[0] for answer in answers]
    statistics = engine.statistics()
    engine.stop()

    cached = [piece.usage.cached_tokens for piece in found if piece.usage is not None]
    assert cached == [0, *[640] * 5]
    assert statistics.cached_tokens_total == 5 * 640
    computed = sum(len(batch.tokens_T) for batch in executor.batches)
    assert computed <= 701 + 5 * (701 - 640) + 6 * 10


def test_an_equal_prompt_does_not_wait_for_one_that_was_cancelled() -> None:
    """It computes the rest itself."""
    executor = SteppedExecutor()
    engine = engine_on(executor, batch_tokens=640, chunk_tokens=128, running=3)
    first = engine.submit(ask(prompt(2000), most=2))
    second = engine.submit(ask(prompt(2000), most=2))
    executor.step(2)
    first.cancel()
    executor.go_on()

    piece = whole(second)[0]
    whole(first)
    engine.stop()

    assert list(piece.tokens) == greedy(prompt(2000), 2)


def test_choices_share_the_blocks_of_their_prompt() -> None:
    """Two whole blocks are computed once; each choice has one of its own for the rest."""
    executor = FakeExecutor(blocks=6)
    engine = engine_on(executor)

    found = whole(engine.submit(ask(prompt(300), n=4, most=20, temperature=1.0, seed=5)))
    engine.stop()

    assert sorted(found) == [0, 1, 2, 3]
    assert len({piece.tokens for piece in found.values()}) == 4
    assert sum(len(b.tokens_T) for b in executor.batches) < 300 + 3 * (300 - 256) + 4 * 20
    assert engine.statistics().preemptions_total == 0


@pytest.mark.parametrize("top_p", [1.0, 0.7, 0.999])
def test_a_seed_gives_the_same_text_in_any_company(engine: Engine, top_p: float) -> None:
    """Each token's draw is a hash of seed, choice and place; nothing is drawn from a common stream."""
    request = ask(prompt(50), most=40, temperature=1.0, top_p=top_p, seed=7)
    alone = run(engine, request)

    others = [engine.submit(ask(prompt(20, seed=i), most=40, temperature=1.5)) for i in range(6)]
    among = run(engine, request)
    other_seed = run(engine, ask(prompt(50), most=40, temperature=1.0, top_p=top_p, seed=8))
    for answer in others:
        whole(answer)

    assert among.tokens == alone.tokens
    assert other_seed.tokens != alone.tokens


def test_without_a_seed_answers_differ(engine: Engine) -> None:
    """Each request has a random seed of its own then."""
    one, two = (run(engine, ask(prompt(9), most=30, temperature=1.0)) for _ in range(2))

    assert one.tokens != two.tokens


def test_penalties_are_openais_over_the_answer(engine: Engine) -> None:
    """Frequency counts each time, presence once, the prompt not at all; logit_bias is added to the logits."""
    start = list(prompt(30))
    bias = {start[0]: 6.0, 5: 4.0}
    tokens = list(start)
    for _ in range(40):
        logits = logits_after(tokens)
        for token, value in bias.items():
            logits[token] += value
        for token in set(tokens[30:]):
            logits[token] -= 0.7 * tokens[30:].count(token) + 0.4
        logits[END] = -torch.inf
        tokens.append(int(logits.argmax()))

    piece = run(
        engine,
        ask(start, most=40, min_tokens=40, frequency_penalty=0.7, presence_penalty=0.4, logit_bias=bias),
    )

    assert list(piece.tokens) == tokens[30:]
    assert len(set(piece.tokens)) < 40, "no token came twice, so penalties were not seen"


def test_the_end_waits_for_min_tokens_and_any_stop_token_ends(engine: Engine) -> None:
    """An end token counts as generated, and is no part of the tokens or the text."""
    early = run(engine, ask(prompt(8), most=20, logit_bias={END: 100}))
    late = run(engine, ask(prompt(8), most=20, min_tokens=5, logit_bias={END: 100}))
    other = run(engine, ask(prompt(8), most=20, stop_tokens=frozenset({65}), logit_bias={65: 100}))

    assert (early.finish, early.tokens) == ("stop", ())
    assert early.usage is not None
    assert early.usage.completion_tokens == 1
    assert (late.finish, len(late.tokens)) == ("stop", 5)
    assert (other.finish, other.text) == ("stop", "")


def test_stop_strings_end_the_text_before_them(engine: Engine) -> None:
    """They may begin and end within tokens, and no piece shows what may become one."""
    text = tokenizer().decode(greedy(prompt(31, seed=4), 60))
    stop = text[20:23]

    piece = run(engine, ask(prompt(31, seed=4), most=60, stop=(stop, "never this")))

    assert piece.finish == "stop"
    assert piece.text == text[: text.index(stop)]


def test_probabilities_are_the_models_own(engine: Engine) -> None:
    """Whatever a request changes: users compare them between requests. Every token has them, echoed ones too."""
    start = prompt(140, seed=3)
    run(engine, ask(start))  # its blocks are known now, and must not be taken: they have no logits

    piece = run(engine, ask(start, most=10, echo=True, logprobs=3, logit_bias={9: 5.0}, min_tokens=10))

    tokens = [*start, *piece.tokens]
    assert [p.token for p in piece.logprobs] == tokens[1:]
    for place, known in enumerate(piece.logprobs, start=1):
        expected = logits_after(tokens[:place]).log_softmax(-1)
        assert known.logprob == pytest.approx(float(expected[known.token]), abs=1e-5)
        values, top = expected.topk(3)
        assert [t for t, _ in known.top] == top.tolist()
        assert [v for _, v in known.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_prompt_can_be_scored_without_an_answer(engine: Engine) -> None:
    """max_tokens 0 with echo is what evaluation programs send."""
    piece = run(engine, ask(prompt(500, seed=6), most=0, echo=True, logprobs=0))

    assert (piece.finish, piece.tokens, piece.text) == ("length", (), "")
    assert len(piece.logprobs) == 499


# Its answer does not end before 80 tokens.
LONG = next(p for p in (prompt(40, seed=i) for i in range(100)) if len(greedy(p, 80)) == 80)


def _predictions() -> dict[str, tuple[int, ...]]:
    right = tuple(greedy(LONG, 80))
    return {
        "right": right,
        "right with a change": (*right[:30], 1, 2, 3, *right[33:]),
        "right with a gap": (*right[:20], *right[31:]),
        "right with more between": (*right[:20], *prompt(30), *right[20:]),
        "wrong": prompt(80, seed=99),
        "one token": right[:1],
    }


@pytest.mark.parametrize("kind", _predictions())
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_prediction_never_changes_the_answer(kind: str, temperature: float) -> None:
    """Each place's token is chosen as it would have been, and the prediction is believed as far as it says the same."""
    executor = FakeExecutor()
    engine = engine_on(executor)
    changes = {"temperature": temperature, "seed": 3, "frequency_penalty": 0.2}
    if temperature == 0:
        changes = {}
    plain = run(engine, ask(LONG, most=80, **changes))
    before = len(executor.batches)

    piece = run(engine, ask(LONG, most=80, prediction=_predictions()[kind], **changes))
    batches = len(executor.batches) - before
    engine.stop()

    assert piece.tokens == plain.tokens
    assert piece.usage is not None
    accepted, rejected = piece.usage.accepted_prediction_tokens, piece.usage.rejected_prediction_tokens
    assert batches == len(plain.tokens) + (plain.finish == "stop") - accepted
    if temperature == 0:
        least = {"right": 60, "wrong": 0, "one token": 0}.get(kind, 40)
        assert least <= accepted <= 80
        assert (rejected > 0) == (kind.startswith("right with"))


@pytest.mark.parametrize("prediction", [(), tuple(b"2024-02-30 and more"), tuple(b"1999-12-31")])
def test_a_grammar_holds_whatever_is_predicted(engine: Engine, prediction: tuple[int, ...]) -> None:
    """The answer ends as soon as nothing may follow, and a prediction does not change it."""
    letters = {chr(b): b for b in range(32, 127)}
    numbers = {c: tokenizer().encode(c, start=False)[0] for c in letters}
    drafted = tuple(numbers[chr(b)] for b in prediction)
    grammar = Grammar("regex", r"[0-9]{4}-[01][0-9]-[0-3][0-9]")

    piece = run(engine, ask(prompt(20), most=50, grammar=grammar, prediction=drafted, min_tokens=30))
    plain = run(engine, ask(prompt(20), most=50, grammar=grammar))

    assert piece.finish == "stop"
    assert len(piece.text) == 10
    assert piece.text == plain.text
    assert piece.text[4] == piece.text[7] == "-"


def test_a_schema_gives_json_for_every_choice(engine: Engine) -> None:
    """A matcher of its own for each choice, from one compiled grammar."""
    options = '"additionalProperties": false, "x-guidance": {"whitespace_flexible": false}'
    schema = (
        '{"type": "object", "properties": {"a": {"enum": ["x", "yy"]}}, "required": ["a"], ' + options + "}"
    )

    found = whole(
        engine.submit(ask(prompt(20), most=50, temperature=1.0, n=3, grammar=Grammar("json_schema", schema)))
    )

    assert {p.text.replace(" ", "") for p in found.values()} <= {'{"a":"x"}', '{"a":"yy"}'}
    assert {p.finish for p in found.values()} == {"stop"}


def test_a_grammar_that_makes_no_sense_ends_with_its_reason(engine: Engine) -> None:
    """It is found when it is compiled, which is after the request was taken."""
    piece = run(engine, ask(prompt(20), grammar=Grammar("lark", "start: nothing_such")))

    assert piece.finish == "error"
    assert "lark grammar cannot be enforced" in piece.error


def test_pieces_come_in_an_event_loop_as_they_are_made() -> None:
    """Thirty answers in one loop, each in many pieces; joined they are what one thread would read."""
    engine = engine_on(FakeExecutor())
    prompts = [prompt(10, seed=i) for i in range(30)]

    async def read(tokens: tuple[int, ...]) -> tuple[int, list[int]]:
        pieces = [piece async for piece in engine.submit(ask(tokens, most=30))]
        return len(pieces), [t for piece in pieces for t in piece.tokens]

    async def everything() -> list[tuple[int, list[int]]]:
        return await asyncio.gather(*map(read, prompts))

    found = asyncio.run(everything())
    engine.stop()

    assert [tokens for _, tokens in found] == [greedy(p, 30) for p in prompts]
    assert max(pieces for pieces, _ in found) > 3


def test_times_add_up(engine: Engine) -> None:
    """Waiting, the prompt and the answer are told apart by one monotonic clock."""
    piece = run(engine, ask(prompt(300, seed=77), most=20))

    assert piece.times is not None
    assert piece.times.queue_s >= 0
    assert piece.times.prompt_s > 0
    assert piece.times.completion_s > 0
