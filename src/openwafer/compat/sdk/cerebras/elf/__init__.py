"""The host library of SDK 0.x, which version 1.0 removed: importing it says so."""

from openwafer.base import InputError

raise InputError(
    "cerebras.elf with its CSELFRunner is the host library of SDK 0.x, which version 1.0 removed; write the program for "
    "SdkRuntime of cerebras.sdk.runtime.sdkruntimepybind: copies with memcpy_h2d and memcpy_d2h, functions with launch"
)
