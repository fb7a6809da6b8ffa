"""`python -m openwafer.cli`, where the `wafer` script may not be on the path."""

from openwafer.cli import main

main()
