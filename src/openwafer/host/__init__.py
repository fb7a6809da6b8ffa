"""The host's side: run compiled programs (SdkRuntime), lay programs out in Python (SdkLayout), look at them afterwards."""

from openwafer.host._artifacts import SdkCompileArtifacts, write_artifacts
from openwafer.host._debug import debug_util
from openwafer.host._driver import Task
from openwafer.host._geometry import IntRectangle, IntVector
from openwafer.host._layout import FP16TYPE, SdkLayout
from openwafer.host._options import MemcpyDataType, MemcpyOrder
from openwafer.host._platform import (
    SdkExecutionPlatform,
    SdkTarget,
    SimfabConfig,
    get_platform,
    get_simulator,
    get_system,
)
from openwafer.host._region import CodeRegion, Color, PortHandle
from openwafer.host._routing import Edge, EdgeRouteInfo, Route, RoutingPosition, get_edge_routing
from openwafer.host._runtime import SdkRuntime
from openwafer.host._sdk_utils import (
    calculate_cycles,
    float_to_hex,
    input_array_to_u32,
    make_u48,
    memcpy_view,
    sub_ts,
)

__all__ = [
    "FP16TYPE",
    "CodeRegion",
    "Color",
    "Edge",
    "EdgeRouteInfo",
    "IntRectangle",
    "IntVector",
    "MemcpyDataType",
    "MemcpyOrder",
    "PortHandle",
    "Route",
    "RoutingPosition",
    "SdkCompileArtifacts",
    "SdkExecutionPlatform",
    "SdkLayout",
    "SdkRuntime",
    "SdkTarget",
    "SimfabConfig",
    "Task",
    "calculate_cycles",
    "debug_util",
    "float_to_hex",
    "get_edge_routing",
    "get_platform",
    "get_simulator",
    "get_system",
    "input_array_to_u32",
    "make_u48",
    "memcpy_view",
    "sub_ts",
    "write_artifacts",
]
