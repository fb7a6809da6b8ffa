"""The appliance's API under the name that existing programs import."""

from openwafer.compat._appliance import SdkCompiler, SdkRuntime
from openwafer.host import Task

__all__ = ["SdkCompiler", "SdkRuntime", "Task"]
