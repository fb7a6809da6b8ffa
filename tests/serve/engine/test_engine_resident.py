"""The engine on a real model: what comes out is what transformers generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from engine_fakes import END, ask, prompt, small_model, tokenizer, whole  # type: ignore[import-not-found]

from openwafer.serve.engine import Engine, Limits, Statistics
from openwafer.serve.executors import open_executor

TOKENS = 64
PROMPTS = [prompt(length, seed=length % 3) for length in (1, 17, 120, 110, 130, 130, 140, 260, 300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers differ from each other."""
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    """Greedy answers, one prompt at a time."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for tokens in PROMPTS:
        with torch.no_grad():
            whole_ = model.generate(
                torch.tensor([tokens]),
                attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=END,
            )[0, len(tokens) :].tolist()
        found.append(whole_[: whole_.index(END)] if END in whole_ else whole_)
    assert len({tuple(answer) for answer in found}) == len(set(PROMPTS))
    assert max(len(set(answer)) for answer in found) > 20
    return found


def answers(
    folder: Path, blocks: int, predict: list[list[int]] | None, **limits: int
) -> tuple[list[list[int]], Statistics]:
    executor = open_executor(folder, execution="resident", dtype="float32", device="cpu", blocks=blocks)
    engine = Engine(executor, tokenizer(), limits=Limits(**limits))
    requests = [
        ask(tokens, most=TOKENS, prediction=tuple(predict[i]) if predict else ())
        for i, tokens in enumerate(PROMPTS)
    ]
    running = [engine.submit(request) for request in requests]
    found = [list(whole(answer)[0].tokens) for answer in running]
    statistics = engine.statistics()
    engine.stop()
    return found, statistics


@pytest.mark.parametrize(
    ("blocks", "limits"),
    [
        (40, {}),
        (40, {"running": 1}),
        (40, {"chunk_tokens": 128, "batch_tokens": 640}),
        (4, {}),
        (40, {"running": 2}),
    ],
)
def test_greedy_answers_are_those_of_transformers(
    folder: Path, expected: list[list[int]], blocks: int, limits: dict[str, int]
) -> None:
    """Token for token in float32, whatever shares the batch, in chunks, with a starved cache, with found prefixes."""
    found, statistics = answers(folder, blocks, None, **limits)

    assert found == expected
    assert (statistics.preemptions_total > 0) == (blocks == 4)


def test_predictions_change_no_greedy_answer(folder: Path, expected: list[list[int]]) -> None:
    """Right ones save batches; those of another prompt are rejected."""
    found, right = answers(folder, 40, expected)
    shifted, wrong = answers(folder, 40, expected[1:] + expected[:1])

    assert found == shifted == expected
    assert right.accepted_tokens_total > 200 > wrong.accepted_tokens_total
    assert right.batches_total < wrong.batches_total / 2
