"""The conversions under the name that existing programs import."""

from openwafer.host import (
    calculate_cycles,
    float_to_hex,
    input_array_to_u32,
    make_u48,
    memcpy_view,
    sub_ts,
)

__all__ = ["calculate_cycles", "float_to_hex", "input_array_to_u32", "make_u48", "memcpy_view", "sub_ts"]
