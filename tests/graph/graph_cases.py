"""What the graph tests share: model families on the meta device, and their captured and planned steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openwafer.artifact import Plan, TensorType
from openwafer.graph import PlanOptions, StepGraph, capture, plan_job
from openwafer.train import load_recipe
from openwafer.train._initial import build_empty
from openwafer.train._step import make_step
from openwafer.train.optim import AdamW, UpdateRule

RECIPES = Path(__file__).parents[2] / "recipes"
LAYERS = 4
SEQ = 16
VOCABULARY = 64
ADAMW = AdamW()


@dataclass(frozen=True)
class Family:
    """A model, made without memory for its weights, and what its step reads."""

    name: str
    make: Callable[[], nn.Module]
    inputs: dict[str, TensorType]
    loss: Callable[..., Tensor] | None = None

    def step(self, module: nn.Module) -> Any:
        """The step function, by the conventions of RunConfig."""
        names = list(self.inputs)
        batch: Any = {name: torch.zeros(1) for name in names}
        if names[0].startswith("input") and names[0][-1].isdigit():
            batch = tuple(batch.values())
        return make_step(module, batch, self.loss, {})

    def capture(
        self, samples: int = 8, rule: UpdateRule | None = ADAMW, train: bool = True, **options: Any
    ) -> StepGraph:
        """A new capture of a new module."""
        module = build_empty(self.make).train(train)
        return capture(module, self.step(module), self.inputs, samples, rule, **options)


TOKENS = {"input_ids": TensorType("int64", (SEQ,)), "labels": TensorType("int64", (SEQ,))}


def _recipe(name: str) -> Family:
    config = load_recipe(RECIPES / f"{name}.py", size="tiny")
    made = config.model
    if name in ("gpt", "bert"):
        kind, (_, width, heads, _) = made.func, made.args
        return Family(name, lambda: kind(LAYERS, width, heads, SEQ), TOKENS, config.loss)
    if name == "vit":
        kind, (side, patch, _, width, heads) = made.func, made.args
        pixels = {"input0": TensorType("float32", (side * side,)), "input1": TensorType("int64", ())}
        return Family(name, lambda: kind(side, patch, LAYERS, width, heads), pixels, config.loss)
    if name == "llama":
        kind, (size,) = made.func, made.args
        return Family(name, lambda: kind(replace(size, layers=LAYERS)), TOKENS, config.loss)
    pixels = {"input0": TensorType("float32", (64,)), "input1": TensorType("int64", ())}
    return Family(name, made, pixels, config.loss)


def _transformers(name: str) -> Family:
    import transformers as t

    shape = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

    def gpt2() -> nn.Module:
        return t.GPT2LMHeadModel(t.GPT2Config(n_positions=SEQ, n_embd=32, n_layer=LAYERS, n_head=2, **shape))

    def llama() -> nn.Module:
        return t.LlamaForCausalLM(
            t.LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=SEQ,
                **shape,
            )
        )

    def bert(dropout: float) -> nn.Module:
        return t.BertForMaskedLM(
            t.BertConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=LAYERS,
                num_attention_heads=2,
                max_position_embeddings=SEQ,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                **shape,
            )
        )

    kinds = {
        "hf_gpt2": gpt2,
        "hf_llama": llama,
        "hf_bert": lambda: bert(0.1),
        "hf_bert_without_dropout": lambda: bert(0.0),
    }

    def make() -> nn.Module:
        model = kinds[name]()
        model.config.use_cache = False
        return model

    return Family(name, make, TOKENS)


FAMILIES = (
    "mnist",
    "gpt",
    "llama",
    "bert",
    "vit",
    "hf_gpt2",
    "hf_llama",
    "hf_bert",
    "hf_bert_without_dropout",
)


@cache
def family(name: str) -> Family:
    return _transformers(name) if name.startswith("hf_") else _recipe(name)


@cache
def captured(name: str, samples: int = 8, train: bool = True) -> StepGraph:
    """The step of a family; dropout stays where the family has it."""
    return family(name).capture(samples, ADAMW if train else None, train)


def planned(name: str, **options: Any) -> Plan:
    """A plan over cached captures."""
    chosen = PlanOptions(**{"batch": 8, **options})
    return plan_job(name, lambda samples, train: captured(name, samples, train), chosen)
