"""A model whose next token is a hash of all tokens before it, read through the paged cache; and what is compared with it."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections import deque
from collections.abc import Sequence as Tokens
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from openwafer.base import EngineError
from openwafer.serve.engine import Answer, Engine, Limits, Piece, Request, Sampling
from openwafer.serve.executors import BLOCK_TOKENS, Batch
from openwafer.serve.model import ModelConfig
from openwafer.serve.text import Tokenizer

VOCABULARY = 258
END = 257


@lru_cache
def tokenizer() -> Tokenizer:
    """A token for each byte, a begin and an end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({w: i for i, w in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|begin|>", "<|end|>")])
    assert backend.token_to_id("<|end|>") == END
    return Tokenizer(backend, end_tokens=[END])


@lru_cache
def config(context_tokens: int) -> ModelConfig:
    """Of a model with this vocabulary; nothing else of it matters here."""
    values = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": context_tokens,
        "eos_token_id": END,
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(values))
        return ModelConfig.from_folder(folder)


def logits_after(tokens: Tokens[int]) -> torch.Tensor:
    """The model: float32 [VOCABULARY], of no other thing than all of these tokens."""
    key = hashlib.blake2b(np.asarray(tokens, dtype=np.int64).tobytes(), digest_size=8).digest()
    draws = np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))
    return torch.from_numpy(draws.standard_normal(VOCABULARY, dtype=np.float32) * 3)


def greedy(prompt: Tokens[int], most: int, end: int = END) -> list[int]:
    """The answer that has to come, its end token left out."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < most:
        token = int(logits_after(tokens).argmax())
        if token == end:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


class FakeExecutor:
    """Keeps tokens where a model keeps keys and values, and refuses batches that no executor could run."""

    def __init__(
        self, blocks: int = 64, in_flight: int = 1, context_tokens: int = 4096, fail_after: int | None = None
    ) -> None:
        self.config = config(context_tokens)
        self.blocks = blocks
        self.in_flight = in_flight
        self.batches: list[Batch] = []
        self.closed = False
        self.busy_s = (0.0,)
        """A second for each batch."""
        self._fail_after = fail_after
        self._cache = np.full((blocks, BLOCK_TOKENS), -1, dtype=np.int64)
        self._flying: deque[Batch] = deque()

    def submit(self, batch: Batch) -> None:
        assert not self.closed
        assert len(self._flying) < self.in_flight
        tables = [[b for b in row if b >= 0] for row in batch.tables_SB.tolist()]
        assert list(batch.outputs) == sorted(set(batch.outputs))
        assert batch.starts[-1] == len(batch.tokens_T) == len(batch.positions_T)
        others = [b for flying in self._flying for row in flying.tables_SB.tolist() for b in row]
        for s, table in enumerate(tables):
            first, end = batch.starts[s], batch.starts[s + 1]
            context = batch.contexts[s]
            assert batch.positions_T[first:end].tolist() == list(range(context - (end - first), context))
            assert len(set(table)) == len(table) >= -(-context // BLOCK_TOKENS)
            written = {table[p // BLOCK_TOKENS] for p in batch.positions_T[first:end].tolist()}
            elsewhere = {b for other, row in enumerate(tables) if other != s for b in row}
            assert not written & (elsewhere | set(others)), (
                "a block is written that another sequence refers to"
            )
        self.batches.append(batch)
        self._flying.append(batch)

    def collect(self) -> torch.Tensor:
        assert self._flying
        if self._fail_after is not None and len(self.batches) > self._fail_after:
            raise EngineError("a stage was killed")
        batch = self._flying.popleft()
        self.busy_s = (self.busy_s[0] + 1.0,)
        rows = []
        for s, (first, end) in enumerate(zip(batch.starts, batch.starts[1:], strict=False)):
            table = batch.tables_SB[s].numpy()
            places = batch.positions_T[first:end].numpy()
            self._cache[table[places // BLOCK_TOKENS], places % BLOCK_TOKENS] = batch.tokens_T[
                first:end
            ].numpy()
            context = self._cache[table].reshape(-1)
            for t in range(first, end):
                if t in batch.outputs:
                    seen = context[: int(batch.positions_T[t]) + 1]
                    assert (seen >= 0).all(), "a token was never computed"
                    rows.append(logits_after(seen))
        return torch.stack(rows) if rows else torch.empty(0, VOCABULARY)

    def close(self) -> None:
        self.closed = True


class SteppedExecutor(FakeExecutor):
    """Finishes a batch only when it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._permits = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)
        """Released when a batch came."""

    def collect(self) -> torch.Tensor:
        self.arrived.release()
        assert self._permits.acquire(timeout=60)
        return super().collect()

    def step(self, batches: int = 1) -> None:
        """Wait for so many batches, and finish each."""
        for _ in range(batches):
            assert self.arrived.acquire(timeout=60), "no batch came"
            self._permits.release()

    def go_on(self) -> None:
        """Finish all from now on."""
        self._permits.release(100_000)


def small_model(folder: Path) -> Path:
    """Writes a checkpoint of two layers, whose random weights are large enough for answers that do not repeat one token."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=END,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def engine_on(executor: FakeExecutor, **limits: Any) -> Engine:
    """An engine over the fake model."""
    return Engine(executor, tokenizer(), limits=Limits(**limits))


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Random bytes, as tokens."""
    return tuple(np.random.default_rng(seed).integers(0, 256, length).tolist())


def ask(tokens: Tokens[int], most: int | None = 8, **changes: Any) -> Request:
    """A greedy request; changes are of Request, or of Sampling."""
    names = Sampling.__dataclass_fields__
    sampling = Sampling(
        **{"temperature": 0.0, **{key: changes.pop(key) for key in list(changes) if key in names}}
    )
    return Request("test", tuple(tokens), sampling, max_tokens=most, **changes)


def whole(answer: Answer) -> dict[int, Piece]:
    """Wait for an answer's end: each choice's pieces joined."""
    found: dict[int, Piece] = {}
    for piece in answer:
        before = found.get(piece.choice, Piece(piece.choice))
        assert before.finish is None, "something came after the end"
        found[piece.choice] = replace(
            piece,
            text=before.text + piece.text,
            tokens=before.tokens + piece.tokens,
            logprobs=before.logprobs + piece.logprobs,
        )
    assert all(piece.finish is not None for piece in found.values())
    return found


def run(engine: Engine, request: Request) -> Piece:
    """The first choice of a request's answer."""
    return whole(engine.submit(request))[0]
