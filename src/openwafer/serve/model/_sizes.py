"""How many bytes the parts of a model take, before any of them is there."""

from __future__ import annotations

from openwafer.serve.kernels import BLOCK_TOKENS
from openwafer.serve.model._config import ModelConfig
from openwafer.serve.model._names import MATRICES, embedding_plan, head_plan, layer_plan
from openwafer.serve.model._precision import Precision


def layer_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of one layer's weights; all layers have the same."""
    total = 0
    for name, plan in layer_plan(config, 0).items():
        if name in MATRICES:
            total += precision.matrix_bytes(*plan.shape)
        else:
            total += plan.elements * precision.compute.itemsize
    return total


def embedding_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of the embedding, which is never quantised: of its rows only those of the tokens at hand are read."""
    return embedding_plan(config).elements * precision.compute.itemsize


def head_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of the last norm and the head, beside those of the embedding: a tied head adds a matrix only if quantised."""
    plan = head_plan(config)
    norm = plan["norm"].elements * precision.compute.itemsize
    shared = config.tied and precision.quantise == "none"
    return norm + (0 if shared else precision.matrix_bytes(*plan["head"].shape))


def model_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of all weights."""
    return (
        embedding_bytes(config, precision)
        + config.layers * layer_bytes(config, precision)
        + head_bytes(config, precision)
    )


def kv_block_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of one block of the KV cache over all layers: keys and values of BLOCK_TOKENS tokens."""
    return config.layers * kv_layer_block_bytes(config, precision)


def kv_layer_block_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of one block of the KV cache in one layer."""
    return 2 * BLOCK_TOKENS * config.heads_kv * config.head_dim * precision.compute.itemsize
