"""Front doors for existing programs: the commands `cslc` and `cs_python`, and, inside the latter, the import names of the SDK.

The modules under `sdk/` stand on the path only while `cs_python` runs a script, so that nothing shadows a real installation.
"""

from openwafer.compat._cs_python import cs_python
from openwafer.compat._cslc import compile_folder, cslc
from openwafer.compat._flags import parse_flags

__all__ = ["compile_folder", "cs_python", "cslc", "parse_flags"]
