"""A gRPC service from a descriptor and an object: what the object lacks answers UNIMPLEMENTED with its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from openwafer.base import (
    CaptureError,
    CirhError,
    InputError,
    JobNotFoundError,
    PlanError,
    QueueFullError,
    RunFolderError,
    StorageError,
    WaferError,
    logger,
)
from openwafer.compat.appliance._wheel import wheel

_LOG = logger("client-protocol")
MAX_MESSAGE_BYTES = (1 << 31) - 1024
"""What the client itself allows: tensors come in pieces of 256 MiB, activations of a batch whole."""
_STATUS: tuple[tuple[type[WaferError], str], ...] = (
    (JobNotFoundError, "NOT_FOUND"),
    (RunFolderError, "FAILED_PRECONDITION"),
    (InputError, "INVALID_ARGUMENT"),
    (QueueFullError, "RESOURCE_EXHAUSTED"),
    (StorageError, "RESOURCE_EXHAUSTED"),
    # The client shows the text of INTERNAL to its user as a compile error.
    (CirhError, "INTERNAL"),
    (CaptureError, "INTERNAL"),
    (PlanError, "INTERNAL"),
)


class CallError(WaferError):
    """A call that is refused with a status of its own. Never UNKNOWN or UNAVAILABLE, which the client tries again."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


def snake(name: str) -> str:
    """`UnaryGetCMDStateIds` -> `unary_get_cmd_state_ids`, `PollIngressV2` -> `poll_ingress_v2`."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+\d*|V\d+|[A-Z]+(?![a-z])\d*", name)
    return "_".join(words).lower()


def _anybody(context: Any) -> None:
    """Admits every caller; who may do what is then asked by each call."""


def generic_handler(service: Any, served: object, admit: Callable[[Any], None] = _anybody) -> Any:
    """Every method of a service: the method of `served` of the same name in snake case, or a refusal.

    A method gets the request (or the stream of them) and the context, and returns the response (or yields them). admit: is
    asked first, with the context, and raises for a caller whom nothing is answered.
    """
    grpc, class_of = wheel().grpc, wheel().message_factory.GetMessageClass

    handlers = {}
    for method in service.methods:
        make = getattr(
            grpc,
            f"{'stream' if method.client_streaming else 'unary'}_"
            f"{'stream' if method.server_streaming else 'unary'}_rpc_method_handler",
        )
        answer = getattr(served, snake(method.name), None)
        if answer is None:
            behaviour: Callable[..., Any] = partial(_refuse, f"{service.full_name}/{method.name}")
        elif method.server_streaming:
            behaviour = partial(_stream, method.name, answer, admit)
        else:
            behaviour = partial(_single, method.name, answer, admit)
        handlers[method.name] = make(
            behaviour,
            request_deserializer=class_of(method.input_type).FromString,
            response_serializer=class_of(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def served_methods(service: Any, served: object) -> tuple[list[str], list[str]]:
    """The names of a service's methods that `served` answers, and of those that it does not."""
    names = [method.name for method in service.methods]
    there = [name for name in names if hasattr(served, snake(name))]
    return there, [name for name in names if name not in there]


def _refuse(name: str, _request: object, context: Any) -> None:
    context.abort(
        wheel().grpc.StatusCode.UNIMPLEMENTED,
        f"{name} is not served by this appliance; docs/client.md lists what is",
    )


def _single(
    name: str, answer: Callable[..., Any], admit: Callable[[Any], None], request: Any, context: Any
) -> Any:
    try:
        admit(context)
        return answer(request, context)
    except Exception as error:
        _abort(name, error, context)


def _stream(
    name: str, answer: Callable[..., Any], admit: Callable[[Any], None], request: Any, context: Any
) -> Any:
    try:
        admit(context)
        yield from answer(request, context)
    except Exception as error:
        _abort(name, error, context)


def _abort(name: str, error: Exception, context: Any) -> None:
    codes = wheel().grpc.StatusCode
    if isinstance(error, CallError):
        context.abort(getattr(codes, error.status), str(error))
    for kind, status in _STATUS:
        if isinstance(error, kind):
            context.abort(getattr(codes, status), str(error))
    if isinstance(error, WaferError):
        context.abort(codes.ABORTED, str(error))
    if not context.is_active():
        return  # the caller has gone; that is why
    _LOG.exception("a call failed unexpectedly", call=name)
    context.abort(codes.INTERNAL, f"{name} failed: {error!r}; this is a bug of openwafer, please report it")
