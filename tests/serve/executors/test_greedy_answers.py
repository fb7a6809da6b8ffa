"""Greedy answers are transformers', token for token, whatever runs the model and whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch
import transformers
from serve_models import Sequences, prompt, save_model

from openwafer.serve.executors import PipelinedExecutor, ResidentExecutor, StreamingExecutor
from openwafer.serve.model import Checkpoint, Precision

FP32 = Precision(torch.float32)
PROMPTS = {str(length): prompt(length, length) for length in (1, 5, 17, 64, 100, 128, 130, 200)}
TOKENS = 64
BLOCKS = 24
EXECUTORS = {
    "resident": lambda checkpoint: ResidentExecutor(checkpoint, FP32, BLOCKS),
    "pipelined, 2 stages": lambda checkpoint: PipelinedExecutor(checkpoint, FP32, BLOCKS, 2),
    "pipelined, 4 stages": lambda checkpoint: PipelinedExecutor(checkpoint, FP32, BLOCKS, 4),
    "streaming through the page cache": lambda checkpoint: StreamingExecutor(
        checkpoint, FP32, BLOCKS, resident=1, direct=False
    ),
    "streaming past it": lambda checkpoint: StreamingExecutor(
        checkpoint, FP32, BLOCKS, resident=1, direct=True
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def expected(folder):
    """What transformers answers to each prompt alone, in float32; the model has four layers and Llama 3.1's RoPE."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    model = save_model(folder, "llama 3.1 beyond its first length", layers=4)
    model.generation_config.eos_token_id = None
    return {
        name: model.generate(torch.tensor([tokens]), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)[
            0, len(tokens) :
        ].tolist()
        for name, tokens in PROMPTS.items()
    }


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request, folder, expected):
    """One at a time: it is closed before the next one opens."""
    opened = EXECUTORS[request.param](Checkpoint(folder))
    yield opened
    opened.close()


@pytest.mark.parametrize("together", [1, 4, 8])
def test_greedy_answers_are_those_of_transformers(executor, expected, together):
    """64 tokens after each of eight prompts, from one token to more than a block, one, four or eight in a batch."""
    names = list(PROMPTS)
    groups = len(names) // together

    for start in range(groups):
        group = {name: PROMPTS[name] for name in names[start::groups]}
        answers = Sequences(executor).greedy(group, TOKENS)
        assert answers == {name: expected[name] for name in group}


def test_answers_are_the_same_while_others_come_and_go(executor, expected):
    """Every few tokens another prompt joins, and the one that is done leaves: no batch has the company of the one before."""
    sequences, waiting = Sequences(executor), list(PROMPTS.items())
    new: dict[str, list[int]] = {}
    answers: dict[str, list[int]] = {name: [] for name in PROMPTS}
    while new or waiting:
        if waiting and len(new) < 4:
            name, tokens = waiting.pop()
            new[name] = tokens
        for _ in range(9):
            if not new:
                break
            for name, logits in sequences.run(new, every=False).items():
                answers[name].append(int(logits[-1].argmax()))
            new = {name: answers[name][-1:] for name in new if len(answers[name]) < TOKENS}
    assert answers == expected
