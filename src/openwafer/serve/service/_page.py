"""The page to chat at: one file without any outside resource."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

_PAGE = Path(__file__).with_name("chat.html")


def chat_page() -> Route:
    """GET / answers the page. It needs no key; what it asks the server for does."""
    text = _PAGE.read_text(encoding="utf-8")

    async def page(request: Request) -> Response:
        return HTMLResponse(text)

    return Route("/", page)
