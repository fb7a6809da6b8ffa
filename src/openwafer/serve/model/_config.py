"""What a checkpoint's config.json says about a model, in one spelling for all families."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwafer.base import CheckpointError, InputError, UnsupportedModelError
from openwafer.serve.model._fields import Fields
from openwafer.serve.model._rope import Rope, read_rope

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a decoder of the Llama family; everything that its numbers depend on, beside the weights."""

    family: str
    """`llama`, `mistral`, `qwen2` or `qwen3`."""
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    heads_kv: int
    """Heads of keys and values; each serves `heads // heads_kv` query heads."""
    head_dim: int
    norm_epsilon: float
    context_tokens: int
    """The longest sequence that the model was made for."""
    rope: Rope
    windows: tuple[int | None, ...]
    """For each layer how many tokens a token sees, itself included; None: all before it."""
    tied: bool
    """The head's matrix is the embedding's."""
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """Queries and keys are normalised per head before they are rotated (Qwen 3)."""
    bos_token: int | None
    eos_tokens: tuple[int, ...]
    """Tokens that end an answer: those of generation_config.json, else of config.json."""

    @classmethod
    def from_folder(cls, folder: Path | str) -> ModelConfig:
        """Read `config.json` and, where it is there, `generation_config.json`.

        Raises InputError if there is no such folder or file, CheckpointError if a file is not what it should be,
        UnsupportedModelError if the model needs something that is not built here.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                f"there is no model at {folder}: no such folder; give the folder that holds config.json"
            )
        path = folder / "config.json"
        if not path.is_file():
            raise InputError(
                f"there is no model in {folder}: config.json is missing; give the folder of a Hugging Face checkpoint "
                "with config.json, tokenizer.json and .safetensors files"
            )
        generation = folder / "generation_config.json"
        return read_config(path, _read(path), _read(generation) if generation.is_file() else {})


def read_config(path: Path, values: dict[str, Any], generation: dict[str, Any]) -> ModelConfig:
    """A config from the contents of the two files; `path` is for messages."""
    family = _family(path, values)
    fields = Fields(path, values)
    heads = fields.count("num_attention_heads")
    heads_kv = fields.count("num_key_value_heads", heads)
    hidden = fields.count("hidden_size")
    layers = fields.count("num_hidden_layers")
    head_dim = fields.count("head_dim", 128 if family == "qwen3" else max(1, hidden // heads))
    context_tokens = fields.count("max_position_embeddings")
    if heads % heads_kv or head_dim % 2:
        raise CheckpointError(
            f"{path}: {heads} heads, {heads_kv} of keys and values, of {head_dim} numbers make no model: queries must "
            "divide evenly over keys, and a head must have an even size; copy the file again"
        )
    fields.demand("hidden_act", "silu")
    # A bias is named in the configuration where the family leaves the choice.
    bias = family in ("llama", "qwen3") and fields.flag("attention_bias", False)
    return ModelConfig(
        family=family,
        vocabulary=fields.count("vocab_size"),
        hidden=hidden,
        intermediate=fields.count("intermediate_size"),
        layers=layers,
        heads=heads,
        heads_kv=heads_kv,
        head_dim=head_dim,
        norm_epsilon=fields.number("rms_norm_eps", 1e-6),
        context_tokens=context_tokens,
        rope=read_rope(fields, context_tokens),
        windows=_windows(family, fields, layers),
        tied=fields.flag("tie_word_embeddings", False),
        qkv_bias=bias or family == "qwen2",
        output_bias=bias,
        mlp_bias=family == "llama" and fields.flag("mlp_bias", False),
        qk_norm=family == "qwen3",
        bos_token=next(iter(fields.tokens("bos_token_id")), None),
        eos_tokens=Fields(path.with_name("generation_config.json"), generation).tokens("eos_token_id")
        or fields.tokens("eos_token_id"),
    )


def _family(path: Path, values: dict[str, Any]) -> str:
    family = values.get("model_type")
    if family is None:
        raise CheckpointError(f"{path} names no model_type; give a Hugging Face checkpoint's own config.json")
    if family not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"{path} describes a model of type {family!r}, which is not one of {', '.join(_ARCHITECTURES)}; "
            "serve a checkpoint of one of these families"
        )
    architectures = values.get("architectures") or [_ARCHITECTURES[family]]
    if architectures != [_ARCHITECTURES[family]]:
        raise UnsupportedModelError(
            f"{path} describes {architectures}, which does not continue text; for {family} only "
            f"{_ARCHITECTURES[family]} can be served"
        )
    if quantised := values.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise UnsupportedModelError(
            f"{path}: the weights are quantised already (method {method!r}); take the checkpoint in bfloat16, float16 or "
            "float32, and choose int8 when it is loaded"
        )
    return str(family)


def _windows(family: str, fields: Fields, layers: int) -> tuple[int | None, ...]:
    if family == "llama":
        return (None,) * layers
    window = fields.count("sliding_window", 0, least=0) or None
    if family == "mistral":
        return (window,) * layers
    if not fields.flag("use_sliding_window", False):
        return (None,) * layers
    kinds = fields.values.get("layer_types")
    if kinds is None:
        first = fields.count("max_window_layers", 28, least=0)
        return tuple(window if layer >= first else None for layer in range(layers))
    known = {"sliding_attention": window, "full_attention": None}
    if not isinstance(kinds, list) or len(kinds) != layers or not set(map(str, kinds)) <= known.keys():
        raise UnsupportedModelError(
            f"{fields.path}: layer_types must name full_attention or sliding_attention for each of {layers} layers; "
            "other kinds of attention cannot be served"
        )
    return tuple(known[kind] for kind in kinds)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); copy it again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is no JSON object; copy it again")
    return values
