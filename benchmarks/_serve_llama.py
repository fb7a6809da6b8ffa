"""llama.cpp as a contestant of `serve_peers.py`, in an environment of its own, without openwafer and torch."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from _serve_rates import measured
from _worker import Settings, answer
from gguf import GGMLQuantizationType, GGUFWriter

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf(settings: Settings) -> dict[str, Any]:
    """Worker: the checkpoint's weights as a GGUF file, matrices in bfloat16, norms in float32, without a tokenizer."""
    folder = Path(settings["folder"])
    config = json.loads((folder / "config.json").read_text())
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    writer = GGUFWriter(settings["gguf"], "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    data = np.memmap(folder / "model.safetensors", mode="r")
    size = int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8 : 8 + size]))
    header.pop("__metadata__", None)
    for name, stored in header.items():
        begin, end = (8 + size + offset for offset in stored["data_offsets"])
        numbers = data[begin:end].view("<u2").reshape(stored["shape"])
        theirs = _name(name.removesuffix(".weight"))
        if numbers.ndim == 1:
            writer.add_tensor(theirs, (numbers.astype("<u4") << 16).view("<f4"))
            continue
        if "q_proj" in name or "k_proj" in name:  # they turn neighbours together, we halves of a head
            rows = numbers.reshape(heads if "q_proj" in name else keys, 2, -1, numbers.shape[1])
            numbers = rows.swapaxes(1, 2).reshape(numbers.shape)
        writer.add_tensor(
            theirs, np.ascontiguousarray(numbers).view(np.uint8), raw_dtype=GGMLQuantizationType.BF16
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {}


def _name(name: str) -> str:
    if name in ENDS:
        return f"{ENDS[name]}.weight"
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def llama(settings: Settings) -> dict[str, Any]:
    """Worker: its figures."""
    llama_cpp.llama_backend_init()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    count, most = settings["sequences"], max(settings["prefills"])
    each = settings["prompt_tokens"] + settings["steps"] + 1
    model = llama_cpp.llama_model_load_from_file(
        settings["gguf"].encode(), llama_cpp.llama_model_default_params()
    )
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = count * -(-max(most, each) // 256) * 256
    parameters.n_batch = parameters.n_ubatch = max(most, count * settings["prompt_tokens"])
    parameters.n_seq_max = count
    parameters.n_threads = parameters.n_threads_batch = settings["threads"]
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not model or not context:
        sys.exit("llama.cpp could not load the model")
    vocabulary = settings["vocabulary"]
    batch = llama_cpp.llama_batch_init(parameters.n_batch, 0, 1)

    def run(tokens: list[list[int]], contexts: list[int]) -> list[int]:
        if contexts[0] == 0:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        at, last = 0, []
        for sequence, (new, before) in enumerate(zip(tokens, contexts, strict=True)):
            for place, token in enumerate(new):
                batch.token[at], batch.pos[at] = token, before + place
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
                batch.logits[at] = place == len(new) - 1
                at += 1
            last.append(at - 1)
        batch.n_tokens = at
        if status := llama_cpp.llama_decode(context, batch):
            sys.exit(f"llama_decode failed with {status}")
        logits = [llama_cpp.llama_get_logits_ith(context, place) for place in last]
        return [int(np.ctypeslib.as_array(row, (vocabulary,)).argmax()) for row in logits]

    return measured(settings, run)


if __name__ == "__main__":
    answer({"gguf": gguf, "llama": llama}, sys.argv[2:])
