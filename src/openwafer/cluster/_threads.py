"""How many threads of arithmetic an operator uses that the calling thread starts."""

from __future__ import annotations

import torch


def use_threads(count: int) -> None:
    """Let operators of the calling thread, and of no other that computes already, use `count` threads.

    A thread that has not computed yet takes, at its first operator, the count that any thread set last. Asking for the
    count makes it take that now, so that what is set afterwards holds.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)
