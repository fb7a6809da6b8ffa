"""How close the simulator's cycles come to the published ones: our own programs, the published rows, their comparison.

`ROWS` is the table, `read_rows` reads one of your own; `measure_row` runs a row on a timing table, `validate` many,
`show_results`, `results_json` and `results_picture` show them.
"""

from openwafer.kernels.validate._bench import Bench
from openwafer.kernels.validate._compare import Result, Summary, summarise, validate
from openwafer.kernels.validate._measures import MEASURES, measure_row
from openwafer.kernels.validate._picture import results_picture
from openwafer.kernels.validate._published import BOUNDS, ROWS, Bound, Row
from openwafer.kernels.validate._rows_file import read_rows
from openwafer.kernels.validate._show import results_json, show_results

__all__ = [
    "BOUNDS",
    "MEASURES",
    "ROWS",
    "Bench",
    "Bound",
    "Result",
    "Row",
    "Summary",
    "measure_row",
    "read_rows",
    "results_json",
    "results_picture",
    "show_results",
    "summarise",
    "validate",
]
