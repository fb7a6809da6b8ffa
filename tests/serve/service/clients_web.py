"""Pages and services of others, as small as the public programs' clients let them be: a paper, an encyclopedia, traces.

Each is a Starlette app for one host. What is found there is made up; its form is that of the public service.
"""

from __future__ import annotations

import hashlib
import json
from email import message_from_bytes
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

TITLE = "Addition"
SUMMARY = "Addition is one of the four operations of arithmetic. The sum of two and three is five."
PARAGRAPHS = 12
"""Of the paper: enough for a program that reads it page by page to turn pages."""


def paper() -> Starlette:
    """A paper as ar5iv shows it, with a title, paragraphs of a hundred words, and a bibliography."""

    async def page(request: Request) -> Response:
        text = "".join(
            f'<p class="ltx_p">{at}. {(SUMMARY + " ") * 6}</p>\n' for at in range(1, PARAGRAPHS + 1)
        )
        return HTMLResponse(
            f'<article><h1 class="ltx_title ltx_title_document">On sums</h1>\n{text}'
            '<section id="bib"><ul class="ltx_biblist"><li>Euclid, Elements.</li></ul></section></article>'
        )

    return Starlette(routes=[Route("/html/{paper}", page)])


def encyclopedia() -> Starlette:
    """MediaWiki's API with one page, which every search finds."""

    async def api(request: Request) -> Response:
        asked = request.query_params
        if asked.get("action") == "opensearch":
            return JSONResponse(
                [asked.get("search"), [TITLE], [SUMMARY], [f"https://{request.url.netloc}/wiki/{TITLE}"]]
            )
        if asked.get("list") == "search":
            return JSONResponse({"query": {"search": [{"ns": 0, "title": TITLE, "pageid": 1}]}})
        page = {
            "pageid": 1,
            "ns": 0,
            "title": TITLE,
            "fullurl": f"https://{request.url.netloc}/wiki/{TITLE}",
            "extract": SUMMARY,
            "revisions": [{"revid": 1, "parentid": 0}],
        }
        return JSONResponse({"query": {"pages": {"1": page}}})

    return Starlette(routes=[Route("/w/api.php", api)])


def search() -> Starlette:
    """DuckDuckGo's page without scripts, with one result."""

    async def found(request: Request) -> Response:
        link = f"https://en.wikipedia.org/wiki/{TITLE}"
        return HTMLResponse(
            f'<div class="result results_links_deep"><div class="links_main result__body"><h2 class="result__title">'
            f'<a class="result__a" href="{link}">{TITLE}</a></h2><a class="result__snippet" href="{link}">{SUMMARY}</a>'
            "</div></div>"
        )

    return Starlette(routes=[Route("/{path:path}", found, methods=["GET", "POST"])])


def accepting() -> Starlette:
    """A service that takes traces and wants no more: LangSmith, Phoenix."""

    async def taken(request: Request) -> Response:
        await request.body()
        if "protobuf" in request.headers.get("content-type", ""):
            return Response(media_type="application/x-protobuf")
        return JSONResponse({})

    return Starlette(routes=[Route("/{path:path}", taken, methods=["GET", "POST", "PATCH"])])


def weights_and_biases() -> Starlette:
    """The API that says who one is: everybody is one user, and has every project."""

    async def query(request: Request) -> Response:
        asked = await request.json()
        name = (asked.get("variables") or {}).get("name", "project")
        viewer = {"username": "somebody", "defaultEntity": {"name": "somebody"}}
        return JSONResponse({"data": {"viewer": viewer, "project": {"name": name}}})

    return Starlette(routes=[Route("/graphql", query, methods=["POST"])])


def traces() -> Starlette:
    """Weave's server of traces: takes objects, tables, files and calls, and names each by the digest of what it is."""

    async def info(request: Request) -> Response:
        return JSONResponse({"min_required_weave_python_version": "0.0.1", "trace_server_version": "999.0.0"})

    async def thing(request: Request) -> Response:
        return JSONResponse({"digest": _digest((await request.json())["obj"]["val"])})

    async def table(request: Request) -> Response:
        rows = (await request.json())["table"]["rows"]
        return JSONResponse({"digest": _digest(rows), "row_digests": [_digest(row) for row in rows]})

    async def file(request: Request) -> Response:
        kind = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        parts = message_from_bytes(kind + await request.body()).get_payload()
        content = next(p for p in parts if p.get_param("name", header="content-disposition") == "file")
        return JSONResponse({"digest": _digest(content.get_payload())})

    async def calls(request: Request) -> Response:
        print("CALLS", request.url.path, (await request.body())[:200])
        return JSONResponse({"res": []})

    return Starlette(
        routes=[
            Route("/server_info", info),
            Route("/obj/create", thing, methods=["POST"]),
            Route("/table/create", table, methods=["POST"]),
            Route("/file/create", file, methods=["POST"]),
            Route("/{path:path}", calls, methods=["POST"]),
        ]
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:43]
