"""Front doors for existing programs: the commands `cslc` and `cs_python`, and, inside the latter, the import names of the SDK.

The modules under `sdk/` stand on the path only while `cs_python` runs a script, so that nothing shadows a real installation.
"""

from openwafer.compat._cs_python import cs_python
from openwafer.compat._cslc import cslc

__all__ = ["cs_python", "cslc"]
