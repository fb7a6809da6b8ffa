"""Jobs over the machines of a Ray cluster: `wafer cluster up --engine ray`. Needs the package `ray`, loaded when used.

Ray says which machines there are and which of them have room, and carries "start", "look", "interrupt" and "kill" to an actor
on each. Tensors never pass through it: a job over several hosts talks as `wafer train --hosts` does.
"""

from openwafer.appliance.ray._engine import RayEngine

__all__ = ["RayEngine"]
