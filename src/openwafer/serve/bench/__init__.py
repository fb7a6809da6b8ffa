"""How a server does under load: many clients over HTTP, and the times at which they got their answers.

`measure_load` asks a server as a `LoadPlan` says; its `LoadReport` is a table, JSON and, by `draw_load`, a picture.
"""

from openwafer.serve.bench._measure import measure_load
from openwafer.serve.bench._picture import draw_load
from openwafer.serve.bench._plan import LoadPlan, Messages, read_chats
from openwafer.serve.bench._report import Level, LoadReport

__all__ = ["Level", "LoadPlan", "LoadReport", "Messages", "draw_load", "measure_load", "read_chats"]
