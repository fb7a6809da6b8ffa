import argparse
import json
from pathlib import Path

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="out")
arguments = parser.parse_args()

columns = int(json.loads(Path(arguments.name, "out.json").read_text())["params"]["columns"])

runner = SdkRuntime(arguments.name)
runner.load()
runner.run()
runner.launch("main", nonblock=False)
words = np.zeros(columns * 4, np.uint32)
runner.memcpy_d2h(
    words,
    runner.get_id("y"),
    0,
    0,
    columns,
    1,
    4,
    streaming=False,
    data_type=MemcpyDataType.MEMCPY_16BIT,
    order=MemcpyOrder.ROW_MAJOR,
    nonblock=False,
)
runner.stop()

y = words.astype(np.uint16).reshape(columns, 4)
np.testing.assert_array_equal(y, 10 * np.arange(columns)[:, None] + np.arange(4) ** 2)
print(y)
