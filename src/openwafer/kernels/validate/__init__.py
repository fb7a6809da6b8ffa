"""How close the simulator's cycles come to the published ones: our own programs, the published rows, their comparison.

`ROWS` is the table, `measure_row` runs one of them on a timing table, `validate` all of them, `show_results` prints.
"""

from openwafer.kernels.validate._bench import Bench
from openwafer.kernels.validate._compare import Result, Summary, summarise, validate
from openwafer.kernels.validate._measures import measure_row
from openwafer.kernels.validate._published import BOUNDS, ROWS, Bound, Row
from openwafer.kernels.validate._show import results_json, show_results

__all__ = [
    "BOUNDS",
    "ROWS",
    "Bench",
    "Bound",
    "Result",
    "Row",
    "Summary",
    "measure_row",
    "results_json",
    "show_results",
    "summarise",
    "validate",
]
