"""When two values are the same for a program: tiles whose params are the same run one program."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from openwafer.csl.sema import _types as t
from openwafer.csl.sema._values import FunctionValue, Value


def identity(value: Value) -> Hashable:
    """A key that two known values share exactly if nothing in a program can tell them apart."""
    data = value.data
    if isinstance(data, np.ndarray):
        return value.type, data.tobytes()
    if isinstance(data, tuple):
        return value.type, tuple(identity(one) if isinstance(one, Value) else one for one in data)
    if isinstance(data, FunctionValue) or value.type is t.MODULE:
        return value.type, id(data)
    if isinstance(data, float):
        return value.type, data.hex()  # -0.0 and NaN count too
    return value.type, data
