"""The copy options under the name that appliance programs import."""

from openwafer.host import MemcpyDataType, MemcpyOrder

__all__ = ["MemcpyDataType", "MemcpyOrder"]
