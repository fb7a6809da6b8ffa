"""What programs of ours ask a server: `ask` a question, `find_model` that it has. Loads neither torch nor the server."""

from openwafer.serve.client._ask import Message, Told, ask, base_url, find_model

__all__ = ["Message", "Told", "ask", "base_url", "find_model"]
