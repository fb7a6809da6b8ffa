"""A model folder to a server that runs: options, loading, the listening socket, signals, and the end.

`Service` loads and serves; `ServiceConfig` is everything that can be chosen about it; `ask` is a small client for terminals.
"""

from openwafer.serve.service._client import Message, Told, ask, find_model
from openwafer.serve.service._config import ServiceConfig
from openwafer.serve.service._service import Service

__all__ = ["Message", "Service", "ServiceConfig", "Told", "ask", "find_model"]
