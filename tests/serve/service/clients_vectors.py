"""What finds texts for a question: a shelf of vectors, Pinecone's REST interface to one, and Ollama's embeddings."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

INDEX_HOST = "sums.svc.pinecone.io"


class Shelf:
    """Vectors with what belongs to them, by id; found by the cosine of their angle."""

    def __init__(self) -> None:
        self._vectors: dict[str, np.ndarray[Any, Any]] = {}
        self._values: dict[str, Any] = {}

    def put(self, name: str, vector: Any, value: Any) -> None:
        self._vectors[name] = np.asarray(vector, np.float32)
        self._values[name] = value

    def near(self, vector: Any, count: int) -> list[tuple[str, float, Any]]:
        """The ids of the nearest, with their cosine and value, the nearest first."""
        asked = np.asarray(vector, np.float32)
        scores = {
            name: float(asked @ held / max(np.linalg.norm(asked) * np.linalg.norm(held), 1e-12))
            for name, held in self._vectors.items()
        }
        best = sorted(scores, key=lambda name: -scores[name])[:count]
        return [(name, scores[name], self._values[name]) for name in best]


def embed(text: str, size: int = 768) -> list[float]:
    """How often each word occurs: texts with the same words point the same way."""
    vector = np.zeros(size, np.float32)
    for word in re.findall(r"\w+", text.lower()):
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % size] += 1
    return [float(x) for x in vector]


def ollama() -> Starlette:
    """Embeddings of whatever model is named, of 768 numbers as nomic-embed-text has them."""

    async def embeddings(request: Request) -> Response:
        asked = await request.json()
        return JSONResponse({"embedding": embed(asked["prompt"])})

    return Starlette(routes=[Route("/api/embeddings", embeddings, methods=["POST"])])


class Pinecone:
    """The control plane and one data plane, for all indexes."""

    def __init__(self) -> None:
        self._indexes: dict[str, Any] = {}
        self._shelf = Shelf()

    def control(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/indexes", self._list),
                Route("/indexes", self._create, methods=["POST"]),
                Route("/indexes/{name}", self._describe),
            ]
        )

    def data(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/vectors/upsert", self._upsert, methods=["POST"]),
                Route("/query", self._query, methods=["POST"]),
            ]
        )

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"indexes": list(self._indexes.values())})

    async def _create(self, request: Request) -> Response:
        asked = await request.json()
        self._indexes[asked["name"]] = asked | {
            "host": INDEX_HOST,
            "status": {"ready": True, "state": "Ready"},
            "vector_type": "dense",
        }
        return JSONResponse(self._indexes[asked["name"]], 201)

    async def _describe(self, request: Request) -> Response:
        index = self._indexes.get(request.path_params["name"])
        return JSONResponse(index or {"error": {"code": "NOT_FOUND"}}, 200 if index else 404)

    async def _upsert(self, request: Request) -> Response:
        vectors = (await request.json())["vectors"]
        for vector in vectors:
            self._shelf.put(vector["id"], vector["values"], vector.get("metadata", {}))
        return JSONResponse({"upsertedCount": len(vectors)})

    async def _query(self, request: Request) -> Response:
        asked = await request.json()
        matches = [
            {"id": name, "score": score, "values": [], "metadata": value}
            for name, score, value in self._shelf.near(asked["vector"], asked["topK"])
        ]
        return JSONResponse({"matches": matches, "namespace": asked.get("namespace", "")})
