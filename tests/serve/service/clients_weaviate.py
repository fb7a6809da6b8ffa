"""A Weaviate cluster as its public client speaks to it: collections over REST, objects and searches over gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from clients_vectors import Shelf  # type: ignore[import-not-found]
from google.protobuf import descriptor_pool, message_factory, struct_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

VERSION = "1.30.0"
"""What it says it is: later ones take objects by a stream."""

_SETTINGS = {
    "invertedIndexConfig": {
        "bm25": {"b": 0.75, "k1": 1.2},
        "cleanupIntervalSeconds": 60,
        "stopwords": {"preset": "en", "additions": None, "removals": None},
    },
    "multiTenancyConfig": {"enabled": False},
    "replicationConfig": {"factor": 1},
    "shardingConfig": {
        "virtualPerPhysical": 128,
        "desiredCount": 1,
        "actualCount": 1,
        "desiredVirtualCount": 128,
        "actualVirtualCount": 128,
        "key": "_id",
        "strategy": "hash",
        "function": "murmur3",
    },
    "vectorizer": "none",
    "vectorIndexType": "flat",
    "vectorIndexConfig": {"distance": "cosine", "vectorCacheMaxObjects": 0},
}
"""Of a collection, where its maker named none: the client wants to read them all."""
_PROPERTY = {"indexFilterable": True, "indexSearchable": True, "tokenization": "word"}
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Vectors": {"vector_bytes": (3, "bytes")},
    "ObjectProperties": {"non_ref_properties": (1, "google.protobuf.Struct")},
    "Object": {
        "uuid": (1, "string"),
        "properties": (3, "ObjectProperties"),
        "collection": (4, "string"),
        "vector_bytes": (6, "bytes"),
        "vectors": (23, "*Vectors"),
    },
    "Objects": {"objects": (1, "*Object")},
    "Put": {"took": (1, "float")},
    "Hybrid": {"vector_bytes": (6, "bytes"), "vectors": (21, "*Vectors")},
    "Query": {"collection": (1, "string"), "limit": (30, "uint32"), "hybrid_search": (41, "Hybrid")},
    "Value": {"text_value": (13, "string")},
    "Property": {"key": (1, "string"), "value": (2, "Value")},
    "Properties": {"fields": (1, "*Property")},
    "ResultProperties": {"non_ref_props": (11, "Properties")},
    "Metadata": {"id": (1, "string"), "score": (11, "float"), "score_present": (12, "bool")},
    "Result": {"properties": (1, "ResultProperties"), "metadata": (2, "Metadata")},
    "Results": {"took": (1, "float"), "results": (2, "*Result")},
}
"""Those of the public messages' fields that are read or written here, by number; * stands before what is repeated."""


def _classes() -> dict[str, Any]:
    """The classes of these messages."""
    file = FileDescriptorProto(name="sums.proto", package="sums", syntax="proto3")
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    for name, fields in _FIELDS.items():
        message: DescriptorProto = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            bare = kind.removeprefix("*")
            added = message.field.add(name=field, number=number)
            added.label = (
                FieldDescriptorProto.LABEL_REPEATED if bare != kind else FieldDescriptorProto.LABEL_OPTIONAL
            )
            if bare in _FIELDS or "." in bare:
                added.type = FieldDescriptorProto.TYPE_MESSAGE
                added.type_name = f".{bare}" if "." in bare else f".sums.{bare}"
            else:
                added.type = FieldDescriptorProto.Type.Value(f"TYPE_{bare.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"sums.{name}")) for name in _FIELDS
    }


MESSAGES = _classes()


class Weaviate:
    """Collections of texts, which a search finds by the vector alone."""

    def __init__(self) -> None:
        self._collections: dict[str, Any] = {}
        self._shelves: dict[str, Shelf] = {}

    def rest(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/meta", self._meta),
                Route("/v1/nodes", self._nodes),
                Route("/v1/schema", self._list),
                Route("/v1/schema", self._create, methods=["POST"]),
                Route("/v1/schema/{name}", self._describe),
            ]
        )

    def methods(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What gRPC asks, and its own question whether a server is there: yes is field 1, SERVING."""
        own = {
            "BatchObjects": _method(self._put, "Objects"),
            "Search": _method(self._search, "Query"),
        }
        health = {"Check": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")}
        return (
            grpc.method_handlers_generic_handler("weaviate.v1.Weaviate", own),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )

    async def _meta(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION, "hostname": "http://[::]:8080", "modules": {}})

    async def _nodes(self, request: Request) -> Response:
        statistics = {"queueLength": 0, "ratePerSecond": 1}
        return JSONResponse(
            {"nodes": [{"name": "one", "status": "HEALTHY", "version": VERSION, "batchStats": statistics}]}
        )

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"classes": list(self._collections.values())})

    async def _create(self, request: Request) -> Response:
        asked = await request.json()
        name = asked["class"][:1].upper() + asked["class"][1:]
        properties = [_PROPERTY | each for each in asked.get("properties", [])]
        self._collections[name] = _SETTINGS | asked | {"class": name, "properties": properties}
        return JSONResponse(self._collections[name])

    async def _describe(self, request: Request) -> Response:
        found = self._collections.get(request.path_params["name"])
        return JSONResponse(found or {"error": [{"message": "no such class"}]}, 200 if found else 404)

    def _put(self, asked: Any, context: Any) -> Any:
        for thing in asked.objects:
            values = {k: v.string_value for k, v in thing.properties.non_ref_properties.fields.items()}
            self._shelves.setdefault(thing.collection, Shelf()).put(thing.uuid, _vector(thing), values)
        return MESSAGES["Put"]()

    def _search(self, asked: Any, context: Any) -> Any:
        found = MESSAGES["Results"]()
        shelf = self._shelves.get(asked.collection, Shelf())
        for name, score, values in shelf.near(_vector(asked.hybrid_search), asked.limit or 10):
            result = found.results.add()
            result.metadata.id, result.metadata.score, result.metadata.score_present = name, score, True
            for key, value in values.items():
                result.properties.non_ref_props.fields.add(key=key).value.text_value = value
        return found


def _vector(holder: Any) -> Any:
    """The one vector of a message, which clients put into one of two places."""
    return np.frombuffer(holder.vector_bytes or b"".join(v.vector_bytes for v in holder.vectors), np.float32)


def _method(answer: Any, asked: str) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=MESSAGES[asked].FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
