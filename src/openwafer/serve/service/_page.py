"""The page to chat at, and the page that shows the server's load: files without any outside resource."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent


def pages() -> list[Route]:
    """GET / and GET /load. They need no key; what they ask the server for does."""
    return [_page("/", "chat.html"), _page("/load", "load.html")]


def _page(path: str, name: str) -> Route:
    text = (_FOLDER / name).read_text(encoding="utf-8")

    async def page(request: Request) -> Response:
        return HTMLResponse(text)

    return Route(path, page)
