"""Layout blocks: the rectangle, the program of every tile, its routes, and what the host may use."""

from openwafer.csl.layout._evaluate import Layout, evaluate_layout
from openwafer.csl.layout._image import Checked, check_layout, make_image
from openwafer.csl.layout._params import parse_params
from openwafer.csl.layout._programs import PeProgram, Programs, make_program, make_programs

__all__ = [
    "Checked",
    "Layout",
    "PeProgram",
    "Programs",
    "check_layout",
    "evaluate_layout",
    "make_image",
    "make_program",
    "make_programs",
    "parse_params",
]
