import argparse
import json
from pathlib import Path

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="out")
arguments = parser.parse_args()

columns = int(json.loads(Path(arguments.name, "out.json").read_text())["params"]["columns"])
N = 8

runner = SdkRuntime(arguments.name)
runner.load()
runner.run()
how = {
    "streaming": False,
    "data_type": MemcpyDataType.MEMCPY_32BIT,
    "order": MemcpyOrder.ROW_MAJOR,
    "nonblock": False,
}
y = runner.get_id("y")
start = np.repeat(np.arange(columns, dtype=np.float32), N) + 1
runner.memcpy_h2d(y, start, 0, 0, columns, 1, N, **how)
runner.launch("main", nonblock=False)
result = np.zeros(columns * N, np.float32)
runner.memcpy_d2h(result, y, 0, 0, columns, 1, N, **how)
runner.stop()

expected = start.reshape(columns, N)
expected[1:] += expected[0]
np.testing.assert_array_equal(result.reshape(columns, N), expected)
print(result.reshape(columns, N)[:, 0])
