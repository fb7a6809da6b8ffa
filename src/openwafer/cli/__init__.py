"""`wafer`: parse, call one library function, print its result."""

from openwafer.cli._app import main

__all__ = ["main"]
