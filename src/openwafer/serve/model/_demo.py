"""A small model with random weights in a complete checkpoint folder, so that everything can be tried without a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from openwafer.base import StorageError
from openwafer.serve.model._config import ModelConfig, read_config
from openwafer.serve.model._names import embedding_plan, head_plan, layer_plan

_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|finetune_right_pad_id|>",
)
"""Llama 3's special tokens; they follow the 256 bytes."""
_BYTES = 256
_ID = {name: _BYTES + place for place, name in enumerate(_SPECIAL)}

_TEMPLATE = """\
{{- bos_token }}
{%- if messages and messages[0].role == "system" %}
    {%- set system = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = "" %}
    {%- set rest = messages %}
{%- endif %}
{%- if system or tools %}
    {{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
    {%- if tools %}
        {{- "Environment: ipython\\nAnswer a call as {\\"name\\": function, \\"parameters\\": object}.\\n" }}
        {%- for tool in tools %}
            {{- tool | tojson ~ "\\n" }}
        {%- endfor %}
    {%- endif %}
    {{- system ~ "<|eot_id|>" }}
{%- endif %}
{%- for message in rest %}
    {%- if message.role == "tool" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" ~ message.content ~ "<|eot_id|>" }}
    {%- elif message.tool_calls %}
        {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
        {%- for call in message.tool_calls %}
            {{- {"name": call.function.name, "parameters": call.function.arguments} | tojson }}
        {%- endfor %}
        {{- "<|eom_id|>" }}
    {%- elif message.role in ("system", "user", "assistant") %}
        {{- "<|start_header_id|>" ~ message.role ~ "<|end_header_id|>\\n\\n" }}
        {{- (message.content or "") | trim ~ "<|eot_id|>" }}
    {%- else %}
        {{- raise_exception("there is no role " ~ message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""


def make_demo(folder: Path | str, seed: int = 0, *, layers: int = 4, hidden: int = 256) -> Path:
    """Write a Llama 3.1 checkpoint with random weights in bfloat16, and return its folder, made if need be.

    The tokenizer knows the 256 bytes and Llama 3's special tokens. The head prefers printable characters, so answers are
    letters without meaning. The same arguments make the same bytes on one machine. hidden: a multiple of 32.

    Raises StorageError if the files cannot be written.
    """
    assert hidden % 32 == 0
    folder = Path(folder)
    config = _config(layers, hidden)
    files = {
        "model.safetensors": save(_weights(read_config(folder / "config.json", config, {}), seed)),
        "tokenizer.json": _json(_tokenizer()),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|begin_of_text|>",
                "eos_token": "<|eot_id|>",
                "model_max_length": config["max_position_embeddings"],
                "chat_template": _TEMPLATE,
            }
        ),
        "generation_config.json": _json(
            {
                "bos_token_id": _ID["<|begin_of_text|>"],
                "eos_token_id": [_ID[name] for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")],
            }
        ),
        # last, because a folder without it is no model
        "config.json": _json(config),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise StorageError(
            f"the demo model cannot be written to {folder} ({error.strerror}); choose another folder"
        ) from error
    return folder


def _config(layers: int, hidden: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _BYTES + len(_SPECIAL),
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": max(1, hidden // 128),
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": _ID["<|begin_of_text|>"],
        "eos_token_id": _ID["<|eot_id|>"],
        "torch_dtype": "bfloat16",
    }


def _weights(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    plans = [embedding_plan(config), *head_plan(config).values()]
    for layer in range(config.layers):
        plans += layer_plan(config, layer).values()
    weights: dict[str, torch.Tensor] = {}
    for name, shape in (source for plan in plans for source in plan.sources):
        # a matrix keeps the size of what it multiplies
        weight = (
            torch.ones(shape)
            if len(shape) == 1
            else torch.randn(shape, generator=generator) * shape[1] ** -0.5
        )
        if name == "embed_tokens.weight":
            weight *= shape[1] ** 0.5
        if name == "lm_head.weight":
            weight[0x20:0x7F] *= 3
            weight[_ID["<|eot_id|>"]] *= 3
        weights[name if name == "lm_head.weight" else f"model.{name}"] = weight.to(torch.bfloat16)
    return weights


def _tokenizer() -> dict[str, Any]:
    special = [
        {
            "id": token,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, token in _ID.items()
    ]
    start = "<|begin_of_text|>"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": start, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {start: {"id": start, "ids": [_ID[start]], "tokens": [start]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {_spelling(byte): byte for byte in range(_BYTES)},
            "merges": [],
        },
    }


def _spelling(byte: int) -> str:
    """Byte-level tokenizers spell bytes as themselves where they print, else as characters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(0x100 + sum(1 for other in range(byte) if other not in printable))


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=1, ensure_ascii=False).encode()
