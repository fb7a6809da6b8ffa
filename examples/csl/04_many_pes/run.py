import argparse
import json
from pathlib import Path

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="out")
arguments = parser.parse_args()

params = json.loads(Path(arguments.name, "out.json").read_text())["params"]
width, height, N = int(params["width"]), int(params["height"]), 6

runner = SdkRuntime(arguments.name)
runner.load()
runner.run()
how = {
    "streaming": False,
    "data_type": MemcpyDataType.MEMCPY_32BIT,
    "order": MemcpyOrder.ROW_MAJOR,
    "nonblock": False,
}
blocks = np.arange(height * width * N, dtype=np.float32).reshape(height, width, N)
runner.memcpy_h2d(runner.get_id("block"), blocks.ravel(), 0, 0, width, height, N, **how)
runner.launch("main", nonblock=False)
sums = np.zeros(height * width, np.float32)
runner.memcpy_d2h(sums, runner.get_id("sum"), 0, 0, width, height, 1, **how)
runner.stop()

sums = sums.reshape(height, width)
np.testing.assert_array_equal(sums, blocks.sum(axis=2))
print(sums)
