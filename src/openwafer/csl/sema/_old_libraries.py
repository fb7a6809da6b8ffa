"""Libraries of SDK 0.x that later versions renamed or dropped, and what programs use instead since 1.0."""

from __future__ import annotations

OLD_LIBRARIES: dict[str, str] = {
    "<memcpy_multi/memcpy>": (
        "import <memcpy/memcpy> with the params that get_params(x) of <memcpy/get_params> gives, export functions with "
        "@export_symbol, and let the host call launch"
    ),
    "<memcpy_multi/get_params>": "import <memcpy/get_params> with width and height",
}
"""By the name in @import_module: what to write."""
