"""Places and rectangles under the name that existing programs import."""

from openwafer.host import IntRectangle, IntVector

__all__ = ["IntRectangle", "IntVector"]
