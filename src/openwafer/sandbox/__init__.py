"""Runs a program that nobody trusts: it can touch what it was given, and nothing else of the machine.

    process = start(["/opt/env/bin/python", "program.py"], Confinement(mounts=(Mount(path="/data/set"),)))

What holds it is the strongest that the machine has (`Layers`): namespaces of its own where users may have them, else Landlock
and a stricter filter of system calls. No root is needed, and root gives itself up. Without either, nothing is run unless that
was asked for in so many words. The package knows nothing of jobs, and imports neither torch nor what needs it.
"""

from openwafer.sandbox._confinement import Confinement, Layers, Limits, Mount
from openwafer.sandbox._interpreter import interpreter_paths
from openwafer.sandbox._process import OUTPUT_BYTES, TIERS, Confined, Ended, Refused, printable, start

__all__ = [
    "OUTPUT_BYTES",
    "TIERS",
    "Confined",
    "Confinement",
    "Ended",
    "Layers",
    "Limits",
    "Mount",
    "Refused",
    "interpreter_paths",
    "printable",
    "start",
]
