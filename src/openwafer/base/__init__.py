"""Errors, units and logs; imports nothing of ours."""

from openwafer.base.errors import (
    CaptureError,
    CheckpointError,
    CslError,
    InputError,
    NumericsError,
    PlanError,
    RoleError,
    RoleLost,
    RunFolderError,
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
    "InputError",
    "NumericsError",
    "PlanError",
    "RoleError",
    "RoleLost",
    "RunFolderError",
    "StallError",
    "StorageError",
    "WaferError",
    "configure_logs",
    "format_bytes",
    "logger",
    "parse_bytes",
    "round_up",
]
