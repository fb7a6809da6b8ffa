"""Native code against the interpreter, bit for bit."""

from __future__ import annotations

import ctypes
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ir_machine import RUNTIME, Machine, Native, resolved, run_both
from ir_strategies import FLOAT, SCALARS, WHOLE, units

from openwafer.csl import ir
from openwafer.csl.interpret import Interpreter

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(unit=units(), waits=st.lists(st.booleans(), max_size=12), arguments=st.binary(max_size=24))
def test_native_code_does_what_the_interpreter_does(unit: ir.Unit, waits: list[bool], arguments: bytes) -> None:
    """Memory, clock, fuel, every call of the runtime with its records, and where it waits or traps are the same."""
    code, memory = resolved(unit)

    interpreted, native = run_both(code, memory=memory, waits=waits, arguments=arguments)

    assert native.seen == interpreted.seen
