"""An answer's bits depend on its own request alone: not on company, chunks, preemption, or what the cache holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_fakes import END, ask, prompt, small_model, tokenizer, whole  # type: ignore[import-not-found]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwafer.serve.engine import Engine, Limits, Piece, Request, TokenProbability
from openwafer.serve.executors import Batch, open_executor

DTYPES = ["float32", "bfloat16"]
LENGTHS = st.one_of(st.integers(1, 300), st.sampled_from([8, 9, 12, 127, 128, 129, 137, 256, 264]))


class Model:
    """One checkpoint, on which engines are opened, and what it answers to a request that has it to itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Piece] = {}

    def engine(self, dtype: str, blocks: int = 64, **limits: int) -> Engine:
        executor = open_executor(self.folder, execution="resident", dtype=dtype, device="cpu", blocks=blocks)
        return Engine(executor, tokenizer(), limits=Limits(**limits))

    def alone(self, dtype: str, request: Request) -> Piece:
        key = f"{dtype} {request}"
        if key not in self._known:
            engine = self.engine(dtype)
            self._known[key] = whole(engine.submit(request))[0]
            engine.stop()
        return self._known[key]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """With two threads, on which torch adds up in other orders than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Model(small_model(tmp_path_factory.mktemp("model")))
    torch.set_num_threads(threads)


def asked(length: int, word: int = 0, most: int = 12, **changes: object) -> Request:
    """Prompts of one word begin alike. Every token's probability is told, which shows the last bit."""
    return ask(prompt(420, seed=word)[:length], most=most, logprobs=2, **changes)  # type: ignore[no-any-return]


def bits(piece: Piece) -> tuple[tuple[int, ...], tuple[TokenProbability, ...]]:
    return piece.tokens, piece.logprobs


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_an_answer_has_the_same_bits_whatever_else_happens(
    model: Model, data: st.DataObject, dtype: str
) -> None:
    """Few or many blocks, any chunks, prompts that begin alike or not, some drawn, some echoed, some predicted."""
    engine = model.engine(
        dtype,
        blocks=data.draw(st.sampled_from([5, 8, 64])),
        chunk_tokens=data.draw(st.integers(128, 400)),
        running=data.draw(st.integers(2, 12)),
    )
    requests = []
    for _ in range(data.draw(st.integers(2, 8))):
        length, word = data.draw(LENGTHS), data.draw(st.integers(0, 1))
        kind = data.draw(st.sampled_from(["plain", "plain", "drawn", "echo", "predicted"]))
        changes = {
            "plain": {},
            "drawn": {"temperature": 1.0, "top_p": 0.9, "seed": length},
            "echo": {"echo": True},
            "predicted": {"prediction": model.alone(dtype, asked(length, word)).tokens},
        }[kind]
        requests.append(asked(length, word, **changes))

    answers = [engine.submit(request) for request in requests]
    found = [whole(answer)[0] for answer in answers]
    engine.stop()

    for request, piece in zip(requests, found, strict=True):
        assert bits(piece) == bits(model.alone(dtype, request))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_preempted_answer_goes_on_with_the_same_bits(model: Model, dtype: str) -> None:
    """Its prompt is computed in the same chunks again, and its own tokens as they were: few at a time."""
    engine = model.engine(dtype, blocks=6)
    requests = [asked(100 + 9 * i, word=i, most=150) for i in range(5)]

    answers = [engine.submit(request) for request in requests]
    found = [whole(answer)[0] for answer in answers]
    preemptions = engine.statistics().preemptions_total
    engine.stop()

    assert preemptions > 0
    assert [bits(piece) for piece in found] == [bits(model.alone(dtype, request)) for request in requests]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [260, 300, 384, 400])
def test_a_prefix_from_the_cache_changes_no_bit(model: Model, dtype: str, length: int) -> None:
    """Its blocks were computed as the request itself would have; the answer behind it was not, and is not taken."""
    engine = model.engine(dtype)
    first = whole(engine.submit(asked(256, most=150, logit_bias={END: -100.0})))[0]
    turn = ask((*prompt(420)[:256], *first.tokens, 5)[:length], most=12, logprobs=2)

    again = whole(engine.submit(turn))[0]
    engine.stop()

    assert len(turn.prompt) == length
    assert again.usage is not None
    assert again.usage.cached_tokens == 256
    assert bits(again) == bits(model.alone(dtype, turn))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt_has_the_same_bits_beside_any_other(model: Model, dtype: str) -> None:
    """Torch adds up and rounds by where a number lies, and divides large tensors among threads: none of it may show."""
    executor = open_executor(model.folder, execution="resident", dtype=dtype, device="cpu", blocks=8)

    def logits(beside: int) -> torch.Tensor:
        tokens = [*prompt(420, seed=1)[:beside], *prompt(256)]
        executor.submit(
            Batch(
                tokens_T=torch.tensor(tokens),
                positions_T=torch.tensor([*range(beside), *range(256)]),
                starts=(0, beside, beside + 256) if beside else (0, 256),
                contexts=(beside, 256) if beside else (256,),
                tables_SB=torch.tensor([[2, 3], [0, 1]] if beside else [[0, 1]], dtype=torch.int32),
                outputs=tuple(range(beside, beside + 256)),
            )
        )
        return executor.collect()

    alone_RV = logits(0)
    for beside in (1, 9, 11, 77, 215, 219):
        assert torch.equal(logits(beside), alone_RV), beside
    executor.close()
