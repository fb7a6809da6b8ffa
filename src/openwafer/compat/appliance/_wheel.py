"""The vendor's message classes, from the installed `cerebras_appliance` wheel; nothing of it is part of this package."""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import cache
from typing import Any, NamedTuple

from openwafer.base import InputError

_ROOT = "cerebras.appliance.pb"
_MODULES = {
    "appliance": "framework.appliance_service_pb2",
    "cluster": "workflow.appliance.cluster_mgmt.cluster_pb2",
    "csctl": "workflow.appliance.cluster_mgmt.csctl.api_pb2",
    "resources": "workflow.appliance.cluster_mgmt.csctl.v1.resources_pb2",
    "generic": "workflow.appliance.cluster_mgmt.csctl.v1.generic_pb2",
    "config": "workflow.appliance.common.common_config_pb2",
    "queue": "workflow.appliance.common.message_queue_pb2",
    "status": "ws.common_pb2",
    "rtfx": "ws.rtfx_pb2",
}


class Wheel(NamedTuple):
    """Modules of message classes, and gRPC itself. Untyped: their classes are made at run time from descriptors."""

    grpc: Any
    appliance: Any
    cluster: Any
    csctl: Any
    resources: Any
    generic: Any
    config: Any
    queue: Any
    status: Any
    rtfx: Any
    message_factory: Any
    json_format: Any
    version: str
    build: str
    """Which build of the version; the client compares it with its own."""


@cache
def wheel() -> Wheel:
    """The installed classes. Raises InputError if they, or gRPC, are not installed."""
    try:
        modules = {key: importlib.import_module(f"{_ROOT}.{name}") for key, name in _MODULES.items()}
        for key in ("message_factory", "json_format"):
            modules[key] = importlib.import_module(f"google.protobuf.{key}")
        grpc = importlib.import_module("grpc")
        version = importlib.metadata.version("cerebras_appliance")
        build = str(getattr(importlib.import_module("cerebras.appliance._version"), "__githash__", ""))
    except ImportError as error:
        raise InputError(
            f"the training client's protocol needs a package that is not installed ({error}); install it with "
            "`pip install grpcio protobuf` and `pip install --no-deps cerebras_appliance==2.10.0`"
        ) from error
    return Wheel(grpc=grpc, version=version, build=build, **modules)
