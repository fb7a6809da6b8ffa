"""The HTTP interface that existing clients of inference services speak; knows text and requests, and no tensor."""

from openwafer.serve.api._app import make_app
from openwafer.serve.api._engine import AnswerLike, EngineLike
from openwafer.serve.api._openapi import openapi_document
from openwafer.serve.api._settings import KEYS_VARIABLE, Settings, load_keys

__all__ = [
    "KEYS_VARIABLE",
    "AnswerLike",
    "EngineLike",
    "Settings",
    "load_keys",
    "make_app",
    "openapi_document",
]
