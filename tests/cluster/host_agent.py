"""An agent of this machine for the tests of several hosts: `python host_agent.py PORT TOKEN`, until it is killed."""

from __future__ import annotations

import sys
import time

from openwafer.cluster import serve_host


def shift_clock(ahead_s: float) -> None:
    """Hosts were switched on at different times, and their monotonic clocks count from then."""
    real = time.monotonic
    time.monotonic = lambda: real() + ahead_s


if __name__ == "__main__":
    shift_clock(1e6)
    serve_host("127.0.0.1", int(sys.argv[1]), sys.argv[2].encode(), stay=True, tell=lambda line: None)
