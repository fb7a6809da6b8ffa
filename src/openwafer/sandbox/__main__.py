"""`python -m openwafer.sandbox`: the launcher of one confined process; `start` is the way to use it."""

from openwafer.sandbox._launch import main

main()
