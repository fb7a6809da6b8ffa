"""Python's own limit on nested calls, raised while a program is compiled and as it was behind that."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CALLS = 40_000
"""Calls at comptime nest up to MAX_CALLS; each takes some tens of Python's own."""
_lock = threading.Lock()
_users = 0
_before = 0


@contextmanager
def deep_nesting() -> Iterator[None]:
    """Inside, calls of Python nest far enough for a compilation; may nest, and be used by several threads.

    The limit is the whole process's, and native code of others counts on a low one: it recurses over what strangers send,
    in threads whose stack ends long before 40,000 of its calls.
    """
    global _users, _before
    with _lock:
        if _users == 0:
            _before = sys.getrecursionlimit()
            sys.setrecursionlimit(max(_before, _CALLS))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                sys.setrecursionlimit(_before)
