"""The StepGraph and what can be asked of its nodes."""

from openwafer.graph.ir._step import (
    RNG,
    SAMPLE_FRACTION,
    SampleTensor,
    StepGraph,
    is_view,
    op_name,
    tensor_inputs,
    tensor_type,
    verify,
)

__all__ = [
    "RNG",
    "SAMPLE_FRACTION",
    "SampleTensor",
    "StepGraph",
    "is_view",
    "op_name",
    "tensor_inputs",
    "tensor_type",
    "verify",
]
