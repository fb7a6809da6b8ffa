"""A model folder to a server that runs: options, loading, the listening socket, signals, and the end.

`Service` loads and serves in this process, `serve_apart` in one of its own; `ServiceConfig` is everything that can be chosen.
"""

from openwafer.serve.service._apart import serve_apart
from openwafer.serve.service._config import ServiceConfig
from openwafer.serve.service._service import Service

__all__ = ["Service", "ServiceConfig", "serve_apart"]
