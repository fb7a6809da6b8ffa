"""The Llama with random weights that inference is measured with. Nothing but the standard library until one is written."""

from __future__ import annotations

import json
from pathlib import Path

SHAPES = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}
"""1b: TinyLlama's, with 1.1 billion weights."""


def numbers_of(config: dict[str, int]) -> int:
    """About how many weights."""
    per_layer = 4 * config["hidden_size"] ** 2 + 3 * config["hidden_size"] * config["intermediate_size"]
    return config["num_hidden_layers"] * per_layer + 2 * config["vocab_size"] * config["hidden_size"]


def write_model(folder: Path, config: dict[str, int]) -> int:
    """Write one in bfloat16, with the demo's tokenizer, which knows its first tokens.

    Returns the bytes of the weights that one token needs, all but the embedding.
    """
    import torch
    from safetensors.torch import save_file

    from openwafer.serve.model import make_demo

    make_demo(folder, layers=1, hidden=32)
    (folder / "generation_config.json").unlink()
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {
        "model.embed_tokens": (config["vocab_size"], hidden),
        "lm_head": (config["vocab_size"], hidden),
        "model.norm": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        parts = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in parts.items()}
    # A million random numbers, from another place for each matrix: more would take longer than the benchmark.
    numbers = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    weights = {}
    for place, (name, shape) in enumerate(shapes.items()):
        if len(shape) == 1:
            weights[f"{name}.weight"] = torch.ones(shape, dtype=torch.bfloat16)
            continue
        rows, columns = shape
        times = -(-rows * columns // len(numbers))
        scaled = numbers.roll(7919 * place) * columns**-0.5
        weights[f"{name}.weight"] = scaled.repeat(times)[: rows * columns].view(rows, columns).clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    whole = {
        **config,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(whole))
    return sum(weight.nbytes for name, weight in weights.items() if "embed" not in name)
