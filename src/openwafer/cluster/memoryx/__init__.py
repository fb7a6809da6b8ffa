"""MemoryX: holds weights and optimizer state, sends weights in stream order, receives gradients, updates.

Its threads, which meet in the Ledger:

    stream <stage>   _down.py: for each step wait until a record carries the last update, read it, cast it, send it
    update <stage>   _up.py: for each step receive gradients (SwarmX sums them), update the record, write it
    write            _up.py: puts updated records back on disk
    checkpoint       _checkpoints.py: copies records out beside the run; an update waits until its record was copied
"""

from openwafer.cluster.memoryx._role import MemoryXRole

__all__ = ["MemoryXRole"]
