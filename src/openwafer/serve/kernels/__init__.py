"""What inference computes, on the CPU by native kernels where they are faster, else by torch.

At a decode step every weight is read once for a few tokens, so the memory's bandwidth is the bound: `Linear` holds a matrix
and multiplies up to `NATIVE_TOKENS` tokens by it natively, `attention` reads the paged KV cache where it lies, and
`DecoderLayer` is all of a layer in one call. Which instructions run is decided when the module is loaded (`levels`).

A native product adds up in float32 (int8 matrices: exactly), and gives the same bits whatever the number of threads and
whichever other tokens are in the batch.
"""

from openwafer.serve.kernels._attention import BLOCK_TOKENS, NATIVE_SEQUENCE_TOKENS, Paged, attention
from openwafer.serve.kernels._choose import (
    DRAW_AGAIN,
    NO_TOKEN,
    NOTHING_LEFT,
    Asked,
    Chosen,
    Floats,
    address,
    choose,
    draw_again,
)
from openwafer.serve.kernels._layer import DecoderLayer
from openwafer.serve.kernels._linear import NATIVE_TOKENS, Linear
from openwafer.serve.kernels._load import Level, levels, native_level, set_threads, threads, torch_alone
from openwafer.serve.kernels._small import rms_norm, rotary, swiglu

__all__ = [
    "BLOCK_TOKENS",
    "DRAW_AGAIN",
    "NATIVE_SEQUENCE_TOKENS",
    "NATIVE_TOKENS",
    "NOTHING_LEFT",
    "NO_TOKEN",
    "Asked",
    "Chosen",
    "DecoderLayer",
    "Floats",
    "Level",
    "Linear",
    "Paged",
    "address",
    "attention",
    "choose",
    "draw_again",
    "levels",
    "native_level",
    "rms_norm",
    "rotary",
    "set_threads",
    "swiglu",
    "threads",
    "torch_alone",
]
