"""Where MemoryX keeps weights and optimizer state, and the checkpoints made of them.

A `Store` holds one record per layer: `RamStore` in memory, `DiskStore` in files that any safetensors reader
reads. A checkpoint is a folder of plain safetensors shards, complete or not there at all.
"""

from openwafer.cluster.store._base import NO_VALUES, Stats, Store
from openwafer.cluster.store._checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    verify_checkpoint,
)
from openwafer.cluster.store._disk import DiskStore
from openwafer.cluster.store._files import aligned_buffer
from openwafer.cluster.store._folders import list_checkpoints
from openwafer.cluster.store._format import read_header
from openwafer.cluster.store._initialise import initialise
from openwafer.cluster.store._ram import RamStore
from openwafer.cluster.store._tensors import view_tensors
from openwafer.cluster.store._weights import Weights, open_weights
from openwafer.cluster.store._writer import CheckpointWriter, save_checkpoint

__all__ = [
    "NO_VALUES",
    "Checkpoint",
    "CheckpointWriter",
    "DiskStore",
    "RamStore",
    "Stats",
    "Store",
    "Weights",
    "aligned_buffer",
    "initialise",
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "open_weights",
    "read_header",
    "save_checkpoint",
    "verify_checkpoint",
    "view_tensors",
]
