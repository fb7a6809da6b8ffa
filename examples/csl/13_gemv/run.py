import argparse
import json
from pathlib import Path

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="out")
arguments = parser.parse_args()

params = json.loads(Path(arguments.name, "out.json").read_text())["params"]
width, height = int(params["width"]), int(params["height"])
M, N = 16, 12

random = np.random.default_rng(1)
A = random.normal(size=(height * M, width * N)).astype(np.float32)
x = random.normal(size=width * N).astype(np.float32)

runner = SdkRuntime(arguments.name)
runner.load()
runner.run()
how = {
    "streaming": False,
    "data_type": MemcpyDataType.MEMCPY_32BIT,
    "order": MemcpyOrder.ROW_MAJOR,
    "nonblock": False,
}
# PE (column, row) gets the block of A at that place, by columns.
blocks = A.reshape(height, M, width, N).transpose(0, 2, 3, 1)
runner.memcpy_h2d(runner.get_id("A"), blocks.ravel(), 0, 0, width, height, M * N, **how)
runner.memcpy_h2d(runner.get_id("x"), x, 0, 0, width, 1, N, **how)
runner.launch("main", nonblock=False)
y = np.zeros(height * M, np.float32)
runner.memcpy_d2h(y, runner.get_id("y"), width - 1, 0, 1, height, M, **how)
runner.stop()

np.testing.assert_allclose(y, A @ x, rtol=1e-4, atol=1e-4)
print(f"y has {y.size} values, the largest error is below 1e-4")
