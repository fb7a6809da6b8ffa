"""What a layer computes, on `kernels`, and the checkpoints that its weights come from.

`ModelConfig` is what a checkpoint's config.json says; `Checkpoint` reads tensors; `layer_plan` says which of them make a
layer's; `Embedding`, `Layer` and `Head` compute with them. A `Step` is what all layers share about a batch. Which layer
lies where, and when, is the executors' business.
"""

from openwafer.serve.kernels import BLOCK_TOKENS
from openwafer.serve.model._checkpoint import Checkpoint, Stored
from openwafer.serve.model._config import ModelConfig
from openwafer.serve.model._demo import make_demo
from openwafer.serve.model._ends import Embedding, Head
from openwafer.serve.model._layer import Layer
from openwafer.serve.model._load import Loader, Progress
from openwafer.serve.model._names import MATRICES, TensorPlan, embedding_plan, head_plan, layer_plan
from openwafer.serve.model._pages import new_tensor
from openwafer.serve.model._precision import Precision, choose_precision
from openwafer.serve.model._rope import Rope
from openwafer.serve.model._sizes import (
    embedding_bytes,
    head_bytes,
    kv_block_bytes,
    kv_layer_block_bytes,
    layer_bytes,
    model_bytes,
)
from openwafer.serve.model._step import Rotation, Step

__all__ = [
    "BLOCK_TOKENS",
    "MATRICES",
    "Checkpoint",
    "Embedding",
    "Head",
    "Layer",
    "Loader",
    "ModelConfig",
    "Precision",
    "Progress",
    "Rope",
    "Rotation",
    "Step",
    "Stored",
    "TensorPlan",
    "choose_precision",
    "embedding_bytes",
    "embedding_plan",
    "head_bytes",
    "head_plan",
    "kv_block_bytes",
    "kv_layer_block_bytes",
    "layer_bytes",
    "layer_plan",
    "make_demo",
    "model_bytes",
    "new_tensor",
]
