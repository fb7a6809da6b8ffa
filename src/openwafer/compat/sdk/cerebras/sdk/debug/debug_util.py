"""debug_util under the name that existing programs import."""

from openwafer.host import debug_util

__all__ = ["debug_util"]
