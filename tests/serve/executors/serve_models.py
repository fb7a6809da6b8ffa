"""Small random checkpoints that transformers makes, and batches written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from openwafer.serve.executors import BLOCK_TOKENS, Batch, Executor

SIZE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LLAMA_31 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("Llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama 3": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "llama 3.1 beyond its first length": ("Llama", {"rope_parameters": LLAMA_31}),
    "llama 3.2, tied": ("Llama", {"rope_parameters": LLAMA_31, "tie_word_embeddings": True}),
    "llama, one head of keys": ("Llama", {"num_key_value_heads": 1}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "mistral, window of 24": ("Mistral", {"sliding_window": 24}),
    "mistral, window of a block": ("Mistral", {"sliding_window": BLOCK_TOKENS}),
    "mistral, wide heads": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen 2": ("Qwen2", {}),
    "qwen 2, tied, yarn": ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen 2, window in its last layers": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "qwen 3": ("Qwen3", {"head_dim": 32}),
    "qwen 3, tied": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}


def save_model(
    folder: Path, case: str, dtype: torch.dtype = torch.float32, shard_size: str = "1GB", layers: int = 3
) -> transformers.PreTrainedModel:
    """The model, in `dtype`, whose checkpoint was written to the folder. No norm or bias is 0 or 1 but by chance."""
    family, changes = CASES[case]
    config = getattr(transformers, f"{family}Config")(**(SIZE | {"num_hidden_layers": layers} | changes))
    torch.manual_seed(len(case))
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape))
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return load_model(folder, dtype)


def load_model(folder: Path, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """The model as transformers serves it. (What `to(dtype)` was called on has rounded angles as well.)"""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def prompt(length: int, seed: int = 0) -> list[int]:
    """Random tokens of the small vocabulary."""
    return torch.randint(3, 160, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Sequences:
    """Runs sequences of tokens on an executor, with blocks dealt from the end of its cache in turn."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._free = list(range(executor.blocks))
        self._tables: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}

    def batch(self, new: dict[str, list[int]], every: bool = True) -> Batch:
        """A batch with new tokens of each sequence; the logits of all of them, or of each one's last."""
        tokens: list[int] = []
        positions: list[int] = []
        starts, contexts, outputs, tables = [0], [], [], []
        for name, more in new.items():
            before = self._lengths.get(name, 0)
            length = before + len(more)
            table = self._tables.setdefault(name, [])
            while len(table) * BLOCK_TOKENS < length:
                table.append(self._free.pop())
            self._lengths[name] = length
            tokens += more
            positions += range(before, length)
            outputs += range(starts[-1], len(tokens)) if every else [len(tokens) - 1]
            starts.append(len(tokens))
            contexts.append(length)
            tables.append(table)
        width = max(map(len, tables))
        return Batch(
            tokens_T=torch.tensor(tokens),
            positions_T=torch.tensor(positions),
            starts=tuple(starts),
            contexts=tuple(contexts),
            tables_SB=torch.tensor([t + [-1] * (width - len(t)) for t in tables], dtype=torch.int32),
            outputs=tuple(outputs),
        )

    def share(self, source: str, name: str, blocks: int) -> None:
        """Let a new sequence begin with another's first blocks, which are full."""
        self._tables[name] = self._tables[source][:blocks]
        self._lengths[name] = blocks * BLOCK_TOKENS

    def run(self, new: dict[str, list[int]], every: bool = True) -> dict[str, torch.Tensor]:
        """Logits [outputs of the sequence, vocabulary] by sequence."""
        batch = self.batch(new, every)
        self._executor.submit(batch)
        logits = self._executor.collect()
        assert logits.shape == (len(batch.outputs), self._executor.config.vocabulary)
        assert logits.dtype == torch.float32
        sizes = [len(more) if every else 1 for more in new.values()]
        return dict(zip(new, logits.split(sizes), strict=True))

    def greedy(self, prompts: dict[str, list[int]], count: int) -> dict[str, list[int]]:
        """The most likely `count` tokens after each prompt, all sequences in every batch."""
        answers: dict[str, list[int]] = {name: [] for name in prompts}
        new = prompts
        for _ in range(count):
            logits = self.run(new, every=False)
            new = {name: [int(row[-1].argmax())] for name, row in logits.items()}
            for name, (token,) in new.items():
                answers[name].append(token)
        return answers
