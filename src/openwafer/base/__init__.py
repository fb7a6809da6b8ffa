"""Errors, units and logs; imports nothing of ours."""

from openwafer.base.errors import (
    CaptureError,
    CheckpointError,
    CslError,
    FabricError,
    InputError,
    NumericsError,
    PlanError,
    RoleError,
    RoleLost,
    RunFolderError,
    StalledError,
    StallError,
    StorageError,
    WaferError,
)
from openwafer.base.logs import configure_logs, logger
from openwafer.base.units import GIB, KIB, MIB, PAGE_BYTES, TIB, format_bytes, parse_bytes, round_up

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "PAGE_BYTES",
    "TIB",
    "CaptureError",
    "CheckpointError",
    "CslError",
    "FabricError",
    "InputError",
    "NumericsError",
    "PlanError",
    "RoleError",
    "RoleLost",
    "RunFolderError",
    "StallError",
    "StalledError",
    "StorageError",
    "WaferError",
    "configure_logs",
    "format_bytes",
    "logger",
    "parse_bytes",
    "round_up",
]
