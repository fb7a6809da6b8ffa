"""The reference: PE-IR carried out in Python, one instruction after another, with the PE ABI of native code.

It says what PE-IR means in the plainest words; tests hold native code to it, bit for bit.

    Interpreter    one unit's entries as callbacks
    Executor       the same for every Code of a machine
"""

from openwafer.csl.interpret._executor import Executor
from openwafer.csl.interpret._interpreter import Interpreter

__all__ = ["Executor", "Interpreter"]
