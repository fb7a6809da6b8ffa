"""Found first inside cs_python; packages of the same name that are really installed stay reachable below it."""

import logging
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

logger = logging.getLogger("cerebras.appliance")
"""Programs import it and set how much it tells; here nothing writes to it."""
