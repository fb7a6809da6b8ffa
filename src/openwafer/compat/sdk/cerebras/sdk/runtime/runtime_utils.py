"""The conversions under the name that programs of older SDKs import."""

from openwafer.base import InputError
from openwafer.host import (
    calculate_cycles,
    float_to_hex,
    input_array_to_u32,
    make_u48,
    memcpy_view,
    sub_ts,
)

__all__ = ["calculate_cycles", "float_to_hex", "input_array_to_u32", "make_u48", "memcpy_view", "sub_ts"]

_OLD = {
    "convert_input_tensor": "give memcpy_h2d the place, the size and the array itself, flattened by `order`",
    "prepare_output_tensor": "give memcpy_d2h the place, the size and an array of 32-bit words",
    "format_output_tensor": "reshape the array that memcpy_d2h filled, and view 16-bit values with sdk_utils.memcpy_view",
}


def __getattr__(name: str) -> object:
    if name in _OLD:
        raise InputError(
            f"runtime_utils.{name} is of SDK 0.x and works on port maps, which are gone; {_OLD[name]}"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
