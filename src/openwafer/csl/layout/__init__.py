"""Layout blocks: the rectangle, the program of every tile, its routes, and what the host may use."""

from openwafer.csl.layout._identity import identity
from openwafer.csl.layout._merge import merge_routes
from openwafer.csl.layout._params import parse_params
from openwafer.csl.layout._streams import memcpy_streams
from openwafer.csl.layout._tiles import ProgramKey, group_tiles

__all__ = ["ProgramKey", "group_tiles", "identity", "memcpy_streams", "merge_routes", "parse_params"]
