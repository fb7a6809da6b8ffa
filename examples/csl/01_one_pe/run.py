import argparse

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime

parser = argparse.ArgumentParser()
parser.add_argument("--name", default="out")
arguments = parser.parse_args()

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
start = np.array([1, 2, 3, 4], np.float32)
runner.memcpy_h2d(y, start, 0, 0, 1, 1, 4, **how)
runner.launch("scale", np.float32(2.5), nonblock=False)
result = np.zeros(4, np.float32)
runner.memcpy_d2h(result, y, 0, 0, 1, 1, 4, **how)
runner.stop()

np.testing.assert_array_equal(result, np.float32(2.5) * start)
print("y =", result)
