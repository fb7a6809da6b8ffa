"""`wafer`: parse, call one library function, print its result."""

from __future__ import annotations

from openwafer.cli._importing import importing

__all__ = ["main"]


def main() -> None:
    """Entry point. Imports come here, so that Ctrl-C leaves no traceback while they run."""
    try:
        with importing():
            from openwafer.cli._app import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()
