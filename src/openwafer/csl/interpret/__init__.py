"""The reference: PE-IR carried out in Python, one instruction after another, with the PE ABI of native code.

It says what PE-IR means in the plainest words; tests hold native code to it, bit for bit.
"""

from openwafer.csl.interpret._interpreter import Interpreter

__all__ = ["Interpreter"]
