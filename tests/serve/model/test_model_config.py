"""What config.json may say, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from openwafer.base import CheckpointError, InputError, UnsupportedModelError
from openwafer.serve.model import ModelConfig, make_demo

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}


def read(folder, generation=None, **changes):
    values = {name: value for name, value in (LLAMA | changes).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return ModelConfig.from_folder(folder)


def test_a_llama_reads_as_written(tmp_path):
    """The fields in their own words, and the family's defaults for those that are absent."""
    config = read(tmp_path)

    assert (config.hidden, config.heads, config.heads_kv, config.head_dim) == (4096, 32, 8, 128)
    assert config.rope.kind == "default"
    assert config.rope.theta == 500000.0
    assert config.windows == (None, None)
    assert not any((config.tied, config.qkv_bias, config.output_bias, config.mlp_bias, config.qk_norm))
    assert (config.bos_token, config.eos_tokens) == (128000, (128001,))


def test_null_counts_as_absent(tmp_path):
    """Published files write null for what the family decides."""
    config = read(tmp_path, head_dim=None, rope_scaling=None, num_key_value_heads=None)

    assert (config.head_dim, config.heads_kv) == (128, 32)


def test_generation_config_names_the_tokens_that_end_an_answer(tmp_path):
    """Llama 3 ends answers with <|eot_id|>, which only that file says."""
    config = read(tmp_path, generation={"eos_token_id": [128001, 128008, 128009]})

    assert config.eos_tokens == (128001, 128008, 128009)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_both_spellings_of_rope_are_read(tmp_path, key):
    """transformers 5 writes rope_parameters with theta in it, all others rope_scaling beside rope_theta."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    changes = {key: scaling} | ({"rope_theta": ...} if key == "rope_parameters" else {})
    if key == "rope_parameters":
        scaling["rope_theta"] = 500000.0

    rope = read(tmp_path, **changes).rope

    assert (rope.kind, rope.theta, rope.factor, rope.original_tokens) == ("llama3", 500000.0, 8.0, 8192)


def test_llama31_leaves_fast_turns_and_stretches_slow_ones(tmp_path):
    """The published rule: more than 4 turns over the original length stay, fewer than 1 turn 8 times slower."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = read(tmp_path, rope_scaling=scaling)
    plain = read(tmp_path).rope.frequencies(128)

    scaled = config.rope.frequencies(128)

    turns = 8192 * plain / (2 * torch.pi)
    assert torch.equal(scaled[turns > 4], plain[turns > 4])
    assert torch.equal(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns < 4) & (turns > 1)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_mistral_sees_a_window_in_every_layer_and_qwen_in_its_last_ones(tmp_path):
    """Qwen's sliding_window is only meant where use_sliding_window says so."""
    mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096}
    qwen = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "sliding_window": 4096}

    assert read(tmp_path, **mistral).windows == (4096, 4096)
    assert read(tmp_path, **qwen).windows == (None, None)
    assert read(tmp_path, **qwen, use_sliding_window=True, max_window_layers=1).windows == (None, 4096)
    kinds = ["sliding_attention", "full_attention"]
    assert read(tmp_path, **qwen, use_sliding_window=True, layer_types=kinds).windows == (4096, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "gemma3"}, "'gemma3', which is not one of llama, mistral, qwen2, qwen3"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "does not continue text"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised already .method 'awq'.*choose int8"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and only 'silu'"),
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "RoPE of type 'longrope' is not built"),
        ({"partial_rotary_factor": 0.5}, "only 0.5 of each head is rotated"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(tmp_path, changes, says):
    """Numbers that would silently be wrong are worse than none."""
    with pytest.raises(UnsupportedModelError, match=says):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": ...}, "config.json: hidden_size is missing"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2', not a whole number of at least 1"),
        ({"vocab_size": 0}, "vocab_size is 0, not a whole number of at least 1"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05, not a number above 0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', not true or false"),
        ({"num_key_value_heads": 5}, "32 heads, 5 of keys and values"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0, not a whole"),
        ({"head_dim": 63}, "a head must have an even size"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>', not a token id"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor is missing"),
        ({"rope_scaling": [8]}, "not an object"),
        ({"model_type": ...}, "names no model_type"),
    ],
)
def test_a_wrong_config_names_the_field(tmp_path, changes, says):
    """The file was damaged or written by hand."""
    with pytest.raises(CheckpointError, match=says):
        read(tmp_path, **changes)


def test_a_folder_without_a_model_is_the_users_mistake(tmp_path):
    """No folder, no config.json, and a config.json that is no JSON."""
    with pytest.raises(InputError, match="no such folder"):
        ModelConfig.from_folder(tmp_path / "none")
    with pytest.raises(InputError, match=r"config\.json is missing"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is no JSON object"):
        ModelConfig.from_folder(tmp_path)


def test_the_demo_is_a_llama_31(tmp_path):
    """So that everything which such a checkpoint has can be tried with it."""
    config = ModelConfig.from_folder(make_demo(tmp_path, layers=2, hidden=64))

    assert (config.family, config.rope.kind, config.layers, config.hidden) == ("llama", "llama3", 2, 64)
    assert len(config.eos_tokens) == 3
